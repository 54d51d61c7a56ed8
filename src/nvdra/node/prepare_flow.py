"""Prepares one claim. The checkpoint writer decides and seals; the claim's steps run between the two.

Nothing slow runs under the checkpoint's locks. If a decision finds something missing or a conflict, the flow resolves
it outside the locks and submits the decision again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

from nvdra import cdi, claims, telemetry
from nvdra.api import Claim, ClaimRef
from nvdra.checkpoint import Checkpoint, Entry, PreparedDevice
from nvdra.node.cdi_files import REWRITTEN
from nvdra.node.checkpoint_writer import Change
from nvdra.node.context import ClaimContext
from nvdra.node.edits import EditsMissing
from nvdra.node.hooks import Report
from nvdra.node.locks import Busy
from nvdra.node.steps import StepFailed
from nvdra.node.unprepare_flow import UnprepareFlow
from nvdra.ports import LockError

# Decisions of one prepare: each conflict, the rescan and the look-up of files cost one more.
_ROUNDS = 12

Answers = tuple[PreparedDevice, ...]


@dataclass(frozen=True, slots=True)
class _EditsNeeded:
    """A CDI file must be written, and the edits of these devices are not at hand."""

    devices: tuple[claims.NodeDevice, ...]
    common: bool


_Unresolved = claims.NeedsSteps | claims.RollBackFirst | claims.WaitForClaim | Busy | _EditsNeeded
_Decision = Answers | claims.Refuse | _Unresolved


class PrepareFlow:
    """Prepares claims. The caller is the claim's one owner.

    roll_back   unprepares the idle entry of another claim; returns why that failed, or ""
    now         seconds since 1970
    """

    def __init__(
        self,
        context: ClaimContext,
        unsettled: Callable[[], Mapping[str, str]],
        unprepare: UnprepareFlow,
        roll_back: Callable[[ClaimRef, Entry], Awaitable[str]],
        now: Callable[[], float],
    ) -> None:
        self._context = context
        self._cdi_files = context.cdi_files
        self._unsettled = unsettled
        self._unprepare = unprepare
        self._roll_back_other = roll_back
        self._now = now

    async def prepare(self, claim: Claim) -> Answers | claims.Refuse:
        """The claim's devices, or why it was refused. Raises CheckpointError."""
        try:
            return self._told(claim.ref.uid, await self._settle(claim.ref.uid, partial(self._decide, claim)))
        finally:
            self._context.end_work(claim.ref.uid, is_done=True)

    def is_prepared(self, uid: str) -> bool:
        """Whether the checkpoint, as last seen, has the claim as prepared."""
        checkpoint = self._context.checkpoint_writer.last_seen
        entry = checkpoint.entries.get(uid) if checkpoint is not None else None
        return entry is not None and entry.state == "PrepareCompleted"

    def answer_if_prepared(self, claim: Claim) -> Answers | None:
        """The devices of a claim that is prepared with this allocation; None if anything else is to be done."""
        checkpoint = self._context.checkpoint_writer.peek()
        if checkpoint is None:
            return None
        has_file = self._cdi_files.is_whole(claim.ref.uid, checkpoint)
        known = claims.answer_if_prepared(
            self._context.driver, claim, self._context.node(), checkpoint, has_file=has_file
        )
        if not isinstance(known, claims.AlreadyPrepared):
            return None
        return self._context.metadata.told(claim.ref.uid, known.answers)

    async def answer_from_checkpoint(self, ref: ClaimRef, otherwise: str) -> Answers | claims.Refuse:
        """The checkpoint's answer, else a refusal with the text `otherwise`. Raises CheckpointError."""
        answer = await self._settle(ref.uid, partial(self._decide_from_checkpoint, ref, otherwise))
        return self._told(ref.uid, answer)

    def _told(self, uid: str, answer: Answers | claims.Refuse) -> Answers | claims.Refuse:
        return answer if isinstance(answer, claims.Refuse) else self._context.metadata.told(uid, answer)

    async def _settle(self, uid: str, decide: Callable[[Checkpoint], Change[_Decision]]) -> Answers | claims.Refuse:
        """Decide under the checkpoint's locks; resolve conflicts and missing parts outside them, then decide again."""
        has_rescanned = False
        for _ in range(_ROUNDS):
            try:
                match decision := await self._context.checkpoint_writer.submit(decide):
                    case claims.Refuse() if decision.rescan and not has_rescanned:
                        has_rescanned = True
                        await self._context.rescan()
                    case _EditsNeeded(devices, common):
                        await self._context.edits.refresh(devices, common=common)
                    case claims.RollBackFirst(ref, entry):
                        if failure := await self._roll_back_first(uid, ref, entry):
                            return claims.Refuse(failure)
                    case claims.WaitForClaim(other):
                        await self._context.runner.wait_before(
                            uid, f"claim {other} has its device", self._context.work.until_done(other)
                        )
                    case Busy(resources):
                        await self._context.locks.wait(resources)
                    case claims.NeedsSteps():
                        return await self._run_steps(decision)
                    case _:
                        return decision
            except (EditsMissing, LockError, StepFailed) as error:
                return claims.Refuse(str(error))
        return claims.Refuse("device state kept changing during prepare; kubelet will retry")

    async def _roll_back_first(self, uid: str, ref: ClaimRef, entry: Entry) -> str:
        telemetry.info(1, "Rolling back a conflicting entry first", claim=str(ref), state=entry.state)
        if ref.uid != uid:
            return await self._roll_back_other(ref, entry)
        released = await self._unprepare.unprepare(ref, entry)
        return released.reason if isinstance(released, claims.Refuse) else ""

    def _decide(self, claim: Claim, checkpoint: Checkpoint) -> Change[_Decision]:
        uid = claim.ref.uid
        plan = claims.plan(
            self._context.driver,
            claim,
            self._context.node(),
            checkpoint,
            pool=self._context.pool,
            has_file=self._cdi_files.is_whole(uid, checkpoint),
            unsettled=self._unsettled(),
            in_work=self._context.work.claims,
            now=self._now(),
        )
        match plan:
            case claims.AlreadyPrepared(answers):
                return Change(answers)
            case claims.Refuse() | claims.RollBackFirst() | claims.WaitForClaim():
                return Change(plan)
            case claims.Repair(sealed):
                return self._repair(claim.ref, sealed, claim.pod_claim)
            case claims.Ready():
                sealed = claims.seal(self._context.driver, plan)
                return self._with_files(claim.ref, sealed, claim.pod_claim, entries={uid: sealed.entry})
            case claims.NeedsSteps():
                return self._begin(plan)
            case _:
                assert_never(plan)

    def _begin(self, needs: claims.NeedsSteps) -> Change[_Decision]:
        uid, locks = needs.claim.ref.uid, self._context.locks
        devices = tuple(device for group in needs.groups for _, device in group.members)
        has_common = any(self._context.driver.has_common_edits(group) for group in needs.groups)
        if not self._context.edits.is_available(devices, common=has_common):
            return Change(_EditsNeeded(devices, has_common))
        if not locks.try_take(uid, needs.steps.resources):
            return Change(Busy(needs.steps.resources))
        self._context.work.begin(uid)
        changed = claims.resources([step for step in needs.steps.apply if step.has_rollback])
        locks.begin(uid, changed)
        for step in needs.steps.shared:
            if step.resources <= changed:
                # The other claim may be unprepared meanwhile. Then only this claim needs the step and rolls it back.
                locks.touch(uid, step)
        discard = partial(self._context.end_work, uid, is_done=True)
        return Change(needs, entries={uid: needs.started}, discard=discard)

    def _decide_from_checkpoint(self, ref: ClaimRef, otherwise: str, checkpoint: Checkpoint) -> Change[_Decision]:
        has_file = self._cdi_files.is_whole(ref.uid, checkpoint)
        match claims.answer_from_checkpoint(
            self._context.driver, ref, self._context.node(), checkpoint, has_file=has_file
        ):
            case claims.AlreadyPrepared(answers):
                return Change(answers)
            case claims.Repair(sealed):
                return self._repair(ref, sealed, None)
            case claims.Refuse() as refuse:
                return Change(refuse)
            case None:
                return Change(claims.Refuse(otherwise))

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run_steps(self, needs: claims.NeedsSteps) -> Answers | claims.Refuse:
        """Run the steps, then seal. If either fails, roll the steps back and remove the entry."""
        uid = needs.claim.ref.uid
        is_rolled_back = False
        try:
            try:
                facts = await self._context.runner.apply(uid, needs.steps.apply, needs.steps.shared)
            except StepFailed as failed:
                # An unprepare is under way that turns the entry into an aborted one.
                is_left = failed.is_given_up and self._context.driver.on_abandoned == "abort"
                is_rolled_back = failed.is_rolled_back and not is_left
                if is_rolled_back:
                    text = f"rolled back the half-prepared claim, because a step failed: {failed}"
                    self._context.hooks.report(Report(needs.claim.ref, "RolledBack", text))
                return claims.Refuse(f"prepare devices failed: {failed}")
            try:
                answer = await self._seal(needs, facts)
            except BaseException:
                is_rolled_back = await self._roll_back(needs)
                raise
            if isinstance(answer, claims.Refuse):
                is_rolled_back = await self._roll_back(needs)
            else:
                self._context.end_work(uid, is_done=True, is_prepared=True)
            return answer
        finally:
            is_done = False
            try:
                if is_rolled_back:
                    is_done = await self._context.checkpoint_writer.submit(partial(self._decide_withdrawal, needs))
            finally:
                # The journal lines stay as long as the entry: they say which of its steps must be rolled back.
                self._context.end_work(uid, is_done=is_done)

    async def _roll_back(self, needs: claims.NeedsSteps) -> bool:
        uid, shared = needs.claim.ref.uid, needs.steps.shared
        try:
            await self._context.runner.roll_back(
                uid, [step for step in reversed(needs.steps.apply) if step not in shared]
            )
        except StepFailed as failed:
            telemetry.warning("Could not roll back the steps of a claim yet", uid=uid, cause=str(failed))
            return False
        return True

    async def _seal(self, needs: claims.NeedsSteps, facts: Mapping[str, Any]) -> Answers | claims.Refuse:
        sealed = claims.seal(self._context.driver, needs.completed(facts))
        return await self._settle(needs.claim.ref.uid, partial(self._decide_seal, needs.claim, sealed))

    def _decide_seal(self, claim: Claim, sealed: claims.Sealed, checkpoint: Checkpoint) -> Change[_Decision]:
        ref = claim.ref
        begun = checkpoint.entries.get(ref.uid)
        if begun is None or begun.state != "PrepareStarted":
            return Change(
                claims.Refuse(
                    f"another program changed the checkpoint's entry of claim {ref} meanwhile; kubelet will ask again"
                )
            )
        return self._with_files(ref, sealed, claim.pod_claim, entries={ref.uid: sealed.entry})

    def _decide_withdrawal(self, needs: claims.NeedsSteps, checkpoint: Checkpoint) -> Change[bool]:
        """Remove the half-prepared entry, unless it alone needs a shared step: that step is rolled back first."""
        uid = needs.claim.ref.uid
        entry = checkpoint.entries.get(uid)
        if entry is None or entry.state != "PrepareStarted":
            return Change(True)
        if not self._context.still_need(needs.steps.shared, uid, checkpoint):
            return Change(False)
        return Change(True, entries={uid: None})

    # ── files ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _repair(self, ref: ClaimRef, sealed: claims.Sealed, pod_claim: str | None) -> Change[_Decision]:
        change = self._with_files(ref, sealed, pod_claim, entries={})
        if change.write:
            telemetry.warning(REWRITTEN, claim=str(ref))
            self._context.hooks.report(Report(ref, "CDIFileRepaired", REWRITTEN, is_warning=False))
        return change

    def _with_files(
        self, ref: ClaimRef, sealed: claims.Sealed, pod_claim: str | None, entries: Mapping[str, Entry]
    ) -> Change[_Decision]:
        if not sealed.cdi_devices:
            return Change(sealed.answers, entries=entries)
        if not self._cdi_files.is_available(sealed):
            return Change(_EditsNeeded(sealed.devices, sealed.has_common))
        try:
            files = self._cdi_files.contents(ref, sealed, pod_claim)
        except EditsMissing as error:
            return Change(claims.Refuse(str(error)))
        except cdi.InvalidDocument as error:
            return Change(claims.Refuse(f"unable to create CDI spec file for claim: {error}"))
        return Change(sealed.answers, entries=entries, write=files)
