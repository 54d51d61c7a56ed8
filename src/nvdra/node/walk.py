"""A claim's walk on this node: what kubelet asks becomes a decision, a batch of the ledger, an answer.

Before the ledger, without any lock: every claim of a call is fetched at once and the driver's files are made sure of.
In the ledger: plan and seal, pure. A claim has one owner: a second call for it joins the running work, and a caller
that goes away (deadline, lost connection) never stops work half way.
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
from nvdra.node.ledger import LedgerError
from nvdra.node.means import Means
from nvdra.node.preparing import Answers, Preparing
from nvdra.node.releasing import Releasing
from nvdra.node.supply import Supply
from nvdra.ports import ApiError, Clock
from nvdra.telemetry.metrics import DriverMetrics, Operation

# kubelet waits 45 s for an answer and asks again after 10: an API server this silent is not waited for.
API_PATIENCE_S = 2.0

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


class Walk:
    """Prepare and unprepare, for any number of callers at once.

    unsettled  device name to claim UID, while a lost record is being made up from the API
    """

    def __init__(
        self,
        means: Means,
        supply: Supply,
        source: ClaimSource,
        clock: Clock,
        unsettled: Callable[[], Mapping[str, str]],
        metrics: DriverMetrics,
    ) -> None:
        self._ledger = means.ledger
        self._clock = clock
        self._source = source
        self._metrics = metrics
        self._releasing = Releasing(means)
        self._preparing = Preparing(means, supply, unsettled, self._releasing, self._take_back)
        self._work: dict[str, tuple[str, asyncio.Task[Any]]] = {}

    async def prepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Prepared]:
        """One answer a claim; one bad claim never takes the others down."""
        known = [ref for ref in refs if ref.uid not in self._work and self._preparing.is_prepared(ref.uid)]
        found = dict(zip((ref.uid for ref in known), await _all(map(self._again, known)), strict=True))
        answers: dict[str, Prepared] = {uid: again for uid, again in found.items() if isinstance(again, tuple)}
        if others := [ref for ref in refs if ref.uid not in answers]:
            silence = {uid: error for uid, error in found.items() if isinstance(error, ApiError)}
            answers |= await self._owned("prepare", others, partial(self._prepare_all, silence))
        return answers

    async def unprepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Unprepared]:
        """None: nothing of the claim is left on this node."""
        return await self._owned("unprepare", refs, self._unprepare_all)

    async def finish(self, patience_s: float) -> None:
        """Returns once no claim is worked on, whoever still waits for it, or after so many seconds."""
        if tasks := {task for _, task in self._work.values()}:
            await asyncio.wait(tasks, timeout=patience_s)

    async def let_go(self, ref: ClaimRef, entry: Entry) -> Unprepared:
        """Unprepare a claim that nobody asks for any more, if `entry` is still what the record says of it."""
        answers: Mapping[str, Unprepared] = await self._owned(
            "unprepare", [ref], partial(self._unprepare_all, only=entry)
        )
        return answers[ref.uid]

    async def _owned(
        self,
        operation: str,
        refs: Sequence[ClaimRef],
        work: Callable[[list[ClaimRef]], Coroutine[Any, Any, dict[str, Any]]],
    ) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        wanted = {ref.uid: ref for ref in refs}
        while wanted:
            # The same operation under way for a claim is joined; another one is waited for, then it is our turn.
            busy = {uid: self._work[uid] for uid in wanted if uid in self._work}
            free = [ref for uid, ref in wanted.items() if uid not in busy]
            if free:
                task = asyncio.create_task(work(free), name=f"{operation} {', '.join(ref.uid for ref in free)}")
                for ref in free:
                    self._work[ref.uid] = (operation, task)
                task.add_done_callback(partial(self._release, tuple(ref.uid for ref in free)))
                busy.update({ref.uid: (operation, task) for ref in free})
            tasks = {task for _, task in busy.values()}
            await asyncio.wait(tasks)  # a cancelled caller leaves the tasks running
            for uid, (under_way, task) in busy.items():
                if under_way == operation:
                    answers[uid] = task.result()[uid]
                    del wanted[uid]
        return answers

    def _release(self, uids: Iterable[str], done: asyncio.Task[Any]) -> None:
        for uid in uids:
            if self._work.get(uid, ("", None))[1] is done:
                del self._work[uid]

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
                answers = self._preparing.again(claim)
            except Exception:  # one claim's, not the call's; who owns the claim meets it again, and tells it
                return None
        if answers is not None:
            # The answer goes out first.
            asyncio.get_running_loop().call_soon(self._told_again, ref, answers, self._clock.now() - began)
        return answers

    def _told_again(self, ref: ClaimRef, answers: Answers, seconds: float) -> None:
        _tell(ref, answers)
        self._metrics.succeeded("prepare", seconds)

    async def _prepare_all(self, silence: Mapping[str, ApiError], refs: list[ClaimRef]) -> dict[str, Prepared]:
        fetched = await _all(self._new(ref, silence.get(ref.uid)) for ref in refs)
        # From here to the ledger nothing waits, so that the claims of one call share a batch.
        answers = await _all(self._counted("prepare", work) for work in map(self._prepare_fetched, refs, fetched))
        return dict(zip((ref.uid for ref in refs), answers, strict=True))

    async def _new(self, ref: ClaimRef, silence: ApiError | None) -> Fetched:
        """The claim for the next batch, which waits for it a little. `silence`: the server was asked just now."""
        if silence is not None:
            return silence
        with self._ledger.coming():
            return await self._fetch(ref)

    async def _fetch(self, ref: ClaimRef, *, cached: bool = False) -> Fetched:
        """The claim as the API server has it, or what is wrong with it. One GET; asked again only if no answer came."""
        end = self._clock.now() + API_PATIENCE_S
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
                    answer = await self._preparing.prepare(fetched)
                case ApiError() if not _is_gone(ref, fetched):
                    answer = await self._preparing.recall(ref, _not_retrieved(ref, fetched))
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

    async def _unprepare_all(self, refs: list[ClaimRef], only: Entry | None = None) -> dict[str, Unprepared]:
        answers = await _all(self._counted("unprepare", self._unprepare_one(ref, only)) for ref in refs)
        return dict(zip((ref.uid for ref in refs), answers, strict=True))

    async def _unprepare_one(self, ref: ClaimRef, only: Entry | None) -> Unprepared:
        try:
            release = await self._releasing.release(ref, only)
        except LedgerError as error:
            return self._not_unprepared(ref, str(error), "lock_acquire" if error.lock else "unprepare_devices")
        except Exception as error:
            telemetry.error("Unpreparing a claim failed unexpectedly", error, claim=str(ref))
            return self._not_unprepared(ref, f"internal error: {type(error).__name__}: {error}", "unprepare_devices")
        match release:
            case claims.NotPrepared():
                telemetry.info(2, "Unprepare noop: claim not found in checkpoint data", claim=str(ref))
                return None
            case claims.Leave():
                telemetry.info(1, "Unprepared devices for claim", claim=str(ref))
                return None
            case claims.Refuse(reason):
                return self._not_unprepared(ref, reason, "unprepare_devices")
            case _:
                assert_never(release)

    async def _take_back(self, ref: ClaimRef, entry: Entry) -> str:
        if ref.uid in self._work:
            # It may be of the very call that asks: waited for, the two would wait for each other.
            return f"claim {ref} was begun before and is being worked on; kubelet will ask again"
        failure = await self.let_go(ref, entry)
        return "" if failure is None else failure.error

    # ── both ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _counted(self, operation: Operation, work: Coroutine[Any, Any, T]) -> T:
        """The work on one claim, and what it came to in the metrics."""
        with self._metrics.serving(operation):
            began = self._clock.now()
            answer = await work
        if isinstance(answer, Failure):
            self._metrics.failed(operation, answer.kind)
        else:
            self._metrics.succeeded(operation, self._clock.now() - began)
        return answer

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
