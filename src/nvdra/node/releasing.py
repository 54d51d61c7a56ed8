"""Letting go of one claim on this node: decided in the ledger, hardware given back outside of its locks."""

from __future__ import annotations

from functools import partial

from nvdra import claims, telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Entry, Record
from nvdra.node.executor import StepFailed
from nvdra.node.gpu_locks import Busy
from nvdra.node.ledger import Change
from nvdra.node.means import Means
from nvdra.ports import LockError

Released = claims.NotPrepared | claims.Leave | claims.Refuse

_ROUNDS = 8


class Releasing:
    """Takes claims back. Who calls is the claim's one owner."""

    def __init__(self, means: Means) -> None:
        self._means = means

    async def release(self, ref: ClaimRef, only: Entry | None = None) -> Released:
        """Nothing of the claim is left on this node, or why not. Raises LedgerError.

        only   let go of the claim only if this is still what the record says of it
        """
        looked = False
        try:
            for _ in range(_ROUNDS):
                match await self._means.ledger.submit(partial(self._decide, ref, only)):
                    case Busy(gpus):
                        await self._means.locks.wait(gpus)
                    case claims.Refuse(rescan=True) if not looked:
                        looked = True
                        await self._means.rescan()
                    case claims.Undo() as undo:
                        return _noted(ref, await self._undo(ref, undo))
                    case answer:
                        return _noted(ref, answer)
        except LockError as error:
            return claims.Refuse(str(error))
        finally:
            self._means.locks.give_back(ref.uid, is_done=False)
        return claims.Refuse("its GPUs are never free for long enough; kubelet will ask again")

    def _decide(self, ref: ClaimRef, only: Entry | None, record: Record) -> Change[claims.Release | Busy]:
        entry = record.entries.get(ref.uid)
        if only is not None and entry != only:
            return Change(claims.NotPrepared())
        release = claims.unprepare(ref, self._means.inventory(), record, self._means.site.gates)
        path = self._means.files.path(ref.uid)
        match release:
            case claims.Leave():
                return Change(release, entries={ref.uid: None}, remove=(path,))
            case claims.NotPrepared() if self._means.files.exists(ref.uid):
                # An orphan: the claim is let go of, so nobody may take it up again from its file.
                return Change(release, remove=(path,))
            case claims.Undo(steps, started, shared):
                gpus = frozenset(step.gpu.uuid for step in steps)
                if not self._means.locks.try_take(ref.uid, gpus):
                    return Change(Busy(gpus))
                if entry is not None and entry.state == "PrepareCompleted":
                    # What is completed is ours whole: from here on a death leaves it to be taken away.
                    self._means.locks.begin(ref.uid, gpus)
                    for step in (step for step in (*steps, *shared) if step.gpu.uuid in gpus):
                        self._means.locks.touch(ref.uid, step.gpu.uuid, (step.profile_id, step.start))
                return Change(release, entries={ref.uid: started})
            case _:
                return Change(release)

    async def _undo(self, ref: ClaimRef, undo: claims.Undo) -> Released:
        try:
            await self._means.executor.undo(ref.uid, undo.steps)
        except StepFailed as failed:
            return claims.Refuse(f"unprepare devices failed for claim {ref}: {failed}")
        await self._means.ledger.submit(
            lambda _: Change(None, entries={ref.uid: None}, remove=(self._means.files.path(ref.uid),))
        )
        self._means.locks.give_back(ref.uid, is_done=True)
        return claims.Leave(undo.notes)


def _noted(ref: ClaimRef, released: Released) -> Released:
    for note in released.notes if isinstance(released, claims.Leave) else ():
        telemetry.warning(note, claim=str(ref))
    return released
