"""Time slices set and reset through `nvidia-smi`, only where they change.

Only `nvidia-smi` reads time slices, so the actor keeps what one `compute-policy -l` said and what it set since: one
read per start and per reload of the driver, no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nvdra import telemetry
from nvdra.claims import Facts
from nvdra.gpu import Gpu, Inventory
from nvdra.gpu.steps import SetTimeSlice
from nvdra.host import DriverFileMissing, NvidiaSmi, NvidiaSmiError
from nvdra.node.steps import StepFailed, StepJournal

_PREVIOUS = "interval"
_DEFAULT = 0


class TimeSliceActor:
    """Applies and rolls back `SetTimeSlice`.

    smi        the driver root's `nvidia-smi`; raises DriverFileMissing
    inventory  as last scanned: it knows each GPU's index
    """

    def __init__(self, smi: Callable[[], NvidiaSmi], inventory: Callable[[], Inventory]) -> None:
        self._smi = smi
        self._inventory = inventory
        self._intervals: dict[str, int | None] | None = None  # by PCI address; None: not known
        self._reading = asyncio.Lock()

    def forget(self) -> None:
        """The driver was loaded again: every time slice may be another one."""
        self._intervals = None

    async def apply(self, step: SetTimeSlice, journal: StepJournal) -> Facts:
        """No facts. Raises StepFailed."""
        gpu, address = step.gpu, step.gpu.pci_bus_id
        try:
            known = await self._read_intervals()
            now = known.get(address)
            journal.touch(journal.first_previous or (None if now is None else {_PREVIOUS: now}))
            if now == step.interval:
                return {}
            known[address] = None  # until it is known to be set
            # DROP-IN: the Go driver sets the compute mode first.
            await self._set_default_mode(gpu)
            await self._smi().set_time_slice(gpu.uuid, step.interval)
        except (NvidiaSmiError, DriverFileMissing) as error:
            raise StepFailed(
                f"error applying config: error setting timeslice config for {step.wanted_by}: {error}"
            ) from error
        known[address] = step.interval
        telemetry.info(1, "Set time slice", device=gpu.name, uuid=gpu.uuid, interval=step.interval)
        return {}

    async def roll_back(self, step: SetTimeSlice, journal: StepJournal) -> None:
        """Restore the time slice from before the step; the default where that is not known. Raises StepFailed."""
        if not journal.is_touched:
            return
        gpu, address = step.gpu, step.gpu.pci_bus_id
        before = journal.previous.get(_PREVIOUS, _DEFAULT)
        interval = before if isinstance(before, int) and 0 <= before <= 3 else _DEFAULT
        try:
            known = await self._read_intervals()
            if known.get(address) == interval:
                return
            known[address] = None
            await self._smi().set_time_slice(gpu.uuid, interval)
        except NvidiaSmiError as error:
            if not error.is_not_supported:
                raise StepFailed(f"error resetting the time slice of {gpu.name} ({gpu.uuid}): {error}") from error
            # It never had one: a claim must not be kept by it.
            telemetry.info(1, "A GPU has no time slices to reset", device=gpu.name, uuid=gpu.uuid)
        except DriverFileMissing as error:
            raise StepFailed(f"error resetting the time slice of {gpu.name} ({gpu.uuid}): {error}") from error
        else:
            telemetry.info(1, "Reset time slice", device=gpu.name, uuid=gpu.uuid, interval=interval)
        known[address] = interval

    async def _set_default_mode(self, gpu: Gpu) -> None:
        try:
            await self._smi().set_compute_mode(gpu.uuid, "DEFAULT")
        except NvidiaSmiError as error:
            if not error.is_not_supported:
                raise

    async def _read_intervals(self) -> dict[str, int | None]:
        """Intervals by PCI address. Raises DriverFileMissing."""
        async with self._reading:
            if self._intervals is None:
                try:
                    by_index = await self._smi().read_time_slices()
                except NvidiaSmiError as error:
                    # Then each is set once more than needed, and reset to the default.
                    telemetry.warning("Time slices cannot be read", cause=str(error))
                    by_index = {}
                gpus = self._inventory().gpus.items()
                self._intervals = {address: by_index.get(gpu.index) for address, gpu in gpus}
            return self._intervals
