"""Discovery: what this node offers, looked at again when something hints that it changed.

The hints open no NVML: every ten seconds files are compared that change when a driver is installed or loaded, a GPU is
added or lost, or somebody partitions one. Only a difference, an unknown device in a claim or the start leads to a scan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

from nvdra import telemetry
from nvdra.devices import Inventory, PciFacts, from_scan
from nvdra.nvml import DriverAbsent, Nvml, NvmlHung
from nvdra.ports import Clock

LOOK_EVERY_S = 10.0
# A GPU that refused may answer after a reset, which leaves no trace in the files compared.
REFUSED_AGAIN_S = 300.0
# Nor does a driver that comes up only now, or a call into it that hung and returned.
UNREAD_AGAIN_S = 30.0


class Discovery:
    """The inventory and its renewal.

    hints    a value that differs once the node may have changed; reads files only
    pci      facts of every NVIDIA PCI function by bus id
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
    ) -> None:
        self._nvml = nvml
        self._clock = clock
        self._hints = hints
        self._pci = pci
        self._changed = changed
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

    def _is_overdue(self) -> bool:
        age_s = self._clock.now() - self._looked_s
        if self.inventory.unread:
            return age_s >= UNREAD_AGAIN_S
        return bool(self.inventory.not_offered) and age_s >= REFUSED_AGAIN_S

    async def _look(self) -> Hashable:
        try:
            return await asyncio.to_thread(self._hints)
        except OSError as error:
            # Files that come and go while a driver is being replaced: they differ from all that was seen.
            return str(error)

    async def _scan(self) -> None:
        self._looked_s = self._clock.now()
        seen = await self._look()
        try:
            found = from_scan(await self._nvml.scan(), await asyncio.to_thread(self._pci))
        except (DriverAbsent, NvmlHung, OSError) as error:
            if str(error) != self.inventory.unread:
                telemetry.warning("GPUs cannot be read now; looking again when the driver changes", cause=str(error))
            # What was offered stays offered: without the driver no claim of it can be prepared, and says why.
            found = replace(self.inventory, unread=str(error))
        else:
            for left in found.not_offered:
                telemetry.warning("A GPU is not offered", device=left.device, reason=left.reason)
        self._seen = seen
        self.inventory = found
        self._changed(found)
