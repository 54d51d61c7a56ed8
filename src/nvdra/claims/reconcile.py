"""Decisions of the sweep: which claims to ask the API server about, what its answers mean, which files are orphans.

Pure. `node/sweep` makes the calls and carries the decisions out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

from nvdra.api.claim import Claim, ClaimRef, Result
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.claims.driver import Driver, Missing
from nvdra.claims.sealing import adopted as adopt
from nvdra.claims.unprepare_plan import is_aborted

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Answer:
    """The API server's answer about a claim's name.

    uid    UID of the claim that has the name now; "" if there is none
    claim  that claim; None if it is not allocated
    """

    uid: str
    claim: Claim | None


NOT_FOUND = Answer("", None)


@dataclass(frozen=True, slots=True)
class Settled:
    """The claims of CDI files whose checkpoint was lost.

    adopted    claim UID to the completed entry, restored
    orphans    UIDs of files to remove: the claim is gone, or has other devices
    unsettled  device name to UID: not decided yet, so the device is refused to other claims
    """

    adopted: Mapping[str, Entry]
    orphans: tuple[str, ...]
    unsettled: Mapping[str, str]


def to_get(checkpoint: Checkpoint) -> tuple[ClaimRef, ...]:
    """Claims to check with one GET each: entries with a name."""
    return tuple(
        ClaimRef(entry.namespace, entry.name, uid)
        for uid, entry in checkpoint.entries.items()
        if entry.name and entry.state != "PrepareAborted"
    )


def nameless(checkpoint: Checkpoint) -> frozenset[str]:
    """UIDs of entries without a name (completed ones of the Go driver), to check with a LIST of all claims."""
    return frozenset(
        uid for uid, entry in checkpoint.entries.items() if not entry.name and entry.state != "PrepareAborted"
    )


def expired(checkpoint: Checkpoint, now: float) -> frozenset[str]:
    """UIDs of aborted claims for which no late prepare can come any more; `now` in seconds since 1970."""
    return frozenset(
        uid
        for uid, entry in checkpoint.entries.items()
        if entry.state == "PrepareAborted" and not is_aborted(entry, now)
    )


def stale(uid: str, answer: Answer, driver: str, pool: str) -> str:
    """Why the entry of claim `uid` is out of date; "" if it is not.

    An allocation of other devices on this node does not make it stale: kubelet's prepare call replaces the entry.
    """
    if not answer.uid:
        return "the claim is gone"
    if answer.uid != uid:
        return f"the claim was replaced: its UID is {answer.uid} now"
    if answer.claim is None:
        return "the claim is not allocated any more"
    if not any(result.driver == driver and result.pool == pool for result in answer.claim.results):
        return "the claim is allocated no device of this node any more"
    return ""


def due(found: Set[str], before: Set[str], checkpoint: Checkpoint) -> frozenset[str]:
    """UIDs of stale claims to unprepare now.

    Half-prepared claims are unprepared at once, as by the Go driver. A completed claim may have containers that still
    run (a pod deleted by force). It is due only if the previous run found it stale too, so that kubelet had time.

    found    UIDs of stale claims
    before   UIDs that the previous run found stale
    """
    return frozenset(
        uid
        for uid in found
        if (entry := checkpoint.entries.get(uid)) is not None and (entry.state == "PrepareStarted" or uid in before)
    )


def orphans(files: Iterable[str], checkpoint: Checkpoint) -> tuple[str, ...]:
    """Claim UIDs of CDI files without an entry, sorted."""
    return tuple(sorted(set(files) - checkpoint.entries.keys()))


def settle(
    driver: Driver[V], files: Mapping[str, Set[str]], claims: Mapping[str, Claim] | None, node: V, pool: str
) -> Settled:
    """Decide about CDI files without an entry.

    files   claim UID to the device names in its file
    claims  allocated claims by UID; None if the API server has not answered: then every claim stays unsettled
    """
    adopted: dict[str, Entry] = {}
    gone: list[str] = []
    unsettled: dict[str, str] = {}
    for uid, names in sorted(files.items()):
        if claims is None:
            unsettled |= dict.fromkeys(names, uid)
            continue
        claim = claims.get(uid)
        devices = set() if claim is None else {each.device for each in _of_node(claim, driver.name, pool)}
        if claim is None or not devices or devices != names:
            gone.append(uid)
            continue
        sealed = adopt(driver, claim, node, pool)
        if isinstance(sealed, Missing):
            unsettled |= dict.fromkeys(names, uid)
        else:
            adopted[uid] = sealed.entry
    return Settled(adopted, tuple(gone), unsettled)


def _of_node(claim: Claim, driver: str, pool: str) -> tuple[Result, ...]:
    return tuple(result for result in claim.results if result.driver == driver and result.pool == pool)
