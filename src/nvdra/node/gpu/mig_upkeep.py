"""Upkeep of GPUs that are partitioned on demand: the lease on NVML, and what was left on them before.

A partition that no claim speaks of is somebody else's and stays, unless the node was told otherwise; MIG mode that is
on with nothing to show for it is turned off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from nvdra import telemetry
from nvdra.checkpoint import Checkpoint
from nvdra.gpu import Gpu, Inventory, Partitions
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.steps import LeaveMigMode
from nvdra.node.checkpoint_writer import Change, CheckpointError
from nvdra.node.context import ClaimContext
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.nvml import DriverAbsent, DriverChanged, Nvml, NvmlHung
from nvdra.ports import Clock, LockError

RETRY_S = 30.0
EVERY_S = 600.0

# Stands for a claim where the locks of GPUs want one.
_SELF = "upkeep"


class MigUpkeep:
    """What is done for such GPUs beside serving claims.

    is_checkpoint_lost    the checkpoint was lost and its claims are not settled: any partition may be one of theirs
    destroy_unmanaged   destroy partitions that no claim speaks of when the program starts, as the Go driver does
    """

    def __init__(
        self,
        nvml: Nvml,
        clock: Clock,
        context: ClaimContext,
        actor: MigActor,
        inventory: Callable[[], Inventory],
        *,
        is_checkpoint_lost: Callable[[], bool],
        destroy_unmanaged: bool,
    ) -> None:
        self._nvml = nvml
        self._clock = clock
        self._checkpoint_writer = context.checkpoint_writer
        self._locks = context.locks
        self._runner = context.runner
        self._actor = actor
        self._inventory = inventory
        self._is_checkpoint_lost = is_checkpoint_lost
        self._destroy_unmanaged = destroy_unmanaged

    async def hold(self) -> None:
        """Keep NVML open for ever: looking a GPU up anew for every partition may take seconds under load."""
        while True:
            try:
                async with self._nvml.hold("partitions on demand (gate DynamicMIG)"):
                    await asyncio.Event().wait()
            except (DriverAbsent, DriverChanged, NvmlHung):
                await self._clock.sleep(RETRY_S)  # whoever scans says what is wrong

    async def run(self) -> None:
        """From time to time turn MIG mode off where it is on and nothing is there, whoever left it so."""
        while True:
            await self._clock.sleep(EVERY_S)
            for gpu in self._gpus():
                if (now := self._partitions(gpu)).is_on and not now.instances:
                    await self._put_right(gpu, self._turn_off)

    async def clean_up(self) -> None:
        """Once, after the first look at the GPUs: put right what no claim accounts for."""
        for gpu in self._gpus():
            await self._put_right(gpu, self._clean_up)

    def _gpus(self) -> list[Gpu]:
        return [gpu for gpu in self._inventory().gpus.values() if gpu.partitioning is not None]

    def _partitions(self, gpu: Gpu) -> Partitions:
        return self._inventory().partitions.get(gpu.pci_bus_id, Partitions())

    async def _put_right(self, gpu: Gpu, how: Callable[[Gpu, Checkpoint], Awaitable[None]]) -> None:
        try:
            # Else another instance works on it, and puts it right itself.
            if (checkpoint := await self._checkpoint_writer.submit(partial(self._take, gpu))) is not None:
                await how(gpu, checkpoint)
        except (StepFailed, CheckpointError, LockError) as error:
            telemetry.warning("A leftover on a GPU could not be put right", device=gpu.name, cause=str(error))
        finally:
            self._locks.give_back(_SELF, is_done=True)

    def _take(self, gpu: Gpu, checkpoint: Checkpoint) -> Change[Checkpoint | None]:
        if not self._locks.try_take(_SELF, (gpu.pci_bus_id,)):
            return Change(None)
        begun = {uid for uid, entry in checkpoint.entries.items() if entry.state == "PrepareStarted"}
        self._locks.forget_others(gpu.pci_bus_id, begun, checkpoint.entries.keys() - begun)
        return Change(checkpoint)

    async def _clean_up(self, gpu: Gpu, checkpoint: Checkpoint) -> None:
        unmanaged = [p for p in unmanaged_partitions(self._inventory(), checkpoint) if p.gpu == gpu]
        if unmanaged and self._destroy_unmanaged and self._is_checkpoint_lost():
            telemetry.warning(
                "Partitions that no claim speaks of stay until the next start: the checkpoint was lost, and some may "
                "be of its claims",
                partitions=[str(partition) for partition in unmanaged],
            )
        elif self._destroy_unmanaged:
            for partition in unmanaged:
                telemetry.warning("Destroying a partition that no claim speaks of", partition=str(partition))
                async with self._runner.turns((gpu.pci_bus_id,)):
                    await self._actor.destroy(partition, self._journal(gpu))
        await self._turn_off(gpu, checkpoint)

    async def _turn_off(self, gpu: Gpu, _checkpoint: Checkpoint) -> None:
        if self._partitions(gpu).is_on:
            async with self._runner.turns((gpu.pci_bus_id,)):
                await self._actor.leave_empty_mode(gpu, self._journal(gpu))

    def _journal(self, gpu: Gpu) -> StepJournal:
        return StepJournal(self._locks, _SELF, LeaveMigMode(gpu))
