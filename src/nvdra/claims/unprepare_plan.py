"""Unpreparing a claim: what leaves the checkpoint, and which steps are rolled back first."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from nvdra.api.claim import ClaimRef
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.claims.driver import Driver, Refuse
from nvdra.claims.outcome import Forget, NotPrepared, Release, TearDownFirst

V = TypeVar("V")


def unprepare(driver: Driver[V], claim: ClaimRef, node: V, checkpoint: Checkpoint) -> Release:
    """What unpreparing `claim` takes. An unknown claim is done already: kubelet asks more often than once."""
    entry = checkpoint.entries.get(claim.uid)
    return NotPrepared() if entry is None else release(driver, claim, entry, node, checkpoint)


def release(
    driver: Driver[V], claim: ClaimRef, entry: Entry, node: V, checkpoint: Checkpoint
) -> Forget | TearDownFirst | Refuse:
    """What giving back everything of this entry takes."""
    teardown = driver.teardown(claim, entry, node, checkpoint)
    if isinstance(teardown, Refuse):
        return teardown
    if not teardown.steps:
        return Forget(teardown.notes, teardown.blocks_others)
    started = replace(entry, state="PrepareStarted", name=claim.name, namespace=claim.namespace)
    return TearDownFirst(teardown, started)
