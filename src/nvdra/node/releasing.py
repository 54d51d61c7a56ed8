"""Letting go of one claim on this node: decided in the ledger, hardware given back outside of its locks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from nvdra import claims, telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Entry, Record
from nvdra.devices import Inventory
from nvdra.node.executor import Executor, StepFailed
from nvdra.node.gpu_locks import Busy, GpuLocks
from nvdra.node.ledger import Change, Ledger
from nvdra.node.site import ClaimFiles, Site
from nvdra.ports import LockError

Released = claims.NotPrepared | claims.Leave | claims.Refuse

_ROUNDS = 8


class Releasing:
    """Takes claims back. Who calls is the claim's one owner."""

    def __init__(
        self,
        site: Site,
        files: ClaimFiles,
        ledger: Ledger,
        locks: GpuLocks,
        executor: Executor,
        inventory: Callable[[], Inventory],
        rescan: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._site = site
        self._files = files
        self._ledger = ledger
        self._locks = locks
        self._executor = executor
        self._inventory = inventory
        self._rescan = rescan

    async def release(self, ref: ClaimRef, only: Entry | None = None) -> Released:
        """Nothing of the claim is left on this node, or why not. Raises LedgerError.

        only   let go of the claim only if this is still what the record says of it
        """
        looked = False
        try:
            for _ in range(_ROUNDS):
                match await self._ledger.submit(partial(self._decide, ref, only)):
                    case Busy(gpus):
                        await self._locks.wait(gpus)
                    case claims.Refuse(rescan=True) if not looked:
                        looked = True
                        await self._rescan()
                    case claims.Undo() as undo:
                        return _noted(ref, await self._undo(ref, undo))
                    case answer:
                        return _noted(ref, answer)
        except LockError as error:
            return claims.Refuse(str(error))
        finally:
            self._locks.give_back(ref.uid, is_done=False)
        return claims.Refuse("its GPUs are never free for long enough; kubelet will ask again")

    def _decide(self, ref: ClaimRef, only: Entry | None, record: Record) -> Change[claims.Release | Busy]:
        entry = record.entries.get(ref.uid)
        if only is not None and entry != only:
            return Change(claims.NotPrepared())
        release = claims.unprepare(ref, self._inventory(), record, self._site.gates)
        path = self._files.path(ref.uid)
        match release:
            case claims.Leave():
                return Change(release, entries={ref.uid: None}, remove=(path,))
            case claims.NotPrepared() if self._files.exists(ref.uid):
                # An orphan: the claim is let go of, so nobody may take it up again from its file.
                return Change(release, remove=(path,))
            case claims.Undo(steps, started, shared):
                gpus = frozenset(step.gpu.uuid for step in steps)
                if not self._locks.try_take(ref.uid, gpus):
                    return Change(Busy(gpus))
                if entry is not None and entry.state == "PrepareCompleted":
                    # What is completed is ours whole: from here on a death leaves it to be taken away.
                    self._locks.begin(ref.uid, gpus)
                    for step in (step for step in (*steps, *shared) if step.gpu.uuid in gpus):
                        self._locks.touch(ref.uid, step.gpu.uuid, (step.profile_id, step.start))
                return Change(release, entries={ref.uid: started})
            case _:
                return Change(release)

    async def _undo(self, ref: ClaimRef, undo: claims.Undo) -> Released:
        try:
            await self._executor.undo(ref.uid, undo.steps)
        except StepFailed as failed:
            return claims.Refuse(f"unprepare devices failed for claim {ref}: {failed}")
        await self._ledger.submit(lambda _: Change(None, entries={ref.uid: None}, remove=(self._files.path(ref.uid),)))
        self._locks.give_back(ref.uid, is_done=True)
        return claims.Leave(undo.notes)


def _noted(ref: ClaimRef, released: Released) -> Released:
    for note in released.notes if isinstance(released, claims.Leave) else ():
        telemetry.warning(note, claim=str(ref))
    return released
