"""Upkeep of GPUs that are partitioned on demand: the lease on NVML, and what was left on them before.

A partition that no claim speaks of is somebody else's and stays, unless the node was told otherwise; MIG mode that is
on with nothing to show for it is turned off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from nvdra import telemetry
from nvdra.checkpoint import Record
from nvdra.gpu import Gpu, Inventory, Partitions
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.steps import LeaveMigMode
from nvdra.node.context import ClaimContext
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.ledger import Change, LedgerError
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.nvml import DriverAbsent, DriverChanged, Nvml, NvmlHung
from nvdra.ports import Clock, LockError

AGAIN_S = 30.0
EVERY_S = 600.0

# Stands for a claim where the locks of GPUs want one.
_SELF = "upkeep"


class MigUpkeep:
    """What is done for such GPUs beside serving claims.

    is_record_lost    the record was lost and its claims are not settled: any partition may be one of theirs
    destroy_unknown   destroy partitions that no claim speaks of when the program starts, as the Go driver does
    """

    def __init__(
        self,
        nvml: Nvml,
        clock: Clock,
        context: ClaimContext,
        actor: MigActor,
        inventory: Callable[[], Inventory],
        *,
        is_record_lost: Callable[[], bool],
        destroy_unknown: bool,
    ) -> None:
        self._nvml = nvml
        self._clock = clock
        self._ledger = context.ledger
        self._locks = context.locks
        self._runner = context.runner
        self._actor = actor
        self._inventory = inventory
        self._is_record_lost = is_record_lost
        self._destroy_unknown = destroy_unknown

    async def hold(self) -> None:
        """Keep NVML open for ever: looking a GPU up anew for every partition may take seconds under load."""
        while True:
            try:
                async with self._nvml.hold("partitions on demand (gate DynamicMIG)"):
                    await asyncio.Event().wait()
            except (DriverAbsent, DriverChanged, NvmlHung):
                await self._clock.sleep(AGAIN_S)  # whoever scans says what is wrong

    async def run(self) -> None:
        """From time to time turn MIG mode off where it is on and nothing is there, whoever left it so."""
        while True:
            await self._clock.sleep(EVERY_S)
            for gpu in self._gpus():
                if (now := self._partitions(gpu)).is_on and not now.instances:
                    await self._put_right(gpu, self._turn_off)

    async def tidy(self) -> None:
        """Once, after the first look at the GPUs: put right what no claim accounts for."""
        for gpu in self._gpus():
            await self._put_right(gpu, self._tidy)

    def _gpus(self) -> list[Gpu]:
        return [gpu for gpu in self._inventory().gpus.values() if gpu.partitioning is not None]

    def _partitions(self, gpu: Gpu) -> Partitions:
        return self._inventory().partitions.get(gpu.pci_bus_id, Partitions())

    async def _put_right(self, gpu: Gpu, how: Callable[[Gpu, Record], Awaitable[None]]) -> None:
        try:
            # Else another instance works on it, and puts it right itself.
            if (record := await self._ledger.submit(partial(self._take, gpu))) is not None:
                await how(gpu, record)
        except (StepFailed, LedgerError, LockError) as error:
            telemetry.warning("A leftover on a GPU could not be put right", device=gpu.name, cause=str(error))
        finally:
            self._locks.give_back(_SELF, is_done=True)

    def _take(self, gpu: Gpu, record: Record) -> Change[Record | None]:
        if not self._locks.try_take(_SELF, (gpu.pci_bus_id,)):
            return Change(None)
        begun = {uid for uid, entry in record.entries.items() if entry.state == "PrepareStarted"}
        self._locks.forget_others(gpu.pci_bus_id, begun, record.entries.keys() - begun)
        return Change(record)

    async def _tidy(self, gpu: Gpu, record: Record) -> None:
        unknown = [p for p in unmanaged_partitions(self._inventory(), record) if p.gpu == gpu]
        if unknown and self._destroy_unknown and self._is_record_lost():
            telemetry.warning(
                "Partitions that no claim speaks of stay until the next start: the record was lost, and some may be of "
                "its claims",
                partitions=[str(partition) for partition in unknown],
            )
        elif self._destroy_unknown:
            for partition in unknown:
                telemetry.warning("Destroying a partition that no claim speaks of", partition=str(partition))
                async with self._runner.turns((gpu.pci_bus_id,)):
                    await self._actor.destroy(partition, self._journal(gpu))
        await self._turn_off(gpu, record)

    async def _turn_off(self, gpu: Gpu, _record: Record) -> None:
        if self._partitions(gpu).is_on:
            async with self._runner.turns((gpu.pci_bus_id,)):
                await self._actor.leave_empty_mode(gpu, self._journal(gpu))

    def _journal(self, gpu: Gpu) -> StepJournal:
        return StepJournal(self._locks, _SELF, LeaveMigMode(gpu))
