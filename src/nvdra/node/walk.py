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
from typing import Any, Literal, Protocol, assert_never

from nvdra import cdi, claims, telemetry
from nvdra.api import Claim, ClaimError, ClaimRef, Gates, decode_claim
from nvdra.checkpoint import PreparedDevice, Record
from nvdra.devices import Inventory
from nvdra.node.ledger import Change, Ledger, LedgerError
from nvdra.node.supply import Supply, SupplyError
from nvdra.ports import ApiError, Clock, Host
from nvdra.telemetry.metrics import DriverMetrics

# kubelet waits 45 s for an answer and asks again after 10: an API server this silent is not waited for.
API_PATIENCE_S = 2.0


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

    async def drain(self) -> None:
        """Wait for the work under way."""
        while self._work:
            await asyncio.wait([task for _, task in self._work.values()])

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
        fetched = await asyncio.gather(*(self._fetch(ref) for ref in refs))
        supply = await asyncio.gather(*(self._supply_for(claim) for claim in fetched))
        # From here to the ledger nothing waits, so that the claims of one call share a batch.
        answers = await asyncio.gather(*map(self._prepare_counted, refs, fetched, supply))
        return dict(zip((ref.uid for ref in refs), answers, strict=True))

    async def _supply_for(self, claim: Claim | ApiError | str) -> str:
        """Make sure of what the claim's containers need; what is missing, "" if nothing."""
        known = self._inventory().devices
        results = claim.results if isinstance(claim, Claim) else ()
        gpus = [known[r.device] for r in results if r.driver == self._site.driver and r.device in known]
        try:
            await self._supply.refresh(gpus)
        except SupplyError as error:
            return str(error)
        return ""

    async def _prepare_counted(self, ref: ClaimRef, fetched: Claim | ApiError | str, supply_error: str) -> Prepared:
        with self._metrics.serving("prepare"):
            began = self._clock.now()
            answer = await self._prepare_fetched(ref, fetched, supply_error)
        if isinstance(answer, Failure):
            self._metrics.failed("prepare", answer.kind)
        else:
            self._metrics.succeeded("prepare", self._clock.now() - began)
        return answer

    async def _fetch(self, ref: ClaimRef) -> Claim | ApiError | str:
        """The claim as the API server has it, or what is wrong with it. One GET; asked again only if no answer came."""
        end = self._clock.now() + API_PATIENCE_S
        while True:
            left = end - self._clock.now()
            try:
                claim = decode_claim(await self._source.claim(ref.namespace, ref.name, timeout_s=max(left, 0.1)))
            except ApiError as error:
                if error.status == 0 or error.status >= 500 or error.status == 429:
                    pause = min(error.retry_after_s or 0.25, max(end - self._clock.now(), 0.0))
                    if self._clock.now() + pause < end:
                        await self._clock.sleep(pause)
                        continue
                return error
            except ClaimError as error:
                return str(error)
            if claim.ref.uid != ref.uid:
                return f"claim {ref.namespace}/{ref.name} got replaced"
            return claim

    async def _prepare_fetched(self, ref: ClaimRef, fetched: Claim | ApiError | str, supply_error: str) -> Prepared:
        try:
            if isinstance(fetched, ApiError) and fetched.status != 404:
                return await self._from_record(ref, fetched)
            if isinstance(fetched, ApiError):
                return self._failed(ref, f"retrieve claim {ref.namespace}/{ref.name}: {fetched.message}")
            if isinstance(fetched, str):
                return self._failed(ref, fetched)
            answer = await self._submit_prepare(fetched, supply_error)
            if isinstance(answer, claims.Refuse) and answer.rescan:
                await self._rescan()
                answer = await self._submit_prepare(fetched, supply_error)
            if isinstance(answer, claims.Refuse):
                return self._failed(ref, answer.reason, permanent=answer.permanent)
            telemetry.info(1, "Prepared devices for claim", claim=str(ref), devices=[a.device for a in answer])
            return answer
        except LedgerError as error:
            return self._failed(ref, str(error), kind="lock_acquire" if error.lock else "prepare_devices")
        except Exception as error:  # one bad claim never ends the process
            telemetry.error("Preparing a claim failed unexpectedly", error, claim=str(ref))
            return self._failed(ref, f"internal error: {type(error).__name__}: {error}")

    async def _submit_prepare(self, claim: Claim, supply_error: str) -> Answers | claims.Refuse:
        return await self._ledger.submit(lambda record: self._decide_prepare(claim, record, supply_error))

    def _decide_prepare(self, claim: Claim, record: Record, supply_error: str) -> Change[Answers | claims.Refuse]:
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
                telemetry.warning("CDI file of a prepared claim was lost, writing it again", claim=str(claim.ref))
                return self._with_file(claim.ref.uid, sealed, supply_error, entries={})
            case claims.Ready():
                for note in plan.notes:
                    telemetry.warning(note, claim=str(claim.ref))
                sealed = claims.seal(plan)
                return self._with_file(claim.ref.uid, sealed, supply_error, entries={claim.ref.uid: sealed.entry})
            case _:
                assert_never(plan)

    def _with_file(
        self, uid: str, sealed: claims.Sealed, supply_error: str, entries: Mapping[str, Any]
    ) -> Change[Answers | claims.Refuse]:
        if not sealed.cdi_devices:
            return Change(sealed.answers, entries=entries)
        if supply_error:
            return Change(claims.Refuse(supply_error))
        try:
            devices = [(name, self._supply.gpu(gpu)) for name, gpu in sealed.cdi_devices.items()]
        except SupplyError as error:
            return Change(claims.Refuse(str(error)))
        content = cdi.render_claim(self._supply.common, devices)
        return Change(sealed.answers, entries=entries, write={self._path(uid): content})

    async def _from_record(self, ref: ClaimRef, error: ApiError) -> Prepared:
        """The API server does not show the claim: what is already prepared is still answered, from the record."""

        def decide(record: Record) -> Change[Answers | claims.Refuse]:
            match claims.recall(ref, self._inventory(), record, has_file=self._exists(self._path(ref.uid))):
                case claims.Done(answers):
                    return Change(answers)
                case claims.Repair(sealed):
                    return self._with_file(ref.uid, sealed, "", entries={})
                case claims.Refuse() as refuse:
                    return Change(refuse)
                case None:
                    return Change(claims.Refuse(f"retrieve claim {ref.namespace}/{ref.name}: {error.message}"))

        answer = await self._ledger.submit(decide)
        if isinstance(answer, claims.Refuse):
            return self._failed(ref, answer.reason)
        telemetry.warning("Answered a prepared claim from the record", claim=str(ref), cause=error.message)
        return answer

    # ── unprepare ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _unprepare_all(self, refs: list[ClaimRef]) -> dict[str, Unprepared]:
        answers = await asyncio.gather(*map(self._unprepare_counted, refs))
        return dict(zip((ref.uid for ref in refs), answers, strict=True))

    async def _unprepare_counted(self, ref: ClaimRef) -> Unprepared:
        with self._metrics.serving("unprepare"):
            began = self._clock.now()
            failure = await self._unprepare_one(ref)
        if failure is not None:
            self._metrics.failed("unprepare", failure.kind)
        else:
            self._metrics.succeeded("unprepare", self._clock.now() - began)
        return failure

    async def _unprepare_one(self, ref: ClaimRef) -> Unprepared:
        try:
            release = await self._ledger.submit(lambda record: self._decide_unprepare(ref, record))
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

    def _decide_unprepare(self, ref: ClaimRef, record: Record) -> Change[claims.Release]:
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
