"""Unpreparing one claim: decided in the checkpoint writer, steps rolled back outside of its locks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nvdra import claims, telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Entry, Record
from nvdra.node.context import ClaimContext
from nvdra.node.ledger import Change
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
        """Nothing of the claim is left on this node, or why not. Raises LedgerError.

        only          unprepare the claim only if this is still its entry
        is_given_up   kubelet or the API server wants it no more; else a prepare of it may follow
        """
        has_rescanned = False
        try:
            for _ in range(_ROUNDS):
                match await self._context.ledger.submit(partial(self._decide, ref, only, is_given_up)):
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
        return claims.Refuse("its devices are never free for long enough; kubelet will ask again")

    def _given_up_at(self, is_given_up: bool) -> float | None:
        return self._now() if is_given_up else None

    def _decide(
        self, ref: ClaimRef, only: Entry | None, is_given_up: bool, record: Record
    ) -> Change[claims.Release | Busy]:
        entry = record.entries.get(ref.uid)
        if only is not None and entry != only:
            return Change(claims.NotPrepared())
        given_up_at = self._given_up_at(is_given_up)
        release = claims.unprepare(self._context.driver, ref, self._context.node(), record, given_up_at)
        path = self._context.files.path(ref.uid)
        match release:
            case claims.Forget(remains=remains):
                return Change(release, entries={ref.uid: remains}, remove=(path,))
            case claims.NotPrepared() if self._context.files.exists(ref.uid):
                # An orphan: the claim is unprepared, so nobody may adopt it from its file.
                return Change(release, remove=(path,))
            case claims.TearDownFirst(teardown, started):
                locks, resources = self._context.locks, claims.resources(teardown.steps)
                if not locks.try_take(ref.uid, resources):
                    return Change(Busy(resources))
                self._context.work.begin(ref.uid)
                if entry is not None and entry.state == "PrepareCompleted":
                    # All steps of a completed entry have had effects: from here on a crash leaves them to roll back.
                    for step in (*teardown.steps, *teardown.shared):
                        if step.resources <= resources:
                            locks.touch(ref.uid, step)
                return Change(release, entries={ref.uid: started})
            case _:
                return Change(release)

    async def _tear_down(self, ref: ClaimRef, teardown: claims.Teardown, is_given_up: bool) -> Released | None:
        """None: a claim that shared a step has left meanwhile, so there is more to roll back."""
        try:
            await self._context.runner.roll_back(ref.uid, teardown.steps)
        except StepFailed as failed:
            return claims.Refuse(f"unprepare devices failed for claim {ref}: {failed}")
        departure = await self._context.ledger.submit(partial(self._decide_departure, ref, teardown, is_given_up))
        if departure is not None:
            self._context.end_work(ref.uid, is_done=True)
        return departure

    def _decide_departure(
        self, ref: ClaimRef, teardown: claims.Teardown, is_given_up: bool, record: Record
    ) -> Change[claims.Forget | None]:
        entry = record.entries.get(ref.uid)
        if not self._context.still_need(teardown.shared, ref.uid, record):
            return Change(None)
        given_up_at = self._given_up_at(is_given_up)
        remains = None if entry is None else claims.remains(self._context.driver, ref, entry, given_up_at)
        forget = claims.Forget(teardown.notes, remains=remains)
        return Change(forget, entries={ref.uid: remains}, remove=(self._context.files.path(ref.uid),))


def _noted(ref: ClaimRef, released: Released) -> Released:
    for note in released.notes if isinstance(released, claims.Forget) else ():
        telemetry.warning(note, claim=str(ref))
    return released
