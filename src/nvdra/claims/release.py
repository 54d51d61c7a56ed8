"""Unpreparing a claim: what leaves the checkpoint, and which steps are rolled back first."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import orjson

from nvdra.api.claim import Claim, ClaimRef
from nvdra.checkpoint import Entry, Record
from nvdra.claims.driver import Driver, Refuse
from nvdra.claims.outcome import Forget, NotPrepared, Release, TearDownFirst

# Twice as long as kubelet waits for a call: a prepare from before the unprepare comes no later.
ABORTED_S = 90

V = TypeVar("V")


def unprepare(driver: Driver[V], claim: ClaimRef, node: V, record: Record, given_up_at: float | None = None) -> Release:
    """What unpreparing `claim` takes. An unknown claim is done already: kubelet asks more often than once.

    given_up_at   when kubelet or the API server gave the claim up, in seconds since 1970; None: it may still be wanted
    """
    entry = record.entries.get(claim.uid)
    if entry is None or entry.state == "PrepareAborted":
        return NotPrepared(is_aborted=entry is not None)
    return release(driver, claim, entry, node, record, given_up_at)


def release(
    driver: Driver[V], claim: ClaimRef, entry: Entry, node: V, record: Record, given_up_at: float | None = None
) -> Forget | TearDownFirst | Refuse:
    """What giving back everything of this entry takes; not for an aborted one. `given_up_at` as in `unprepare`."""
    teardown = driver.teardown(claim, entry, node, record)
    if isinstance(teardown, Refuse):
        return teardown
    if not teardown.steps:
        return Forget(teardown.notes, teardown.holds, remains(driver, claim, entry, given_up_at))
    started = replace(entry, state="PrepareStarted", name=claim.name, namespace=claim.namespace)
    return TearDownFirst(teardown, started)


def remains(driver: Driver[V], claim: ClaimRef, entry: Entry, given_up_at: float | None) -> Entry | None:
    """The aborted entry that a given up, half-prepared claim leaves; None: no entry.

    A started entry with prepared devices is a teardown that a crash interrupted: it is continued, never aborted.
    """
    is_half_prepared = entry.state == "PrepareStarted" and not entry.prepared
    if given_up_at is None or not is_half_prepared or driver.on_abandoned == "forget":
        return None
    return Entry(
        "PrepareAborted", entry.status, name=claim.name, namespace=claim.namespace, aborted_at=int(given_up_at)
    )


def is_aborted(entry: Entry, now: float) -> bool:
    """Whether the entry is an aborted claim's that still counts; one without its time never does."""
    return entry.state == "PrepareAborted" and entry.aborted_at is not None and abs(now - entry.aborted_at) < ABORTED_S


def is_late(entry: Entry, claim: Claim, now: float) -> bool:
    """Whether preparing `claim` comes after it was aborted. A claim whose status changed since is wanted again."""
    return is_aborted(entry, now) and (
        entry.status == claim.status or orjson.loads(entry.status) == orjson.loads(claim.status)
    )
