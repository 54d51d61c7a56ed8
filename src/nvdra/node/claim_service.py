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
from typing import Any, Literal, Protocol, TypeVar, assert_never

from nvdra import claims, telemetry
from nvdra.api import Claim, ClaimError, ClaimRef, decode_claim
from nvdra.checkpoint import Entry
from nvdra.kubelet import time_left_s
from nvdra.node.context import ClaimContext
from nvdra.node.ledger import LedgerError
from nvdra.node.prepare_flow import Answers, PrepareFlow
from nvdra.node.unprepare_flow import UnprepareFlow
from nvdra.ports import ApiError, Clock
from nvdra.telemetry.metrics import DriverMetrics, Operation

# kubelet waits 45 s for an answer and asks again after 10: an API server this silent is not waited for.
API_TIMEOUT_S = 2.0

# All claims of a call are answered by then: kubelet's own deadline is 45 s. A call with a deadline of its own is
# answered this much before it, or at its half if that is later.
CALL_TIMEOUT_S = 40.0
ANSWER_BEFORE_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """A claim that was not prepared or not taken back.

    error      for kubelet: names the claim, the cause, what to do
    kind       the metric's error_type
    permanent  asking again changes nothing before the claim changes
    """

    error: str
    kind: Literal["lock_acquire", "prepare_devices", "unprepare_devices"]
    permanent: bool = False


Prepared = Answers | Failure
Unprepared = Failure | None
Fetched = Claim | ApiError | str  # or what is wrong with the claim


class ClaimSource(Protocol):
    """Where claims come from: the API server, one GET each."""

    async def claim(self, namespace: str, name: str, *, timeout_s: float, cached: bool = False) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Owned:
    """A claim that a call is being served for; `answer` is done when the work on it ends."""

    operation: Operation
    answer: asyncio.Future[Any]


