"""Preparing one claim on this node: decided and sealed in the ledger, its steps carried out between the two.

Nothing slow is done under the ledger's locks: what a decision finds missing or in the way is seen to outside of them,
and then it is decided anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from nvdra import cdi, claims, telemetry
from nvdra.api import Claim, ClaimRef
from nvdra.checkpoint import Entry, PreparedDevice, Record
from nvdra.devices import MigDevice, parent
from nvdra.node.cdi_files import REWRITTEN, CdiFiles
from nvdra.node.executor import StepFailed, destruction
from nvdra.node.gpu_locks import Busy
from nvdra.node.ledger import Change
from nvdra.node.means import Means
from nvdra.node.releasing import Releasing
from nvdra.node.supply import Supply, SupplyError
from nvdra.ports import LockError

# Decisions of one prepare: what stands in the way undone or waited for, a rescan, a look-up of files, and the last one.
_ROUNDS = 12

Answers = tuple[PreparedDevice, ...]


@dataclass(frozen=True, slots=True)
class _Unsupplied:
    """A CDI file must be written, and the driver's files for it are not at hand."""

    devices: tuple[claims.Concrete, ...]


_Decision = Answers | claims.Refuse | claims.Needs | claims.UndoFirst | claims.Await | Busy | _Unsupplied


