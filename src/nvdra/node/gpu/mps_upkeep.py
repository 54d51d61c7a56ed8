"""Upkeep of MPS daemons: one that no claim needs is ended, one that a prepared claim lost is started again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nvdra import claims, telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint
from nvdra.gpu import Inventory
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.mps import StartMpsDaemon
from nvdra.gpu.sharing import is_wanted_daemon
from nvdra.node.checkpoint_writer import Change, CheckpointError
from nvdra.node.context import ClaimContext
from nvdra.node.gpu.actors.mps import MpsActor
from nvdra.node.steps import StepFailed
from nvdra.ports import ApiError, Clock, LockError

EVERY_S = 600.0
START_TIMEOUT_S = 60.0

# Stands for a claim where locks want one.
_SELF = "mps-upkeep"


class MpsUpkeep:
    """What is done for daemons beside serving claims.

    is_checkpoint_lost   the checkpoint was lost and its claims are not settled: any daemon may be one of theirs
    """

    def __init__(
        self,
        clock: Clock,
        context: ClaimContext,
        driver: GpuDriver,
        actor: MpsActor,
        inventory: Callable[[], Inventory],
        *,
        is_checkpoint_lost: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._context = context
        self._driver = driver
        self._actor = actor
        self._inventory = inventory
        self._is_checkpoint_lost = is_checkpoint_lost

    async def run(self) -> None:
        """Look at once and from time to time."""
        while True:
            await self.clean_up()
            await self._clock.sleep(EVERY_S)

    async def clean_up(self) -> None:
        """End daemons that no claim needs, and start those again that prepared claims have lost."""
        try:
            # Folders first: one that is seen here was begun by an entry that was written before.
            found = self._actor.daemons()
            checkpoint = await self._context.checkpoint_writer.submit(Change)
        except (CheckpointError, OSError) as error:
            telemetry.warning("MPS daemons are looked at later", cause=str(error))
            return
        if not self._is_checkpoint_lost():
            for daemon in found:
                if not is_wanted_daemon(daemon, checkpoint):
                    await self._end(daemon)
        for uid, step in self._prepared(checkpoint):
            await self._start_again(uid, step)

    async def _end(self, daemon: str) -> None:
        telemetry.warning("Ending an MPS control daemon that no claim needs", daemon=daemon)
        try:
            await self._actor.stop(daemon)
        except StepFailed as error:
            telemetry.warning("An MPS control daemon could not be ended yet", daemon=daemon, cause=str(error))

    def _prepared(self, checkpoint: Checkpoint) -> list[tuple[str, StartMpsDaemon]]:
        """Daemons of completed claims, each once, with the settings that their configs ask for."""
        found: dict[str, tuple[str, StartMpsDaemon]] = {}
        for uid, entry in checkpoint.entries.items():
            if entry.state != "PrepareCompleted":
                continue
            ref = ClaimRef(entry.namespace, entry.name, uid)
            try:
                steps = self._driver.daemons_of_entry(ref, entry, self._inventory())
            except Exception as error:  # one odd entry costs its own daemon, not the plugin
                telemetry.warning(
                    "Could not read the MPS daemons of a prepared claim", claim=str(ref), cause=repr(error)
                )
                continue
            for step in steps:
                found.setdefault(step.id, (uid, step))
        return list(found.values())

    async def _start_again(self, uid: str, step: StartMpsDaemon) -> None:
        try:
            if await self._actor.is_deployed(step.id) or not await self._context.checkpoint_writer.submit(
                partial(self._take, uid, step)
            ):
                return
            telemetry.warning("Starting the MPS control daemon of a prepared claim again", daemon=step.id, uid=uid)
            async with self._clock.deadline(START_TIMEOUT_S):
                await self._context.runner.apply(_SELF, [step], [step])
        except (StepFailed, ApiError, CheckpointError, LockError, TimeoutError) as error:
            telemetry.warning("An MPS control daemon is not there yet", daemon=step.id, uid=uid, cause=str(error))
        finally:
            self._context.locks.give_back(_SELF, is_done=True)

    def _take(self, uid: str, step: StartMpsDaemon, checkpoint: Checkpoint) -> Change[bool]:
        """The locks of its devices, if its claim is still prepared and nobody works on it."""
        entry = checkpoint.entries.get(uid)
        is_needed = entry is not None and entry.state == "PrepareCompleted" and claims.answers(entry)
        return Change(bool(is_needed) and self._context.locks.try_take(_SELF, step.resources))
