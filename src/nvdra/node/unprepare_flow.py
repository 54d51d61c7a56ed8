"""Unprepares one claim: the checkpoint writer decides, and the steps are rolled back outside its locks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nvdra import claims, telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.node.checkpoint_writer import Change
from nvdra.node.context import ClaimContext
from nvdra.node.locks import Busy
from nvdra.node.steps import StepFailed
from nvdra.ports import LockError

Released = claims.NotPrepared | claims.Forget | claims.Refuse

_ROUNDS = 8


class UnprepareFlow:
    """Unprepares claims. The caller is the claim's one owner.

    now   seconds since 1970
    """

    def __init__(self, context: ClaimContext, now: Callable[[], float]) -> None:
        self._context = context
        self._now = now

    async def unprepare(self, ref: ClaimRef, only: Entry | None = None, *, is_given_up: bool = False) -> Released:
        """The outcome: nothing of the claim is left on this node, or why it was refused. Raises CheckpointError.

        only          unprepare the claim only if this is still its entry
        is_given_up   kubelet or the API server no longer wants the claim; else a prepare of it may follow
        """
        has_rescanned = False
        try:
            for _ in range(_ROUNDS):
                match await self._context.checkpoint_writer.submit(partial(self._decide, ref, only, is_given_up)):
                    case Busy(resources):
                        await self._context.locks.wait(resources)
                    case claims.Refuse(rescan=True) if not has_rescanned:
                        has_rescanned = True
                        await self._context.rescan()
                    case claims.TearDownFirst(teardown):
                        if (released := await self._tear_down(ref, teardown, is_given_up)) is not None:
                            return _noted(ref, released)
                        self._context.end_work(ref.uid, is_done=False)
                    case answer:
                        return _noted(ref, answer)
        except LockError as error:
            return claims.Refuse(str(error))
        finally:
            self._context.end_work(ref.uid, is_done=False)
        return claims.Refuse("device state kept changing during unprepare; kubelet will retry")

    def _given_up_at(self, is_given_up: bool) -> float | None:
        return self._now() if is_given_up else None

    def _decide(
        self, ref: ClaimRef, only: Entry | None, is_given_up: bool, checkpoint: Checkpoint
    ) -> Change[claims.Release | Busy]:
        entry = checkpoint.entries.get(ref.uid)
        if only is not None and entry != only:
            return Change(claims.NotPrepared())
        given_up_at = self._given_up_at(is_given_up)
        release = claims.unprepare(self._context.driver, ref, self._context.node(), checkpoint, given_up_at)
        match release:
            case claims.Forget(remains=remains):
                return Change(release, entries={ref.uid: remains}, remove=self._context.files_of(ref))
            case claims.NotPrepared():
                # Files are orphans. They are removed so that a lost checkpoint cannot be restored from them.
                return Change(release, remove=self._context.files_of(ref))
            case claims.TearDownFirst(teardown, started):
                locks, resources = self._context.locks, claims.resources(teardown.steps)
                if not locks.try_take(ref.uid, resources):
                    return Change(Busy(resources))
                self._context.work.begin(ref.uid)
                if entry is not None and entry.state == "PrepareCompleted":
                    # All steps of a completed entry have had effects: after a crash all of them must be rolled back.
                    for step in (*teardown.steps, *teardown.shared):
                        if step.resources <= resources:
                            locks.touch(ref.uid, step)
                discard = partial(self._context.end_work, ref.uid, is_done=False)
                return Change(release, entries={ref.uid: started}, discard=discard)
            case _:
                return Change(release)

    async def _tear_down(self, ref: ClaimRef, teardown: claims.Teardown, is_given_up: bool) -> Released | None:
        """Roll the steps back, then remove the entry. None: a claim that shared a step left meanwhile, so repeat."""
        try:
            await self._context.runner.roll_back(ref.uid, teardown.steps)
        except StepFailed as failed:
            return claims.Refuse(f"unprepare devices failed for claim {ref}: {failed}")
        departure = await self._context.checkpoint_writer.submit(
            partial(self._decide_departure, ref, teardown, is_given_up)
        )
        if departure is not None:
            self._context.end_work(ref.uid, is_done=True)
        return departure

    def _decide_departure(
        self, ref: ClaimRef, teardown: claims.Teardown, is_given_up: bool, checkpoint: Checkpoint
    ) -> Change[claims.Forget | None]:
        entry = checkpoint.entries.get(ref.uid)
        if not self._context.still_need(teardown.shared, ref.uid, checkpoint):
            return Change(None)
        given_up_at = self._given_up_at(is_given_up)
        remains = None if entry is None else claims.remains(self._context.driver, ref, entry, given_up_at)
        forget = claims.Forget(teardown.notes, remains=remains)
        return Change(forget, entries={ref.uid: remains}, remove=self._context.files_of(ref))


def _noted(ref: ClaimRef, released: Released) -> Released:
    for note in released.notes if isinstance(released, claims.Forget) else ():
        telemetry.warning(note, claim=str(ref))
    return released
