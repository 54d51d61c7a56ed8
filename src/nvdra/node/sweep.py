"""The sweep: cleans up after crashes, force-deleted pods and lost checkpoints.

`claims` decides which claims to ask about and what the answers mean. This module asks the API server, and carries the
decisions out through the checkpoint writer. It never frees a device if the API server did not answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from nvdra import cdi, claims, telemetry
from nvdra.api import Claim, ClaimError, ClaimRef, claim_ref, decode_claim
from nvdra.checkpoint import Checkpoint, Entry, PreparedDevice
from nvdra.node.cdi_files import REWRITTEN
from nvdra.node.checkpoint_file import CheckpointFile
from nvdra.node.checkpoint_writer import Change, CheckpointError
from nvdra.node.claim_service import ClaimService
from nvdra.node.context import ClaimContext
from nvdra.node.edits import EditsMissing
from nvdra.node.hooks import Report
from nvdra.ports import ApiError, Clock, Host

EVERY_S = 600.0
SECOND_LOOK_S = 60.0
AFTER_FAILURE_S = 30.0
GET_TIMEOUT_S = 20.0
LOOK_S = 10.0
LIST_PAUSE_S, LIST_PAUSE_LIMIT_S = 2.5, 60.0


class ClaimLister(Protocol):
    """All claims of the cluster, some at a time, and one by name."""

    async def claim(self, namespace: str, name: str, *, timeout_s: float) -> bytes: ...
    def claims(self) -> AsyncIterator[tuple[bytes, ...]]: ...


@dataclass(frozen=True, slots=True)
class _Found:
    """The claims that were looked up in a LIST of all claims.

    claims   by UID; None: not allocated
    gone     UIDs that are not in the list
    """

    claims: Mapping[str, Claim | None]
    gone: Set[str]

    def tells_of(self, uid: str) -> bool:
        return uid in self.claims or uid in self.gone

    @property
    def allocated(self) -> Mapping[str, Claim]:
        return {uid: claim for uid, claim in self.claims.items() if claim is not None}


class Sweep:
    """Reconciles the checkpoint with the API server, and the CDI folder with the checkpoint."""

    def __init__(
        self,
        context: ClaimContext,
        host: Host,
        clock: Clock,
        checkpoint_file: CheckpointFile,
        source: ClaimLister,
        service: Callable[[], ClaimService],
    ) -> None:
        self._context = context
        self._driver = context.driver
        self._cdi_files = context.cdi_files
        self._pool = context.pool
        self._checkpoint_writer = context.checkpoint_writer
        self._host = host
        self._clock = clock
        self._file = checkpoint_file
        self._source = source
        self._service = service
        self._stale_before: frozenset[str] = frozenset()
        self._list_pause_s = LIST_PAUSE_S
        self._list_again_at = 0.0
        self._unknown_in: object = None

    async def run(self) -> None:
        """Settle claims of a lost checkpoint; check claims and files every ten minutes, each node at its own times."""
        steps = (self.settle, self.half_prepared, self.aborted, self.leftovers, self.files, self.stale_claims)
        async with asyncio.TaskGroup() as side_by_side:
            for step in steps:
                side_by_side.create_task(self._repeat(step), name=f"sweep {step.__name__}")

    async def _repeat(self, step: Callable[[], Coroutine[Any, Any, float]]) -> None:
        while True:
            await self._clock.sleep(await self._attempt(step))

    async def _attempt(self, step: Callable[[], Coroutine[Any, Any, float]]) -> float:
        try:
            return await step()
        except (CheckpointError, OSError) as error:
            # Another instance holds the locks, or the disk is full: temporary causes, so the sweep goes on.
            telemetry.warning("A sweep failed, trying again later", cause=str(error))
            return AFTER_FAILURE_S

    # ── claims that are gone ───────────────────────────────────────────────────────────────────────────────────

    async def stale_claims(self) -> float:
        """Ask about every entry and unprepare the stale claims that are due. Returns seconds until the next run."""
        telemetry.info(6, "Cleanup: perform for claims in the checkpoint")
        checkpoint = await self._checkpoint_writer.submit(Change)
        found: dict[str, tuple[ClaimRef, str]] = {}
        for ref, answer in await self._answers(checkpoint):
            if why := claims.stale(ref.uid, answer, self._driver.name, self._pool):
                found[ref.uid] = (ref, why)
            elif checkpoint.entries[ref.uid].state == "PrepareStarted":
                telemetry.info(4, f"partially prepared claim not stale: {ref.namespace}/{ref.name}")
        due = claims.due(found.keys(), self._stale_before, checkpoint)
        await asyncio.gather(*(self._unprepare(*found[uid], checkpoint.entries[uid]) for uid in sorted(due)))
        self._stale_before = frozenset(found) - due
        return SECOND_LOOK_S if self._stale_before else EVERY_S * random.uniform(0.9, 1.1)

    async def _unprepare(self, ref: ClaimRef, why: str, entry: Entry) -> None:
        if await self._service().unprepare_stale(ref, entry, is_given_up=True) is None:
            text = f"Checkpointed RC cleanup: unprepared stale claim: {ref.namespace}/{ref.name}"
            telemetry.info(0, text, uid=ref.uid, why=why)

    async def _answers(self, checkpoint: Checkpoint) -> list[tuple[ClaimRef, claims.Answer]]:
        """The API server's answers about the checkpoint's claims, without those that it did not answer."""
        answers = [(ref, answer) for ref in claims.to_get(checkpoint) if (answer := await self._ask(ref)) is not None]
        if nameless := claims.nameless(checkpoint):
            try:
                found = await self._look_up(nameless)
            except ApiError as error:
                telemetry.info(4, "Cleanup: the API server does not list claims, asking again later", cause=str(error))
                return answers
            for uid in filter(found.tells_of, nameless):
                claim = found.claims.get(uid)
                answer = claims.Answer(uid, claim) if uid in found.claims else claims.NOT_FOUND
                answers.append((claim.ref if claim else ClaimRef("", "", uid), answer))
        return answers

    async def _ask(self, ref: ClaimRef) -> claims.Answer | None:
        try:
            claim = decode_claim(await self._source.claim(ref.namespace, ref.name, timeout_s=GET_TIMEOUT_S))
        except ApiError as error:
            if error.is_missing("resourceclaims", ref.name):
                return claims.NOT_FOUND
            telemetry.info(
                4, "Cleanup: the API server gave no answer, asking again later", claim=str(ref), cause=str(error)
            )
            return None
        except ClaimError as error:
            if error.kind == "unallocated" and error.ref is not None and ref.has_name_of(error.ref):
                return claims.Answer(error.ref.uid, None)
            telemetry.info(4, "Cleanup: the API server's answer is no claim", claim=str(ref), cause=str(error))
            return None
        return claims.Answer(claim.ref.uid, claim) if ref.has_name_of(claim.ref) else None

    # ── claims half prepared or half undone ────────────────────────────────────────────────────────────────────

    async def half_prepared(self) -> float:
        """Roll back half-prepared claims that no task works on. Returns seconds until the next run."""
        if not self._driver.has_steps or self._driver.resumes:
            return EVERY_S
        checkpoint = await self._checkpoint_writer.submit(Change)
        left = await asyncio.gather(
            *(
                self._roll_back(ClaimRef(entry.namespace, entry.name, uid), entry, checkpoint)
                for uid, entry in checkpoint.entries.items()
                if entry.state == "PrepareStarted" and uid not in self._context.work.claims
            )
        )
        # Steps of any claim may stop half way at any time, and a run without findings writes nothing: so run often.
        return AFTER_FAILURE_S if any(left) else SECOND_LOOK_S

    async def _roll_back(self, ref: ClaimRef, entry: Entry, checkpoint: Checkpoint) -> bool:
        """Roll the claim back; whether effects of it are left."""
        match claims.release(self._driver, ref, entry, self._context.node(), checkpoint):
            case claims.TearDownFirst():
                failure = await self._service().unprepare_stale(ref, entry)
                if failure is None:
                    telemetry.info(0, "Rolled back half-prepared claim", claim=str(ref))
                    text = "rolled back the half-prepared claim: nothing works on it any more"
                    self._context.hooks.report(Report(ref, "RolledBack", text))
                return failure is not None
            case claims.Refuse(rescan=True):
                return True  # the claim's hardware cannot be read now
            case claims.Forget() | claims.Refuse():
                return False  # the hardware has no effect of the claim, or only another release can roll it back

    async def aborted(self) -> float:
        """Drop entries of aborted claims that no late prepare can follow. Returns seconds until the next run."""
        if self._driver.on_abandoned == "forget":
            return EVERY_S
        dropped = await self._checkpoint_writer.submit(self._decide_aborted)
        for uid in sorted(dropped):
            telemetry.info(1, "Dropped the entry of an aborted claim", uid=uid)
        return SECOND_LOOK_S

    def _decide_aborted(self, checkpoint: Checkpoint) -> Change[frozenset[str]]:
        expired = claims.expired(checkpoint, self._clock.wall())
        return Change(expired, entries=dict.fromkeys(expired))

    # ── files without an entry ─────────────────────────────────────────────────────────────────────────────────

    async def leftovers(self) -> float:
        """Remove CDI files without an entry and files of killed writers. Returns seconds until the next run."""
        removed = await self._checkpoint_writer.submit(self._decide_leftovers)
        for path in removed:
            telemetry.info(0, "Removed a leftover that no claim needs", path=path)
        return EVERY_S

    def _decide_leftovers(self, checkpoint: Checkpoint) -> Change[tuple[str, ...]]:
        if self._file.is_quarantined:
            return Change(())
        paths = [self._path(uid) for uid in claims.orphans(self._context.files.uids(), checkpoint)]
        paths += [*self._context.files.temporary(), *self._context.metadata.leftovers(checkpoint)]
        paths += self._file.leftovers()
        return Change(tuple(paths), remove=tuple(paths))

    # ── files of completed claims ──────────────────────────────────────────────────────────────────────────────

    async def files(self) -> float:
        """Rewrite CDI files of completed claims that are lost or out of date. Returns seconds until the next run.

        Runtimes read the file at every start of a container, but kubelet does not call the plugin for each of them.
        """
        checkpoint = await self._checkpoint_writer.submit(Change)
        failures: dict[str, str] = {}
        for uid, entry in checkpoint.entries.items():
            sealed = self._not_current(uid, checkpoint)
            if sealed is None:
                continue
            ref = ClaimRef(entry.namespace, entry.name, uid)
            try:
                await self._context.edits.refresh(sealed.devices, common=sealed.has_common)
                pod_claim = await self._pod_claim(ref, sealed.answers)
                if await self._checkpoint_writer.submit(partial(self._decide_file, uid, pod_claim)):
                    telemetry.warning(REWRITTEN, claim=str(ref))
                    self._context.hooks.report(Report(ref, "CDIFileRepaired", REWRITTEN, is_warning=False))
            except (EditsMissing, cdi.InvalidDocument) as error:
                failures[str(ref)] = str(error)
        for claim, cause in failures.items():
            telemetry.info(2, "Could not write a CDI file that is lost or out of date", claim=claim, cause=cause)
        return AFTER_FAILURE_S if failures else SECOND_LOOK_S

    def _not_current(self, uid: str, checkpoint: Checkpoint) -> claims.Sealed | None:
        """The sealed claim if its file must be rewritten and can be; None otherwise."""
        entry = checkpoint.entries.get(uid)
        if entry is None or entry.state != "PrepareCompleted":
            return None
        sealed = self._cdi_files.sealed(uid, entry)
        return None if sealed is None or self._cdi_files.is_current(uid, entry, sealed) else sealed

    async def _pod_claim(self, ref: ClaimRef, answers: Sequence[PreparedDevice]) -> str | None:
        """What `Claim.pod_claim` says, asked of the API server if no file of the claim knows; None: the files know."""
        if not self._context.metadata.has_lost_name(ref, answers):
            return None
        try:
            return decode_claim(await self._source.claim(ref.namespace, ref.name, timeout_s=GET_TIMEOUT_S)).pod_claim
        except (ApiError, ClaimError) as error:
            raise EditsMissing(f"its device metadata is lost, and the claim cannot be read: {error}") from None

    def _decide_file(self, uid: str, pod_claim: str | None, checkpoint: Checkpoint) -> Change[bool]:
        sealed = self._not_current(uid, checkpoint)
        if sealed is None or not self._cdi_files.is_available(sealed):
            return Change(False)
        entry = checkpoint.entries[uid]
        ref = ClaimRef(entry.namespace, entry.name, uid)
        return Change(True, write=self._cdi_files.contents(ref, sealed, pod_claim))

    # ── a lost checkpoint ─────────────────────────────────────────────────────────────────────────────────────────

    def unsettled(self) -> Mapping[str, str]:
        """Device name to claim UID, from CDI files without a settled claim; empty unless a checkpoint was lost."""
        if not self._file.is_quarantined:
            return {}
        # Claims that were prepared since then are included too. Their entries conflict anyway.
        return claims.settle(self._driver, self._devices_of_files(), None, self._context.node(), self._pool).unsettled

    async def settle(self) -> float:
        """Restore the claims of a lost checkpoint from the API server. Returns seconds until the next run."""
        if not self._file.is_quarantined:
            return LOOK_S
        node = self._context.node()
        if node == self._unknown_in and self._clock.now() < self._list_again_at:
            return LOOK_S  # a device is missing on the node; another LIST would not help
        try:
            found = await self._look_up(self._context.files.uids())
        except ApiError as error:
            telemetry.warning("The checkpoint is lost and the API server does not list claims yet", cause=str(error))
            self._list_pause_s = min(self._list_pause_s * 2, LIST_PAUSE_LIMIT_S)
            return self._list_pause_s
        self._list_pause_s = LIST_PAUSE_S
        settled = await self._checkpoint_writer.submit(partial(self._decide_settled, found=found))
        for uid, entry in settled.adopted.items():
            telemetry.warning("Restored the entry of a claim that is still allocated here", uid=uid)
            text = "restored the claim's entry after the checkpoint of its node was lost"
            ref = ClaimRef(entry.namespace, entry.name, uid)
            self._context.hooks.report(Report(ref, "CheckpointEntryRestored", text))
        for uid in settled.orphans:
            telemetry.warning("Removed the CDI file of a claim that is no longer allocated here", uid=uid)
        if settled.unsettled:
            telemetry.warning(
                "Could not restore claims of the lost checkpoint: their devices were not found on this node. The "
                "devices stay refused to other claims until those claims are gone",
                claims=sorted(set(settled.unsettled.values())),
                devices=sorted(settled.unsettled),
            )
            self._unknown_in, self._list_again_at = node, self._clock.now() + EVERY_S
        return LOOK_S

    async def _look_up(self, uids: Iterable[str]) -> _Found:
        """Look these claims up in a LIST of all claims of the cluster, in constant memory."""
        wanted = frozenset(uids)
        unreadable: set[str] = set()
        found: dict[str, Claim | None] = {}
        unnamed = 0
        async for bodies in self._source.claims():
            for body in bodies:
                if (ref := claim_ref(body)) is None:
                    unnamed += 1
                elif ref.uid in wanted:
                    try:
                        found[ref.uid] = decode_claim(body)
                    except ClaimError as error:
                        if error.kind == "unallocated":
                            found[ref.uid] = None
                            continue
                        telemetry.warning("Skipped a claim that cannot be read", claim=str(ref), cause=str(error))
                        unreadable.add(ref.uid)
        if unnamed:
            telemetry.warning("Skipped items of the claim list without name, namespace or UID", items=unnamed)
        # An item without a UID may be any claim, so none counts as gone.
        return _Found(found, frozenset() if unnamed else wanted - found.keys() - unreadable)

    def _decide_settled(self, checkpoint: Checkpoint, found: _Found) -> Change[claims.Settled]:
        files = {uid: names for uid, names in self._devices_of_files().items() if uid not in checkpoint.entries}
        open_ones = {uid: files.pop(uid) for uid in list(files) if not found.tells_of(uid)}
        settled = claims.settle(self._driver, files, found.allocated, self._context.node(), self._pool)
        if open_ones:
            unsettled = claims.settle(self._driver, open_ones, None, self._context.node(), self._pool).unsettled
            settled = replace(settled, unsettled={**settled.unsettled, **unsettled})
        remove = [self._path(uid) for uid in settled.orphans]
        if not settled.unsettled:
            remove.append(self._file.mark_path)
        return Change(settled, entries=settled.adopted, remove=tuple(remove))

    # ── the CDI folder ─────────────────────────────────────────────────────────────────────────────────────────

    def _devices_of_files(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for uid in self._context.files.uids():
            try:
                document = cdi.parse(self._host.read(self._path(uid)))
            except (OSError, ValueError) as error:
                telemetry.warning(
                    "A CDI file cannot be read; it counts as an orphan", path=self._path(uid), cause=str(error)
                )
                found[uid] = frozenset()
                continue
            found[uid] = frozenset(self._context.files.kind.device_of(uid, device.name) for device in document.devices)
        return found

    def _path(self, uid: str) -> str:
        return self._context.files.path(uid)
