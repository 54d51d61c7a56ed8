"""What sweeps decide: which claims to ask the API server about, what its answers mean, what is left over.

Pure decisions; who asks, how often and what happens to kubelet's calls meanwhile is the node's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

from nvdra.api.claim import Claim, ClaimRef
from nvdra.checkpoint import Entry, Record
from nvdra.claims.driver import Driver, Missing
from nvdra.claims.release import is_aborted
from nvdra.claims.seal import adopted as adopt

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server says of a claim's name.

    uid    of the claim that has the name now; "" if none has
    claim  None if it is not allocated
    """

    uid: str
    claim: Claim | None


NOT_FOUND = Answer("", None)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of CDI files whose record was lost.

    adopted    claim UID to the completed entry its file stands for
    orphans    UIDs whose file nobody needs: gone, or allocated something else
    unsettled  device name to UID: not decided yet, refuse the device to others
    """

    adopted: Mapping[str, Entry]
    orphans: tuple[str, ...]
    unsettled: Mapping[str, str]


def to_get(record: Record) -> tuple[ClaimRef, ...]:
    """Claims that one GET each can tell about: entries that say their name."""
    return tuple(
        ClaimRef(entry.namespace, entry.name, uid)
        for uid, entry in record.entries.items()
        if entry.name and entry.state != "PrepareAborted"
    )


def nameless(record: Record) -> frozenset[str]:
    """UIDs of entries without a name (completed ones of the Go driver): only a LIST of all claims can tell."""
    return frozenset(uid for uid, entry in record.entries.items() if not entry.name and entry.state != "PrepareAborted")


def expired(record: Record, now: float) -> frozenset[str]:
    """UIDs of aborted claims that no late prepare is to be expected of any more; `now` in seconds since 1970."""
    return frozenset(
        uid for uid, entry in record.entries.items() if entry.state == "PrepareAborted" and not is_aborted(entry, now)
    )


def stale(uid: str, answer: Answer, driver: str, pool: str) -> str:
    """Why the entry of claim `uid` is out of date; "" if it is not.

    An allocation of other devices on this node is no reason: kubelet asks for it, and preparing replaces the entry.
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


def due(found: Set[str], before: Set[str], record: Record) -> frozenset[str]:
    """Which of the stale claims to let go of now.

    What was never completed goes at once, as the Go driver does it. A completed claim may have containers that still
    run (a pod deleted by force): it goes if the sweep before found it stale too, so that kubelet had its time.
    """
    return frozenset(
        uid
        for uid in found
        if (entry := record.entries.get(uid)) is not None and (entry.state == "PrepareStarted" or uid in before)
    )


def orphans(files: Iterable[str], record: Record) -> tuple[str, ...]:
    """Claim UIDs of CDI files without an entry, sorted."""
    return tuple(sorted(set(files) - record.entries.keys()))


def settle(
    driver: Driver[V], files: Mapping[str, Set[str]], claims: Mapping[str, Claim] | None, node: V, pool: str
) -> Settled:
    """What CDI files without an entry stand for.

    files   claim UID to the device names in its file
    claims  allocated claims by UID; None while the API server has not answered: nothing is decided then
    """
    adopted: dict[str, Entry] = {}
    gone: list[str] = []
    unsettled: dict[str, str] = {}
    for uid, names in sorted(files.items()):
        if claims is None:
            unsettled |= dict.fromkeys(names, uid)
            continue
        claim = claims.get(uid)
        if (
            claim is None
            or {result.device for result in claim.results if result.driver == driver.name and result.pool == pool}
            != names
        ):
            gone.append(uid)
            continue
        sealed = adopt(driver, claim, node, pool)
        if isinstance(sealed, Missing):
            unsettled |= dict.fromkeys(names, uid)
        else:
            adopted[uid] = sealed.entry
    return Settled(adopted, tuple(gone), unsettled)