class Preparing:
    """Prepares claims. Who calls is the claim's one owner.

    take_back   lets go of another claim's entry that nobody works on; why it could not be, or ""
    """

    def __init__(
        self,
        means: Means,
        supply: Supply,
        unsettled: Callable[[], Mapping[str, str]],
        releasing: Releasing,
        take_back: Callable[[ClaimRef, Entry], Awaitable[str]],
    ) -> None:
        self._means = means
        self._supply = supply
        self._cdi_files = CdiFiles(means.files, supply, means.inventory)
        self._unsettled = unsettled
        self._releasing = releasing
        self._take_back = take_back

    async def prepare(self, claim: Claim) -> Answers | claims.Refuse:
        """Its devices, or why not. Raises LedgerError."""
        try:
            return await self._settle(claim.ref.uid, partial(self._decide, claim))
        finally:
            self._means.locks.give_back(claim.ref.uid, is_done=True)

    def is_prepared(self, uid: str) -> bool:
        """The record said so when it was last seen."""
        record = self._means.ledger.remembered
        entry = record.entries.get(uid) if record is not None else None
        return entry is not None and entry.state == "PrepareCompleted"

    def again(self, claim: Claim) -> Answers | None:
        """The devices of a claim that is prepared as `claim` says; None if anything else is to be done about it."""
        record = self._means.ledger.known()
        if record is None:
            return None
        has_file = self._cdi_files.is_whole(claim.ref.uid, record)
        known = claims.again(claim, self._means.inventory(), record, has_file=has_file)
        return known.answers if isinstance(known, claims.Done) else None

    async def recall(self, ref: ClaimRef, otherwise: str) -> Answers | claims.Refuse:
        """What the record alone answers, else a refusal with the text `otherwise`. Raises LedgerError."""
        return await self._settle(ref.uid, partial(self._decide_recall, ref, otherwise))

    async def _settle(self, uid: str, decide: Callable[[Record], Change[_Decision]]) -> Answers | claims.Refuse:
        """Decide in the ledger; what it takes first is done outside of its locks, then it is decided again."""
        looked = False
        for _ in range(_ROUNDS):
            try:
                match decision := await self._means.ledger.submit(decide):
                    case claims.Refuse() if decision.rescan and not looked:
                        looked = True
                        await self._means.rescan()
                    case _Unsupplied(devices):
                        await self._supply.refresh(devices)
                    case claims.UndoFirst(ref, entry):
                        if failure := await self._undo_first(uid, ref, entry):
                            return claims.Refuse(failure)
                    case claims.Await(other):
                        await self._means.locks.until_done(other)
                    case Busy(gpus):
                        await self._means.locks.wait(gpus)
                    case claims.Needs():
                        return await self._carry_out(decision)
                    case _:
                        return decision
            except (SupplyError, LockError) as error:
                return claims.Refuse(str(error))
        return claims.Refuse("what it needs changes faster than it can be looked up; kubelet will ask again")

    async def _undo_first(self, uid: str, ref: ClaimRef, entry: Entry) -> str:
        telemetry.info(1, "An entry stands in the way and is undone first", claim=str(ref), state=entry.state)
        if ref.uid != uid:
            return await self._take_back(ref, entry)
        released = await self._releasing.release(ref, entry)
        return released.reason if isinstance(released, claims.Refuse) else ""

    def _decide(self, claim: Claim, record: Record) -> Change[_Decision]:
        uid = claim.ref.uid
        plan = claims.plan(
            claim,
            self._means.inventory(),
            record,
            self._means.site.gates,
            pool=self._means.site.pool,
            has_file=self._cdi_files.is_whole(uid, record),
            unsettled=self._unsettled(),
            in_work=self._means.locks.claims,
        )
        match plan:
            case claims.Done(answers):
                return Change(answers)
            case claims.Refuse() | claims.UndoFirst() | claims.Await():
                return Change(plan)
            case claims.Repair(sealed):
                return self._repair(claim.ref, sealed)
            case claims.Ready():
                sealed = claims.seal(plan)
                return self._with_file(uid, sealed, entries={uid: sealed.entry})
            case claims.Needs():
                return self._begin(plan)
            case _:
                assert_never(plan)

    def _begin(self, needs: claims.Needs) -> Change[_Decision]:
        uid = needs.claim.ref.uid
        parents = {parent(device).uuid: parent(device) for group in needs.groups for _, device in group.members}
        if not self._supply.is_at_hand(parents.values()):
            return Change(_Unsupplied(tuple(parents.values())))
        if not self._means.locks.try_take(uid, needs.gpus):
            return Change(Busy(needs.gpus))
        changed = {step.gpu.uuid for step in needs.steps if isinstance(step, claims.CreateMig)}
        self._means.locks.begin(uid, changed)
        for device in needs.shared.values():
            if device.parent.uuid in changed:
                # Whoever has it besides may let go of it meanwhile: then it is this claim's alone, to be undone too.
                self._means.locks.touch(uid, device.parent.uuid, (device.profile.profile_id, device.start))
        return Change(needs, entries={uid: needs.started})

    def _decide_recall(self, ref: ClaimRef, otherwise: str, record: Record) -> Change[_Decision]:
        match claims.recall(ref, self._means.inventory(), record, has_file=self._cdi_files.is_whole(ref.uid, record)):
            case claims.Done(answers):
                return Change(answers)
            case claims.Repair(sealed):
                return self._repair(ref, sealed)
            case claims.Refuse() as refuse:
                return Change(refuse)
            case None:
                return Change(claims.Refuse(otherwise))

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _carry_out(self, needs: claims.Needs) -> Answers | claims.Refuse:
        """The steps, then the seal; where either fails, the steps are undone and the entry leaves the record."""
        uid = needs.claim.ref.uid
        is_undone = False
        try:
            try:
                created = await self._means.executor.make(uid, needs.steps)
            except StepFailed as failed:
                is_undone = failed.is_undone
                return claims.Refuse(f"prepare devices failed: {failed}")
            try:
                answer = await self._seal(needs, created)
            except BaseException:
                is_undone = await self._undo(uid, created)
                raise
            if isinstance(answer, claims.Refuse):
                is_undone = await self._undo(uid, created)
            else:
                self._means.locks.give_back(uid, is_done=True)
            return answer
        finally:
            if is_undone:
                is_undone = await self._means.ledger.submit(partial(_decide_withdrawal, needs))
            self._means.locks.give_back(uid, is_done=is_undone)

    async def _undo(self, uid: str, created: Mapping[str, MigDevice]) -> bool:
        try:
            await self._means.executor.undo(uid, [destruction(device) for device in created.values()])
        except StepFailed as failed:
            telemetry.warning("What was made for a claim could not be taken back yet", uid=uid, cause=str(failed))
            return False
        return True

    async def _seal(self, needs: claims.Needs, created: Mapping[str, MigDevice]) -> Answers | claims.Refuse:
        sealed = claims.seal(claims.complete(needs, created))
        return await self._settle(needs.claim.ref.uid, partial(self._decide_seal, needs.claim.ref, sealed))

    def _decide_seal(self, ref: ClaimRef, sealed: claims.Sealed, record: Record) -> Change[_Decision]:
        begun = record.entries.get(ref.uid)
        if begun is None or begun.state != "PrepareStarted":
            return Change(
                claims.Refuse(
                    f"another program changed the record's entry of claim {ref} meanwhile; kubelet will ask again"
                )
            )
        return self._with_file(ref.uid, sealed, entries={ref.uid: sealed.entry})

    # ── files ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _repair(self, ref: ClaimRef, sealed: claims.Sealed) -> Change[_Decision]:
        change = self._with_file(ref.uid, sealed, entries={})
        if change.write:
            telemetry.warning(REWRITTEN, claim=str(ref))
        return change

    def _with_file(self, uid: str, sealed: claims.Sealed, entries: Mapping[str, Entry]) -> Change[_Decision]:
        needed = tuple(sealed.cdi_devices.values())
        if not self._supply.is_at_hand(needed):
            return Change(_Unsupplied(needed))
        try:
            content = self._cdi_files.content(sealed.cdi_devices)
        except SupplyError as error:
            return Change(claims.Refuse(str(error)))
        except cdi.InvalidDocument as error:
            return Change(claims.Refuse(f"unable to create CDI spec file for claim: {error}"))
        return Change(sealed.answers, entries=entries, write={self._means.files.path(uid): content})


def _decide_withdrawal(needs: claims.Needs, record: Record) -> Change[bool]:
    """The entry that was only begun leaves. Not if a partition it was to share is its alone by now: that goes first."""
    uid = needs.claim.ref.uid
    entry = record.entries.get(uid)
    if entry is None or entry.state != "PrepareStarted":
        return Change(True)
    kept = {name for other, entry in record.entries.items() if other != uid for name in claims.names(entry)}
    if not needs.shared.keys() <= kept:
        return Change(False)
    return Change(True, entries={uid: None})
