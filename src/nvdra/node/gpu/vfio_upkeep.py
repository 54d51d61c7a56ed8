"""Upkeep of passed-through GPUs: one without a driver, or left bound by a claim that is gone, is given back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nvdra import telemetry
from nvdra.checkpoint import Checkpoint
from nvdra.gpu import BindVfio, Inventory
from nvdra.gpu.extents import held_extents
from nvdra.host import DriverRoot, look_at_slot
from nvdra.node.checkpoint_writer import Change, CheckpointError
from nvdra.node.context import ClaimContext
from nvdra.node.gpu.actors.vfio import VfioActor
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.ports import Clock, Host, LockError

EVERY_S = 600.0
GIVE_BACK_TIMEOUT_S = 60.0

# Stands for a claim where locks want one.
_SELF = "vfio-upkeep"


class VfioUpkeep:
    """What is done for such GPUs beside serving claims.

    A GPU that is bound to vfio-pci and that no claim of this node has bound is the administrator's, and stays.
    is_checkpoint_lost   the checkpoint was lost and its claims are not settled: any GPU may be one of theirs
    """

    def __init__(
        self,
        host: Host,
        clock: Clock,
        root: DriverRoot,
        context: ClaimContext,
        actor: VfioActor,
        inventory: Callable[[], Inventory],
        *,
        is_checkpoint_lost: Callable[[], bool],
    ) -> None:
        self._host = host
        self._clock = clock
        self._root = root
        self._context = context
        self._actor = actor
        self._inventory = inventory
        self._is_checkpoint_lost = is_checkpoint_lost

    async def run(self) -> None:
        """Look from time to time."""
        while True:
            await self._clock.sleep(EVERY_S)
            await self.clean_up()

    async def clean_up(self) -> frozenset[str]:
        """Give back every GPU that no claim accounts for; return those that could not be, whose journals must stay."""
        left: set[str] = set()
        if self._is_checkpoint_lost():
            return frozenset(self._inventory().pci_gpus)
        for address in self._inventory().pci_gpus:
            step = BindVfio("", address)
            try:
                if await self._context.checkpoint_writer.submit(partial(self._take, step)):
                    telemetry.warning("Giving back a GPU that no claim accounts for", address=address)
                    async with self._clock.deadline(GIVE_BACK_TIMEOUT_S), self._context.runner.turns(step.resources):
                        await self._actor.roll_back(step, StepJournal(self._context.locks, _SELF, step))
            except (StepFailed, CheckpointError, LockError, TimeoutError) as error:
                left.add(address)
                telemetry.warning("A GPU could not be given back yet", address=address, cause=str(error))
            finally:
                self._context.locks.give_back(_SELF, is_done=True)
        return frozenset(left)

    def _take(self, step: BindVfio, checkpoint: Checkpoint) -> Change[bool]:
        """The GPU's lock, if nothing accounts for the GPU and it is not as it should be."""
        inventory, locks = self._inventory(), self._context.locks
        for entry in checkpoint.entries.values():
            if any(extent.gpu == step.address for extent in held_extents(entry, inventory)):
                return Change(False)
        slot = look_at_slot(self._host, self._root, step.address)
        if slot is None or not locks.try_take(_SELF, step.resources):
            return Change(False)
        before = locks.left_by_others(step, checkpoint.entries)
        if before is not None:
            locks.touch(_SELF, step, before)
            return Change(True)
        is_driverless = not slot.gpu.driver and self._host.exists(f"{self._root.sysfs}/bus/pci/drivers/nvidia")
        return Change(is_driverless)
