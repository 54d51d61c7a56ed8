"""Decides how a claim is unprepared: the change of its entry, and the steps to roll back first."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import orjson

from nvdra.api.claim import Claim, ClaimRef
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.claims.driver import Driver, Refuse
from nvdra.claims.outcome import Forget, NotPrepared, Release, TearDownFirst

# Twice as long as kubelet waits for a call: a prepare call from before the unprepare has ended by then.
ABORTED_S = 90

V = TypeVar("V")


def unprepare(
    driver: Driver[V], claim: ClaimRef, node: V, checkpoint: Checkpoint, given_up_at: float | None = None
) -> Release:
    """The next action to unprepare `claim`. Nothing is to be done for an unknown claim: kubelet repeats its calls.

    given_up_at   when kubelet or the API server gave the claim up, in seconds since 1970; None: it may still be wanted
    """
    entry = checkpoint.entries.get(claim.uid)
    if entry is None or entry.state == "PrepareAborted":
        return NotPrepared(is_aborted=entry is not None)
    return release(driver, claim, entry, node, checkpoint, given_up_at)


def release(
    driver: Driver[V], claim: ClaimRef, entry: Entry, node: V, checkpoint: Checkpoint, given_up_at: float | None = None
) -> Forget | TearDownFirst | Refuse:
    """The next action to release everything of this entry, which is not aborted. `given_up_at` as in `unprepare`."""
    teardown = driver.teardown(claim, entry, node, checkpoint)
    if isinstance(teardown, Refuse):
        return teardown
    if not teardown.steps:
        return Forget(teardown.notes, teardown.blocks_others, remains(driver, claim, entry, given_up_at))
    started = replace(entry, state="PrepareStarted", name=claim.name, namespace=claim.namespace)
    return TearDownFirst(teardown, started)


def remains(driver: Driver[V], claim: ClaimRef, entry: Entry, given_up_at: float | None) -> Entry | None:
    """The aborted entry that replaces the entry of an abandoned half-prepared claim; None: no entry.

    A started entry with prepared devices is an unfinished teardown: it is continued, never aborted.
    """
    is_half_prepared = entry.state == "PrepareStarted" and not entry.prepared
    if given_up_at is None or not is_half_prepared or driver.on_abandoned == "forget":
        return None
    return Entry(
        "PrepareAborted", entry.status, name=claim.name, namespace=claim.namespace, aborted_at=int(given_up_at)
    )


def is_aborted(entry: Entry, now: float) -> bool:
    """Whether the entry is aborted and has not expired; an entry without a time counts as expired."""
    return entry.state == "PrepareAborted" and entry.aborted_at is not None and abs(now - entry.aborted_at) < ABORTED_S


def is_late(entry: Entry, claim: Claim, now: float) -> bool:
    """Whether a prepare of `claim` is late: the claim was aborted with this status. A new status is a new request."""
    return is_aborted(entry, now) and (entry.status == claim.status or _same_content(entry.status, claim.status))


def _same_content(one: bytes, other: bytes) -> bool:
    """Whether two statuses are equal but for notation; False if one is no plain JSON, as users may write parameters."""
    try:
        return bool(orjson.loads(one) == orjson.loads(other))
    except orjson.JSONDecodeError:
        return False
