"""Serving kubelet's prepare and unprepare calls.

Before the checkpoint writer, without any lock: all claims of a call are fetched at once. In the checkpoint writer: plan
and seal, pure. A claim has one owner: a second call for it joins the running work. A call that ends (deadline, lost
connection) never stops work half way: at the deadline its answer is the reason so far, nothing is rolled back, and
kubelet's retry joins the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, assert_never

from nvdra import claims, telemetry
from nvdra.api import Claim, ClaimRef
from nvdra.checkpoint import Entry
from nvdra.kubelet import time_left_s
from nvdra.node.checkpoint_writer import CheckpointError
from nvdra.node.claim_source import Claims, ClaimSource, Fetched, is_gone, not_retrieved
from nvdra.node.context import ClaimContext
from nvdra.node.hooks import Reason, Report
from nvdra.node.owned_work import OwnedWork, Work
from nvdra.node.prepare_flow import Answers, PrepareFlow
from nvdra.node.unprepare_flow import UnprepareFlow
from nvdra.ports import ApiError, Clock
from nvdra.telemetry.metrics import DriverMetrics, Operation

# All claims of a call are answered by then: kubelet's own deadline is 45 s. A call with a deadline of its own is
# answered this much before it, or at its half if that is later.
CALL_TIMEOUT_S = 40.0
ANSWER_BEFORE_S = 5.0

# How long the end of the program waits for claims that the next program prepares on.
RESUMED_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """A claim that was not prepared or not unprepared.

    error      for kubelet: names the claim, the cause, what to do
    kind       the metric's error_type
    permanent  a retry cannot succeed before the claim changes
    """

    error: str
    kind: Literal["lock_acquire", "prepare_devices", "unprepare_devices"]
    permanent: bool = False


Prepared = Answers | Failure
Unprepared = Failure | None


class ClaimService:
    """Answers prepare and unprepare calls; any number of calls may run at once.

    unsettled       device name to claim UID, while the entries of a lost checkpoint are being restored from the API
    call_timeout_s  the claims of a call are answered after this time, finished or not
    """

    def __init__(
        self,
        context: ClaimContext,
        source: ClaimSource,
        clock: Clock,
        unsettled: Callable[[], Mapping[str, str]],
        metrics: DriverMetrics,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._context = context
        self._checkpoint_writer = context.checkpoint_writer
        self._clock = clock
        self._claims = Claims(source, clock)
        self._metrics = metrics
        self._call_timeout_s = call_timeout_s
        self._unprepare = UnprepareFlow(context, clock.wall)
        self._prepare = PrepareFlow(context, unsettled, self._unprepare, self._roll_back, clock.wall)
        self._owned = OwnedWork(clock)

    async def prepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Prepared]:
        """One answer per claim. A claim that fails does not affect the other claims."""
        known = [ref for ref in refs if ref.uid not in self._owned and self._prepare.is_prepared(ref.uid)]
        found = dict(zip((ref.uid for ref in known), await _all(map(self._answer_if_prepared, known)), strict=True))
        answers: dict[str, Prepared] = {uid: again for uid, again in found.items() if isinstance(again, tuple)}
        if others := [ref for ref in refs if ref.uid not in answers]:
            silence = {uid: error for uid, error in found.items() if isinstance(error, ApiError)}
            answers |= await self._serve("prepare", others, partial(self._prepare_all, silence))
        return answers

    async def unprepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Unprepared]:
        """One answer per claim; None means that nothing of the claim is left on this node."""
        return await self._serve("unprepare", refs, partial(self._unprepare_all, is_given_up=True))

    async def finish(self, timeout_s: float) -> None:
        """Return once no claim is being worked on, or after `timeout_s`."""
        await self._owned.finish(min(timeout_s, RESUMED_S) if self._context.driver.resumes else timeout_s)

    def hurry(self) -> None:
        """The program is to end: answer claims that only wait, if the next program can prepare them on."""
        if self._context.driver.resumes:
            self._owned.hurry()

    async def unprepare_stale(self, ref: ClaimRef, entry: Entry, *, is_given_up: bool = False) -> Unprepared:
        """Unprepare a claim without a call of kubelet, if `entry` is still its entry.

        Work that outlasts `call_timeout_s` goes on, and the next caller for the claim joins it.
        is_given_up   the claim is gone; else kubelet may ask for it later
        """
        answers: Mapping[str, Unprepared] = await self._serve(
            "unprepare", [ref], partial(self._unprepare_all, only=entry, is_given_up=is_given_up)
        )
        return answers[ref.uid]

    async def _serve(
        self,
        operation: Operation,
        refs: Sequence[ClaimRef],
        work: Work,
    ) -> dict[str, Any]:
        """The answer for each claim; for unfinished claims at the call's deadline, the reason so far."""
        if operation == "unprepare":
            # A prepare that waits (for a daemon's pod, say) would keep its claim for as long as that takes.
            for ref in refs:
                self._context.runner.give_up(ref.uid)
        timeout_s = self._timeout_s()
        answers = await self._owned.serve(operation, refs, work, timeout_s)
        return answers | {ref.uid: self._late(operation, ref, timeout_s) for ref in refs if ref.uid not in answers}

    def _timeout_s(self) -> float:
        left_s = time_left_s.get()
        if left_s is None:
            return self._call_timeout_s
        return min(self._call_timeout_s, max(left_s - ANSWER_BEFORE_S, left_s / 2))

    def _late(self, operation: Operation, ref: ClaimRef, timeout_s: float) -> Failure:
        """The answer for an unfinished claim at the call's deadline: the reason so far. Nothing is rolled back."""
        self._metrics.unfinished(operation)
        reason = self._context.runner.waiting(ref.uid)
        text = f"still being {operation}d after {timeout_s:.0f} s{f': {reason}' if reason else ''}; "
        text += "the work goes on, and kubelet's retry joins it"
        if operation == "prepare":
            failure = self._failed(ref, text)
        else:
            failure = self._not_unprepared(ref, text, "unprepare_devices")
        self._metrics.failed(operation, failure.kind)
        return failure

    # ── prepare ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _answer_if_prepared(self, ref: ClaimRef) -> Answers | ApiError | None:
        """The devices of a claim that the checkpoint has with its current allocation, else None.

        Returns the ApiError if the API server does not answer in time. The look-up changes nothing, so it takes no
        lock and does not own the claim. A stale cached claim is safe: it can only confirm the checkpoint.
        """
        with self._metrics.serving("prepare"):
            began = self._clock.now()
            claim = await self._claims.fetch(ref, cached=True)
            if not isinstance(claim, Claim):
                return claim if isinstance(claim, ApiError) and not is_gone(ref, claim) else None
            try:
                answers = self._prepare.answer_if_prepared(claim)
            except Exception:  # fails this claim only; `_prepare_fetched` meets the same error and logs it
                return None
        if answers is not None:
            # Logging comes after the answer to kubelet.
            asyncio.get_running_loop().call_soon(self._log_answered, ref, answers, self._clock.now() - began)
        return answers

    def _log_answered(self, ref: ClaimRef, answers: Answers, seconds: float) -> None:
        _log_prepared(ref, answers)
        self._metrics.succeeded("prepare", seconds)

    async def _prepare_all(self, silence: Mapping[str, ApiError], refs: list[ClaimRef]) -> None:
        fetches = _all(self._new(ref, silence.get(ref.uid)) for ref in refs)
        if (before_prepare := self._context.hooks.before_prepare) is None:
            fetched = await fetches
        else:
            fetched, _ = await asyncio.gather(fetches, before_prepare())
        # There is no await between here and the checkpoint writer, so the claims of one call share a batch.
        work = map(self._prepare_fetched, refs, fetched)
        await _all(self._counted("prepare", ref, one) for ref, one in zip(refs, work, strict=True))

    async def _new(self, ref: ClaimRef, silence: ApiError | None) -> Fetched:
        """The claim, fetched while the next batch waits for it (`CheckpointWriter.coming`).

        silence   the error of a GET that was just made; the server is not asked again
        """
        if silence is not None:
            return silence
        with self._checkpoint_writer.coming():
            return await self._claims.fetch(ref)

    async def _prepare_fetched(self, ref: ClaimRef, fetched: Fetched) -> Prepared:
        try:
            match fetched:
                case Claim():
                    answer = await self._prepare.prepare(fetched)
                case ApiError() if not is_gone(ref, fetched):
                    answer = await self._prepare.answer_from_checkpoint(ref, not_retrieved(ref, fetched))
                    if isinstance(answer, tuple):
                        telemetry.warning(
                            "Answered a prepared claim from the checkpoint", claim=str(ref), cause=fetched.message
                        )
                case ApiError():
                    return self._failed(ref, not_retrieved(ref, fetched))
                case _:
                    return self._failed(ref, fetched)
        except CheckpointError as error:
            return self._failed(ref, str(error), kind="lock_acquire" if error.lock else "prepare_devices")
        except Exception as error:  # fails this claim only
            telemetry.error("Preparing a claim failed unexpectedly", error, claim=str(ref))
            return self._failed(ref, f"internal error: {type(error).__name__}: {error}")
        if isinstance(answer, claims.Refuse):
            return self._failed(ref, answer.reason, permanent=answer.permanent)
        _log_prepared(ref, answer)
        return answer

    # ── unprepare ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _unprepare_all(
        self, refs: list[ClaimRef], only: Entry | None = None, *, is_given_up: bool = False
    ) -> None:
        await _all(self._counted("unprepare", ref, self._unprepare_one(ref, only, is_given_up)) for ref in refs)

    async def _unprepare_one(self, ref: ClaimRef, only: Entry | None, is_given_up: bool) -> Unprepared:
        try:
            release = await self._unprepare.unprepare(ref, only, is_given_up=is_given_up)
        except CheckpointError as error:
            return self._not_unprepared(ref, str(error), "lock_acquire" if error.lock else "unprepare_devices")
        except Exception as error:
            telemetry.error("Unpreparing a claim failed unexpectedly", error, claim=str(ref))
            return self._not_unprepared(ref, f"internal error: {type(error).__name__}: {error}", "unprepare_devices")
        match release:
            # DROP-IN: the texts of the first three are the Go driver's.
            case claims.NotPrepared(is_aborted=True):
                telemetry.info(2, "Unprepare noop: claim in PrepareAborted state", claim=str(ref))
                return None
            case claims.NotPrepared():
                telemetry.info(2, "Unprepare noop: claim not found in checkpoint data", claim=str(ref))
                return None
            case claims.Forget(remains=Entry()):
                telemetry.info(0, f"Marked claim PrepareAborted in checkpoint: {ref}")
                return None
            case claims.Forget():
                telemetry.info(1, "Unprepared devices for claim", claim=str(ref))
                return None
            case claims.Refuse(reason):
                return self._not_unprepared(ref, reason, "unprepare_devices")
            case _:
                assert_never(release)

    async def _roll_back(self, ref: ClaimRef, entry: Entry) -> str:
        if ref.uid in self._owned:
            # The other claim may belong to the same call: if each waited for the other, neither would end.
            return f"claim {ref} was begun before and is being worked on; kubelet will ask again"
        failure = await self.unprepare_stale(ref, entry)
        return "" if failure is None else failure.error

    # ── both ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _counted(self, operation: Operation, ref: ClaimRef, work: Coroutine[Any, Any, Any]) -> None:
        """Run the work of one claim, then publish its answer and count the result."""
        with self._metrics.serving(operation):
            began = self._clock.now()
            answer = await work
        self._owned.answer(ref.uid, answer)
        if isinstance(answer, Failure):
            self._metrics.failed(operation, answer.kind)
        else:
            self._metrics.succeeded(operation, self._clock.now() - began)

    def _failed(
        self,
        ref: ClaimRef,
        reason: str,
        *,
        permanent: bool = False,
        kind: Literal["lock_acquire", "prepare_devices"] = "prepare_devices",
    ) -> Failure:
        # DROP-IN: the two prefixes are the Go driver's; alerts and its own tests look for them.
        text = reason if kind == "lock_acquire" else f"error preparing devices for claim {ref}: {reason}"
        if permanent:
            telemetry.error("Permanent error preparing devices for claim", text)
        else:
            telemetry.warning("Preparing devices failed, kubelet will ask again", error=text)
        self._report(ref, "PrepareFailed", reason)
        return Failure(text, kind, permanent)

    def _not_unprepared(
        self, ref: ClaimRef, reason: str, kind: Literal["lock_acquire", "unprepare_devices"]
    ) -> Failure:
        text = reason if kind == "lock_acquire" else f"error unpreparing devices for claim {ref}: {reason}"
        telemetry.warning("Unpreparing devices failed, kubelet will ask again", error=text)
        self._report(ref, "UnprepareFailed", reason)
        return Failure(text, kind)

    def _report(self, ref: ClaimRef, what: Reason, text: str) -> None:
        self._context.hooks.report(Report(ref, what, text))


def _log_prepared(ref: ClaimRef, answers: Answers) -> None:
    telemetry.info(1, "Prepared devices for claim", claim=str(ref), devices=[answer.device for answer in answers])


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that run concurrently; a single coroutine is awaited without a task."""
    each = list(work)
    return [await each[0]] if len(each) == 1 else await asyncio.gather(*each)
