"""The sweep: what a crash, a force-deleted pod or a lost record leave behind, found and put right.

Which claims to ask about and what the answers mean is decided in `claims`; this module asks, and carries the decisions
out through the ledger. It never frees a device on the word of an API server that did not answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from nvdra import cdi, claims, telemetry
from nvdra.api import Claim, ClaimError, ClaimRef, decode_claim
from nvdra.checkpoint import Record
from nvdra.devices import Inventory
from nvdra.node.ledger import Change, Ledger
from nvdra.node.record_file import RecordFile
from nvdra.node.walk import Site, Walk
from nvdra.ports import ApiError, Clock, Host

EVERY_S = 600.0
SECOND_LOOK_S = 60.0
GET_TIMEOUT_S = 20.0
LIST_AGAIN_S = 5.0


class ClaimLister(Protocol):
    """All claims of the cluster, and one by name."""

    async def claim(self, namespace: str, name: str, *, timeout_s: float) -> bytes: ...
    async def claims(self) -> tuple[bytes, ...]: ...


class Sweep:
    """Reconciles the record with the API server, and the CDI folder with the record."""

    def __init__(
        self,
        site: Site,
        host: Host,
        clock: Clock,
        ledger: Ledger,
        record_file: RecordFile,
        source: ClaimLister,
        walk: Callable[[], Walk],
        inventory: Callable[[], Inventory],
    ) -> None:
        self._site = site
        self._host = host
        self._clock = clock
        self._ledger = ledger
        self._file = record_file
        self._source = source
        self._walk = walk
        self._inventory = inventory
        self._stale_before: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Settle what a lost record left, then look every ten minutes, nodes apart from each other."""
        await self._until_settled()
        await self.leftovers()
        while True:
            again_s = SECOND_LOOK_S if await self.stale_claims() else EVERY_S * random.uniform(0.9, 1.1)
            await self._clock.sleep(again_s)

    # ── claims that are gone ───────────────────────────────────────────────────────────────────────────────────

    async def stale_claims(self) -> bool:
        """Ask about every named entry, let go of those that are due. True: some wait for a second look."""
        telemetry.info(6, "Cleanup: perform for claims in the record")
        record = await self._ledger.submit(Change)
        found: dict[str, tuple[ClaimRef, str]] = {}
        for ref in claims.to_get(record):
            answer = await self._ask(ref)
            if answer is None:
                continue
            if why := claims.stale(ref.uid, answer, self._site.pool):
                found[ref.uid] = (ref, why)
            elif record.entries[ref.uid].state == "PrepareStarted":
                telemetry.info(4, f"partially prepared claim not stale: {ref.namespace}/{ref.name}")
        due = claims.due(found.keys(), self._stale_before, record)
        for uid in sorted(due):
            ref, why = found[uid]
            failure = (await self._walk().unprepare([ref]))[uid]
            if failure is None:
                telemetry.info(
                    0, f"Checkpointed RC cleanup: unprepared stale claim: {ref.namespace}/{ref.name}", uid=uid, why=why
                )
        self._stale_before = frozenset(found) - due
        return bool(self._stale_before)

    async def _ask(self, ref: ClaimRef) -> claims.Answer | None:
        try:
            claim = decode_claim(await self._source.claim(ref.namespace, ref.name, timeout_s=GET_TIMEOUT_S))
        except ApiError as error:
            if error.status == 404:
                return claims.NOT_FOUND
            telemetry.info(
                4, "Cleanup: the API server does not tell, asking again later", claim=str(ref), cause=str(error)
            )
            return None
        except ClaimError as error:
            # An unallocated claim still has its UID in the body, but what is left to free is the same either way.
            return claims.Answer(ref.uid, None) if error.kind == "unallocated" else None
        return claims.Answer(claim.ref.uid, claim)

    # ── files without an entry ─────────────────────────────────────────────────────────────────────────────────

    async def leftovers(self) -> None:
        """Remove CDI files of no entry, and what writers that were killed left beside the real files."""
        removed = await self._ledger.submit(self._decide_leftovers)
        for path in removed:
            telemetry.info(0, "Removed a leftover that no claim needs", path=path)

    def _decide_leftovers(self, record: Record) -> Change[tuple[str, ...]]:
        if self._file.is_quarantined:
            return Change(())
        paths = [self._path(uid) for uid in claims.orphans(self.claim_files(), record)]
        paths += [
            f"{self._site.cdi_root}/{name}"
            for name in self._names()
            if name.startswith("spec.") and name.endswith(".tmp")
        ]
        paths += self._file.leftovers()
        return Change(tuple(paths), remove=tuple(paths))

    # ── a lost record ──────────────────────────────────────────────────────────────────────────────────────────

    def unsettled(self) -> Mapping[str, str]:
        """Device name to claim UID: what CDI files say is in use while the record is lost and the API silent."""
        if not self._file.is_quarantined:
            return {}
        # Files of claims that were prepared since then belong to entries; the plan knows those better.
        return claims.settle(self._devices_of_files(), None, self._inventory(), self._site.pool).unsettled

    async def _until_settled(self) -> None:
        await self._ledger.submit(Change)  # the record is read, and set aside if it must be
        while self._file.is_quarantined:
            try:
                known = await self._all_claims()
            except ApiError as error:
                telemetry.warning("The record is lost and the API server does not list claims yet", cause=str(error))
                await self._clock.sleep(LIST_AGAIN_S)
                continue
            settled = await self._ledger.submit(partial(self._decide_settled, known=known))
            for uid in settled.adopted:
                telemetry.warning("Took over a claim whose record was lost: it is still allocated here", uid=uid)
            for uid in settled.orphans:
                telemetry.warning("Removed a CDI file whose claim is no longer allocated here", uid=uid)
            if settled.unsettled:
                telemetry.warning(
                    "Devices of claims that were prepared before the record was lost are not known to NVML now; "
                    "they stay refused",
                    devices=sorted(settled.unsettled),
                )
                await self._clock.sleep(LIST_AGAIN_S)
                continue
            await self._file.end_quarantine()

    async def _all_claims(self) -> dict[str, Claim]:
        known: dict[str, Claim] = {}
        for body in await self._source.claims():
            try:
                claim = decode_claim(body)
            except ClaimError:
                continue  # not allocated, or unreadable: it holds nothing here
            known[claim.ref.uid] = claim
        return known

    def _decide_settled(self, record: Record, known: Mapping[str, Claim]) -> Change[claims.Settled]:
        files = {uid: names for uid, names in self._devices_of_files().items() if uid not in record.entries}
        settled = claims.settle(files, known, self._inventory(), self._site.pool)
        return Change(settled, entries=settled.adopted, remove=tuple(self._path(uid) for uid in settled.orphans))

    # ── the CDI folder ─────────────────────────────────────────────────────────────────────────────────────────

    def claim_files(self) -> tuple[str, ...]:
        """UIDs of the claims that have a CDI file of this driver."""
        return tuple(uid for name in self._names() if (uid := cdi.claim_uid(name)) is not None)

    def _devices_of_files(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for uid in self.claim_files():
            try:
                document = cdi.parse(self._host.read(self._path(uid)))
            except (OSError, ValueError) as error:
                telemetry.warning(
                    "A CDI file cannot be read; it counts as an orphan", path=self._path(uid), cause=str(error)
                )
                found[uid] = frozenset()
                continue
            found[uid] = frozenset(device.name.removeprefix(f"{uid}-") for device in document.devices)
        return found

    def _names(self) -> list[str]:
        try:
            return self._host.list(self._site.cdi_root)
        except FileNotFoundError:
            return []

    def _path(self, uid: str) -> str:
        return f"{self._site.cdi_root}/{cdi.file_name(uid)}"