class ClaimService:
    """Prepare and unprepare, for any number of callers at once.

    unsettled       device name to claim UID, while the entries of a lost checkpoint are being restored from the API
    call_timeout_s  a call's claims are answered after so many seconds, done or not
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
        self._ledger = context.ledger
        self._clock = clock
        self._source = source
        self._metrics = metrics
        self._call_timeout_s = call_timeout_s
        self._unprepare = UnprepareFlow(context, clock.wall)
        self._prepare = PrepareFlow(context, unsettled, self._unprepare, self._roll_back, clock.wall)
        self._owned: dict[str, _Owned] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def prepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Prepared]:
        """One answer per claim; one bad claim never takes the others down."""
        known = [ref for ref in refs if ref.uid not in self._owned and self._prepare.is_prepared(ref.uid)]
        found = dict(zip((ref.uid for ref in known), await _all(map(self._again, known)), strict=True))
        answers: dict[str, Prepared] = {uid: again for uid, again in found.items() if isinstance(again, tuple)}
        if others := [ref for ref in refs if ref.uid not in answers]:
            silence = {uid: error for uid, error in found.items() if isinstance(error, ApiError)}
            answers |= await self._serve("prepare", others, partial(self._prepare_all, silence), self._late)
        return answers

    async def unprepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Unprepared]:
        """None: nothing of the claim is left on this node."""
        return await self._serve("unprepare", refs, partial(self._unprepare_all, is_given_up=True), self._late)

    async def finish(self, timeout_s: float) -> None:
        """Returns once no claim is worked on, whoever still waits for it, or after so many seconds."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)

    async def unprepare_stale(self, ref: ClaimRef, entry: Entry, *, is_given_up: bool = False) -> Unprepared:
        """Unprepare a claim that kubelet does not ask for now, if `entry` is still its entry.

        is_given_up   it is gone; else kubelet may ask for it later
        """
        answers: Mapping[str, Unprepared] = await self._serve(
            "unprepare", [ref], partial(self._unprepare_all, only=entry, is_given_up=is_given_up)
        )
        return answers[ref.uid]

    async def _serve(
        self,
        operation: Operation,
        refs: Sequence[ClaimRef],
        work: Callable[[list[ClaimRef]], Coroutine[Any, Any, None]],
        late: Callable[[Operation, ClaimRef, float], Failure] | None = None,
    ) -> dict[str, Any]:
        """The answer for each claim; with `late`, that for claims whose work outlasts the call's time."""
        answers: dict[str, Any] = {}
        wanted = {ref.uid: ref for ref in refs}
        timeout_s = self._timeout_s()
        ends = self._clock.now() + timeout_s
        while wanted:
            if free := [ref for uid, ref in wanted.items() if uid not in self._owned]:
                self._own(operation, free, work)
            # The same operation under way for a claim is joined; another one is waited for, then it is our turn.
            busy = {uid: self._owned[uid] for uid in wanted}
            if operation == "unprepare":
                # A prepare that waits (for a daemon's pod, say) would keep the claim for as long as that takes.
                for uid in busy:
                    self._context.runner.give_up(uid)
            pending = [owned.answer for owned in busy.values()]
            try:
                if late is None:
                    await asyncio.wait(pending)  # a cancelled caller leaves the work running
                else:
                    async with self._clock.deadline(max(ends - self._clock.now(), 0.0)):
                        await asyncio.wait(pending)
            except TimeoutError:
                assert late is not None
                for uid, owned in busy.items():
                    is_answered = owned.answer.done() and owned.operation == operation
                    answers[uid] = owned.answer.result() if is_answered else late(operation, wanted[uid], timeout_s)
                return answers
            for uid, owned in busy.items():
                if owned.operation == operation:
                    answers[uid] = owned.answer.result()
                    del wanted[uid]
        return answers

    def _own(
        self,
        operation: Operation,
        refs: list[ClaimRef],
        work: Callable[[list[ClaimRef]], Coroutine[Any, Any, None]],
    ) -> None:
        for ref in refs:
            owned = self._owned[ref.uid] = _Owned(operation, asyncio.get_running_loop().create_future())
            owned.answer.add_done_callback(partial(self._disown, ref.uid))
        task = asyncio.create_task(work(refs), name=f"{operation} {', '.join(ref.uid for ref in refs)}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, tuple(ref.uid for ref in refs)))

    def _disown(self, uid: str, answer: asyncio.Future[Any]) -> None:
        if uid in self._owned and self._owned[uid].answer is answer:
            del self._owned[uid]

    def _answer(self, ref: ClaimRef, answer: Any) -> None:
        if not (future := self._owned[ref.uid].answer).done():
            future.set_result(answer)

    def _ended(self, uids: Iterable[str], task: asyncio.Task[None]) -> None:
        """Every claim of the work is answered, whatever became of the work."""
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        for uid in uids:
            owned = self._owned.get(uid)
            if owned is not None and not owned.answer.done():
                owned.answer.set_exception(error or RuntimeError("the work on the claim ended without an answer"))

    def _timeout_s(self) -> float:
        left_s = time_left_s.get()
        if left_s is None:
            return self._call_timeout_s
        return min(self._call_timeout_s, max(left_s - ANSWER_BEFORE_S, left_s / 2))

    def _late(self, operation: Operation, ref: ClaimRef, timeout_s: float) -> Failure:
        """The answer at the call's deadline: the reason so far."""
        reason = self._context.runner.waiting(ref.uid)
        text = f"still being {operation}d after {timeout_s:.0f} s{f': {reason}' if reason else ''}; "
        text += "the work goes on, and kubelet's retry joins it"
        if operation == "prepare":
            return self._failed(ref, text)
        return self._not_unprepared(ref, text, "unprepare_devices")

    # ── prepare ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _again(self, ref: ClaimRef) -> Answers | ApiError | None:
        """The devices of a prepared claim; None if it is not prepared as the API server has it.

        It changes nothing, so it needs neither the claim nor the locks. The server's cache will do: old news can only
        repeat what the record says. The error, if the server does not answer in time.
        """
        with self._metrics.serving("prepare"):
            began = self._clock.now()
            claim = await self._fetch(ref, cached=True)
            if not isinstance(claim, Claim):
                return claim if isinstance(claim, ApiError) and not _is_gone(ref, claim) else None
            try:
                answers = self._prepare.answer_if_prepared(claim)
            except Exception:  # one claim's, not the call's; who owns the claim meets it again, and tells it
                return None
        if answers is not None:
            # The answer goes out first.
            asyncio.get_running_loop().call_soon(self._told_again, ref, answers, self._clock.now() - began)
        return answers

    def _told_again(self, ref: ClaimRef, answers: Answers, seconds: float) -> None:
        _tell(ref, answers)
        self._metrics.succeeded("prepare", seconds)

    async def _prepare_all(self, silence: Mapping[str, ApiError], refs: list[ClaimRef]) -> None:
        fetched = await _all(self._new(ref, silence.get(ref.uid)) for ref in refs)
        # From here to the checkpoint writer nothing waits, so that the claims of one call share a batch.
        work = map(self._prepare_fetched, refs, fetched)
        await _all(self._counted("prepare", ref, one) for ref, one in zip(refs, work, strict=True))

    async def _new(self, ref: ClaimRef, silence: ApiError | None) -> Fetched:
        """The claim for the next batch, which waits for it a little. `silence`: the server was asked just now."""
        if silence is not None:
            return silence
        with self._ledger.coming():
            return await self._fetch(ref)

    async def _fetch(self, ref: ClaimRef, *, cached: bool = False) -> Fetched:
        """The claim as the API server has it, or what is wrong with it. One GET; asked again only if no answer came."""
        end = self._clock.now() + API_TIMEOUT_S
        while True:
            left = end - self._clock.now()
            try:
                claim = decode_claim(
                    await self._source.claim(ref.namespace, ref.name, timeout_s=max(left, 0.1), cached=cached)
                )
            except ApiError as error:
                if error.status == 0 or error.status >= 500 or error.status == 429:
                    pause = 0.25 if error.retry_after_s is None else error.retry_after_s
                    if self._clock.now() + pause < end:
                        await self._clock.sleep(pause)
                        continue
                return error
            except ClaimError as error:
                # What is no claim is no answer: a prepared claim is answered from the record.
                is_told = error.kind == "unallocated" and ref.has_name_of(error.ref)
                return str(error) if is_told else ApiError(0, "", str(error))
            except Exception as error:  # one claim's, not the call's
                telemetry.error("Fetching a claim failed unexpectedly", error, claim=str(ref))
                return f"internal error: {type(error).__name__}: {error}"
            if not ref.has_name_of(claim.ref):
                return ApiError(0, "", f"the API server's answer is another claim, {claim.ref}")
            if claim.ref.uid != ref.uid:
                return f"claim {ref.namespace}/{ref.name} got replaced"
            return claim

    async def _prepare_fetched(self, ref: ClaimRef, fetched: Fetched) -> Prepared:
        try:
            match fetched:
                case Claim():
                    answer = await self._prepare.prepare(fetched)
                case ApiError() if not _is_gone(ref, fetched):
                    answer = await self._prepare.answer_from_checkpoint(ref, _not_retrieved(ref, fetched))
                    if isinstance(answer, tuple):
                        telemetry.warning(
                            "Answered a prepared claim from the record", claim=str(ref), cause=fetched.message
                        )
                case ApiError():
                    return self._failed(ref, _not_retrieved(ref, fetched))
                case _:
                    return self._failed(ref, fetched)
        except LedgerError as error:
            return self._failed(ref, str(error), kind="lock_acquire" if error.lock else "prepare_devices")
        except Exception as error:  # one bad claim never ends the process
            telemetry.error("Preparing a claim failed unexpectedly", error, claim=str(ref))
            return self._failed(ref, f"internal error: {type(error).__name__}: {error}")
        if isinstance(answer, claims.Refuse):
            return self._failed(ref, answer.reason, permanent=answer.permanent)
        _tell(ref, answer)
        return answer

    # ── unprepare ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _unprepare_all(
        self, refs: list[ClaimRef], only: Entry | None = None, *, is_given_up: bool = False
    ) -> None:
        await _all(self._counted("unprepare", ref, self._unprepare_one(ref, only, is_given_up)) for ref in refs)

    async def _unprepare_one(self, ref: ClaimRef, only: Entry | None, is_given_up: bool) -> Unprepared:
        try:
            release = await self._unprepare.unprepare(ref, only, is_given_up=is_given_up)
        except LedgerError as error:
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
            # It may be of the very call that asks: waited for, the two would wait for each other.
            return f"claim {ref} was begun before and is being worked on; kubelet will ask again"
        failure = await self.unprepare_stale(ref, entry)
        return "" if failure is None else failure.error

    # ── both ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _counted(self, operation: Operation, ref: ClaimRef, work: Coroutine[Any, Any, Any]) -> None:
        """Answer for one claim, and count what its work came to."""
        with self._metrics.serving(operation):
            began = self._clock.now()
            answer = await work
        self._answer(ref, answer)
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
        return Failure(text, kind, permanent)

    def _not_unprepared(
        self, ref: ClaimRef, reason: str, kind: Literal["lock_acquire", "unprepare_devices"]
    ) -> Failure:
        text = reason if kind == "lock_acquire" else f"error unpreparing devices for claim {ref}: {reason}"
        telemetry.warning("Unpreparing devices failed, kubelet will ask again", error=text)
        return Failure(text, kind)


def _tell(ref: ClaimRef, answers: Answers) -> None:
    telemetry.info(1, "Prepared devices for claim", claim=str(ref), devices=[answer.device for answer in answers])


def _is_gone(ref: ClaimRef, error: ApiError) -> bool:
    return error.is_missing("resourceclaims", ref.name)


def _not_retrieved(ref: ClaimRef, error: ApiError) -> str:
    return f"retrieve claim {ref.namespace}/{ref.name}: {error.message}"


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each of them comes to, side by side; a single one needs no task of its own."""
    each = list(work)
    return [await each[0]] if len(each) == 1 else await asyncio.gather(*each)
