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

from nvdra import cdi, claims, telemetry
from nvdra.api import Claim, ClaimError, ClaimRef, Gates, decode_claim
from nvdra.checkpoint import Entry, PreparedDevice, Record
from nvdra.devices import Gpu, Inventory
from nvdra.node.ledger import Change, Ledger, LedgerError
from nvdra.node.supply import Supply, SupplyError
from nvdra.ports import ApiError, Clock, Host
from nvdra.telemetry.metrics import DriverMetrics, Operation

# kubelet waits 45 s for an answer and asks again after 10: an API server this silent is not waited for.
API_PATIENCE_S = 2.0

# Decisions of one prepare: letting go of a former allocation, a rescan, a look-up of driver files, and the last one.
_ROUNDS = 5

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


Answers = tuple[PreparedDevice, ...]
Prepared = Answers | Failure
Unprepared = Failure | None
Fetched = Claim | ApiError | str  # or what is wrong with the claim


@dataclass(frozen=True, slots=True)
class _Unsupplied:
    """A CDI file must be written, and the driver's files for it are not at hand."""

    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True)
class _Undone:
    """A former allocation was let go of."""


_Outcome = Answers | claims.Refuse | _Unsupplied | _Undone


class ClaimSource(Protocol):
    """Where claims come from: the API server, one GET each."""

    async def claim(self, namespace: str, name: str, *, timeout_s: float) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Site:
    """Where and for whom this node prepares."""

    driver: str
    pool: str
    cdi_root: str
    gates: Gates


