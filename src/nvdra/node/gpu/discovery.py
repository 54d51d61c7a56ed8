"""Discovery: what this node offers, looked at again when something hints that it changed.

The hints open no NVML: every ten seconds files are compared that change when a driver is installed or loaded, a GPU is
added or lost, or somebody partitions one. Only a difference, an unknown device in a claim or the start leads to a scan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

from nvdra import telemetry
from nvdra.gpu import (
    Inventory,
    Partitions,
    Passthrough,
    PciFacts,
    StuckMode,
    from_scan,
    with_twins,
)
from nvdra.nvml import DriverAbsent, Nvml, NvmlError, NvmlHung
from nvdra.ports import Clock

LOOK_EVERY_S = 10.0
# A GPU that refused may answer after a reset, which leaves no trace in the files compared.
REFUSED_RETRY_S = 300.0
# Nor does a driver that comes up only now, or a call into it that hung and returned.
UNREAD_RETRY_S = 30.0


class Discovery:
    """The inventory and its renewal.

    dynamic_mig    GPUs are partitioned on demand: how they are is read again at every look, whoever did it
    never_toggles  take every GPU for one whose MIG mode cannot be changed without a reset
    hints    a value that differs once the node may have changed; reads files only
    pci      facts of every NVIDIA PCI function by bus id
    stuck    changes of MIG mode that GPUs refused in this boot, by PCI address
    passthrough   what virtual machines can get of these PCI functions; None: nothing (gate PassthroughSupport off)
    changed  called after each scan with the inventory, also when it says that nothing could be read

    `scan` raises what `Nvml.scan` raises as DriverChanged: only a fresh process can use the new driver.
    """

    def __init__(
        self,
        nvml: Nvml,
        clock: Clock,
        hints: Callable[[], Hashable],
        pci: Callable[[], Mapping[str, PciFacts]],
        changed: Callable[[Inventory], None],
        *,
        dynamic_mig: bool = False,
        never_toggles: bool = False,
        stuck: Callable[[], Mapping[str, StuckMode]] = dict,
        passthrough: Callable[[Mapping[str, PciFacts]], Passthrough] | None = None,
    ) -> None:
        self._nvml = nvml
        self._clock = clock
        self._hints = hints
        self._pci = pci
        self._changed = changed
        self._dynamic_mig = dynamic_mig
        self._never_toggles = never_toggles
        self._stuck = stuck
        self._passthrough = passthrough
        self._notes = 0
        self._noted: dict[str, int] = {}  # which note was the last on a GPU
        self._seen: Hashable = None
        self._scanning: asyncio.Task[None] | None = None
        self._looked_s = 0.0
        self.inventory = Inventory(unread="the first look at the GPUs is under way")

    async def scan(self) -> None:
        """Look now; who comes while a look is under way shares it."""
        if self._scanning is None or self._scanning.done():
            self._scanning = asyncio.create_task(self._scan(), name="scan")
        await asyncio.shield(self._scanning)

    async def run(self) -> None:
        """Compare the hints for ever; scan when they differ."""
        while True:
            await self._clock.sleep(LOOK_EVERY_S)
            if self._is_overdue() or await self._look() != self._seen:
                await self.scan()
            elif self._dynamic_mig and await self._reread():
                self._changed(self.inventory)

    def note(self, address: str, partitions: Partitions) -> None:
        """How a GPU is partitioned now, from who just changed it: newer than what a scan under way may bring."""
        self._notes += 1
        self._noted[address] = self._notes
        self.inventory = replace(self.inventory, partitions={**self.inventory.partitions, address: partitions})

    async def _reread(self) -> bool:
        """Look at the partitions of every GPU that is partitioned on demand; whether somebody else changed any."""
        began, has_changed = self._notes, False
        for address, gpu in list(self.inventory.gpus.items()):
            if gpu.partitioning is None:
                continue
            try:
                found = Partitions(*await self._nvml.mig(gpu.uuid))
            except (NvmlError, NvmlHung, DriverAbsent) as error:
                telemetry.info(4, "The partitions of a GPU cannot be read now", device=gpu.name, cause=str(error))
                continue
            if self._noted.get(address, 0) <= began and self.inventory.partitions.get(address) != found:
                self.note(address, found)
                has_changed = True
        return has_changed

    def _is_overdue(self) -> bool:
        age_s = self._clock.now() - self._looked_s
        if self.inventory.unread:
            return age_s >= UNREAD_RETRY_S
        return bool(self.inventory.not_published) and age_s >= REFUSED_RETRY_S

    async def _look(self) -> Hashable:
        try:
            return await asyncio.to_thread(self._hints)
        except OSError as error:
            # Files that come and go while a driver is being replaced: they differ from all that was seen.
            return str(error)

    async def _scan(self) -> None:
        self._looked_s, began = self._clock.now(), self._notes
        seen = await self._look()
        try:
            found = from_scan(
                await self._nvml.scan(profiles=self._dynamic_mig),
                await asyncio.to_thread(self._pci),
                dynamic_mig=self._dynamic_mig,
                never_toggles=self._never_toggles,
                before=self.inventory,
                stuck=self._stuck(),
            )
        except (DriverAbsent, NvmlHung, OSError) as error:
            if str(error) != self.inventory.unread:
                telemetry.warning("GPUs cannot be read now; looking again when the driver changes", cause=str(error))
            # What was offered stays offered: without the driver no claim of it can be prepared, and says why.
            found = replace(self.inventory, unread=str(error))
        else:
            for left in found.not_published:
                telemetry.warning("A GPU is not offered", device=left.device, reason=left.reason)
            for address, hidden in found.hidden.items():
                if self.inventory.hidden.get(address) != hidden:
                    telemetry.info(1, "A GPU on the PCI bus is not offered", address=address, reason=hidden.reason)
            for address, stuck in found.stuck.items():
                gpu = found.gpus[address]
                telemetry.warning("A GPU is offered only as it stands", device=gpu.name, reason=str(stuck))
        newer = {
            address: self.inventory.partitions[address]
            for address, note in self._noted.items()
            if note > began and address in found.partitions
        }
        if self._passthrough is not None:
            found = await self._with_twins(found, self._passthrough)
        self._seen = seen
        self.inventory = replace(found, partitions={**found.partitions, **newer}) if newer else found
        self._changed(self.inventory)

    async def _with_twins(
        self, found: Inventory, passthrough: Callable[[Mapping[str, PciFacts]], Passthrough]
    ) -> Inventory:
        """The inventory with devices for virtual machines; sysfs tells them, whether or not NVML can be asked."""
        try:
            pci = await asyncio.to_thread(self._pci)
            made = with_twins(found, pci, await asyncio.to_thread(passthrough, pci))
        except OSError as error:
            telemetry.warning("GPUs for virtual machines cannot be read now", cause=str(error))
            return found
        if made.no_passthrough != self.inventory.no_passthrough and made.no_passthrough:
            telemetry.warning("No GPU is offered to virtual machines", reason=made.no_passthrough)
        for left in made.not_published:
            if left not in found.not_published and left not in self.inventory.not_published:
                telemetry.warning("A GPU is not offered to virtual machines", device=left.device, reason=left.reason)
        return made