class Walk:
    """Prepare and unprepare, for any number of callers at once.

    inventory  the devices as last scanned
    rescan     looks at the hardware again; called for a device this node does not know
    unsettled  device name to claim UID, while a lost record is being made up from the API
    """

    def __init__(
        self,
        site: Site,
        host: Host,
        clock: Clock,
        ledger: Ledger,
        source: ClaimSource,
        supply: Supply,
        inventory: Callable[[], Inventory],
        rescan: Callable[[], Coroutine[Any, Any, None]],
        unsettled: Callable[[], Mapping[str, str]],
        metrics: DriverMetrics,
    ) -> None:
        self._site = site
        self._host = host
        self._clock = clock
        self._ledger = ledger
        self._source = source
        self._supply = supply
        self._inventory = inventory
        self._rescan = rescan
        self._unsettled = unsettled
        self._metrics = metrics
        self._work: dict[str, tuple[str, asyncio.Task[Any]]] = {}

    async def prepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Prepared]:
        """One answer a claim; one bad claim never takes the others down."""
        return await self._owned("prepare", refs, self._prepare_all)

    async def unprepare(self, refs: Sequence[ClaimRef]) -> Mapping[str, Unprepared]:
        """None: nothing of the claim is left on this node."""
        return await self._owned("unprepare", refs, self._unprepare_all)

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

    async def _prepare_all(self, refs: list[ClaimRef]) -> dict[str, Prepared]:
        fetched = await _all(map(self._fetch, refs))
        # From here to the ledger nothing waits, so that the claims of one call share a batch.
        answers = await _all(self._counted("prepare", work) for work in map(self._prepare_fetched, refs, fetched))
        return dict(zip((ref.uid for ref in refs), answers, strict=True))

    async def _fetch(self, ref: ClaimRef) -> Fetched:
        """The claim as the API server has it, or what is wrong with it. One GET; asked again only if no answer came."""
        end = self._clock.now() + API_PATIENCE_S
        while True:
            left = end - self._clock.now()
            try:
                claim = decode_claim(await self._source.claim(ref.namespace, ref.name, timeout_s=max(left, 0.1)))
            except ApiError as error:
                if error.status == 0 or error.status >= 500 or error.status == 429:
                    pause = 0.25 if error.retry_after_s is None else error.retry_after_s
                    if self._clock.now() + pause < end:
                        await self._clock.sleep(pause)
                        continue
                return error
            except ClaimError as error:
                return str(error)
            except Exception as error:  # one claim's, not the call's
                telemetry.error("Fetching a claim failed unexpectedly", error, claim=str(ref))
                return f"internal error: {type(error).__name__}: {error}"
            if claim.ref.uid != ref.uid:
                return f"claim {ref.namespace}/{ref.name} got replaced"
            return claim

    async def _prepare_fetched(self, ref: ClaimRef, fetched: Fetched) -> Prepared:
        try:
            match fetched:
                case Claim():
                    answer = await self._settle(partial(self._decide_prepare, fetched))
                case ApiError() if fetched.status != 404:
                    answer = await self._settle(partial(self._decide_recall, ref, fetched))
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
        telemetry.info(1, "Prepared devices for claim", claim=str(ref), devices=[a.device for a in answer])
        return answer

    async def _settle(self, decide: Callable[[Record], Change[_Outcome]]) -> Answers | claims.Refuse:
        """Decide in the ledger; what it takes first is done outside of its locks, then it is decided again."""
        looked = False
        for _ in range(_ROUNDS):
            answer = await self._ledger.submit(decide)
            match answer:
                case claims.Refuse() if answer.rescan and not looked:
                    looked = True
                    await self._rescan()
                case _Unsupplied(gpus):
                    try:
                        await self._supply.refresh(gpus)
                    except SupplyError as error:
                        return claims.Refuse(str(error))
                case _Undone():
                    continue
                case _:
                    return answer
        return claims.Refuse("the driver's files change faster than they can be looked up; kubelet will ask again")

    def _decide_prepare(self, claim: Claim, record: Record) -> Change[_Outcome]:
        path = self._path(claim.ref.uid)
        plan = claims.plan(
            claim,
            self._inventory(),
            record,
            self._site.gates,
            pool=self._site.pool,
            has_file=self._exists(path),
            unsettled=self._unsettled(),
        )
        match plan:
            case claims.Done(answers):
                return Change(answers)
            case claims.Refuse():
                return Change(plan)
            case claims.Repair(sealed):
                return self._repair(claim.ref, sealed)
            case claims.Ready(replaces=Entry(state="PrepareCompleted")):
                # Allocated anew. First the old entry goes, then its file: with one write for both, a crash between
                # file and record would leave the old entry with the new file.
                telemetry.info(1, "The claim is allocated anew, its former devices are let go of", claim=str(claim.ref))
                return Change(_Undone(), entries={claim.ref.uid: None}, remove=(path,))
            case claims.Ready():
                for note in plan.notes:
                    telemetry.warning(note, claim=str(claim.ref))
                sealed = claims.seal(plan)
                return self._with_file(claim.ref.uid, sealed, entries={claim.ref.uid: sealed.entry})
            case _:
                assert_never(plan)

    def _decide_recall(self, ref: ClaimRef, error: ApiError, record: Record) -> Change[_Outcome]:
        """The API server does not show the claim: what is already prepared is still answered, from the record."""
        match claims.recall(ref, self._inventory(), record, has_file=self._exists(self._path(ref.uid))):
            case claims.Done(answers):
                return Change(answers)
            case claims.Repair(sealed):
                return self._repair(ref, sealed)
            case claims.Refuse() as refuse:
                return Change(refuse)
            case None:
                return Change(claims.Refuse(_not_retrieved(ref, error)))

    def _repair(self, ref: ClaimRef, sealed: claims.Sealed) -> Change[_Outcome]:
        telemetry.warning("CDI file of a prepared claim was lost, writing it again", claim=str(ref))
        return self._with_file(ref.uid, sealed, entries={})

    def _with_file(self, uid: str, sealed: claims.Sealed, entries: Mapping[str, Entry]) -> Change[_Outcome]:
        gpus = tuple(sealed.cdi_devices.values())
        if not self._supply.is_at_hand(gpus):
            return Change(_Unsupplied(gpus))
        devices = [(name, self._supply.edits(gpu)) for name, gpu in sealed.cdi_devices.items()]
        try:
            content = cdi.render_claim(self._supply.common, devices)
        except cdi.InvalidDocument as error:
            return Change(claims.Refuse(f"unable to create CDI spec file for claim: {error}"))
        return Change(sealed.answers, entries=entries, write={self._path(uid): content})

    # ── unprepare ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _unprepare_all(self, refs: list[ClaimRef], only: Entry | None = None) -> dict[str, Unprepared]:
        answers = await _all(self._counted("unprepare", self._unprepare_one(ref, only)) for ref in refs)
        return dict(zip((ref.uid for ref in refs), answers, strict=True))

    async def _unprepare_one(self, ref: ClaimRef, only: Entry | None) -> Unprepared:
        try:
            release = await self._ledger.submit(partial(self._decide_unprepare, ref, only))
        except LedgerError as error:
            return self._not_unprepared(ref, str(error), "lock_acquire" if error.lock else "unprepare_devices")
        except Exception as error:
            telemetry.error("Unpreparing a claim failed unexpectedly", error, claim=str(ref))
            return self._not_unprepared(ref, f"internal error: {type(error).__name__}: {error}", "unprepare_devices")
        match release:
            case claims.NotPrepared():
                telemetry.info(2, "Unprepare noop: claim not found in checkpoint data", claim=str(ref))
                return None
            case claims.Leave(notes):
                for note in notes:
                    telemetry.warning(note, claim=str(ref))
                telemetry.info(1, "Unprepared devices for claim", claim=str(ref))
                return None
            case claims.Refuse(reason):
                return self._not_unprepared(ref, reason, "unprepare_devices")
            case _:
                assert_never(release)

    def _decide_unprepare(self, ref: ClaimRef, only: Entry | None, record: Record) -> Change[claims.Release]:
        if only is not None and record.entries.get(ref.uid) != only:
            return Change(claims.NotPrepared())
        release = claims.unprepare(ref, record)
        match release:
            case claims.Leave():
                return Change(release, entries={ref.uid: None}, remove=(self._path(ref.uid),))
            case claims.NotPrepared() if self._exists(self._path(ref.uid)):
                # An orphan: the claim is let go of, so nobody may take it up again from its file.
                return Change(release, remove=(self._path(ref.uid),))
            case _:
                return Change(release)

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

    def _path(self, uid: str) -> str:
        return f"{self._site.cdi_root}/{cdi.file_name(uid)}"

    def _exists(self, path: str) -> bool:
        try:
            self._host.stat(path)
        except OSError:
            return False
        return True

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


def _not_retrieved(ref: ClaimRef, error: ApiError) -> str:
    return f"retrieve claim {ref.namespace}/{ref.name}: {error.message}"


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each of them comes to, side by side; a single one needs no task of its own."""
    first, *others = work
    return [await first] if not others else await asyncio.gather(first, *others)
