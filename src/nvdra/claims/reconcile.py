"""What sweeps decide: which claims to ask the API server about, what its answers mean, what is left over.

Pure decisions; who asks, how often and what happens to kubelet's calls meanwhile is the node's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from nvdra.api.claim import Claim, ClaimRef, Result
from nvdra.checkpoint import Entry, Record
from nvdra.claims.entries import DRIVER
from nvdra.claims.outcome import Concrete, Group, Ready
from nvdra.claims.partitions import live
from nvdra.claims.resolve import BUILT_IN
from nvdra.claims.seal import seal
from nvdra.gpu import Inventory


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
    return tuple(ClaimRef(entry.namespace, entry.name, uid) for uid, entry in record.entries.items() if entry.name)


def nameless(record: Record) -> frozenset[str]:
    """UIDs of entries without a name (completed ones of the Go driver): only a LIST of all claims can tell."""
    return frozenset(uid for uid, entry in record.entries.items() if not entry.name)


def stale(uid: str, answer: Answer, pool: str) -> str:
    """Why the entry of claim `uid` is out of date; "" if it is not.

    An allocation of other devices on this node is no reason: kubelet asks for it, and preparing replaces the entry.
    """
    if not answer.uid:
        return "the claim is gone"
    if answer.uid != uid:
        return f"the claim was replaced: its UID is {answer.uid} now"
    if answer.claim is None:
        return "the claim is not allocated any more"
    if not any(result.driver == DRIVER and result.pool == pool for result in answer.claim.results):
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
    files: Mapping[str, Set[str]], claims: Mapping[str, Claim] | None, inventory: Inventory, pool: str
) -> Settled:
    """What CDI files without a record stand for.

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
        if claim is None or _allocated(claim, pool) != names:
            gone.append(uid)
            continue
        entry = _adopted(claim, inventory, pool)
        if entry is None:
            unsettled |= dict.fromkeys(names, uid)
        else:
            adopted[uid] = entry
    return Settled(adopted, tuple(gone), unsettled)


def _allocated(claim: Claim, pool: str) -> set[str]:
    return {result.device for result in claim.results if result.driver == DRIVER and result.pool == pool}


def _adopted(claim: Claim, inventory: Inventory, pool: str) -> Entry | None:
    """The completed entry of a claim whose file is in place; None if this node does not know its devices now.

    Configs are not looked at: whatever they set up was set up by whoever wrote the file.
    """
    members: list[tuple[Result, Concrete]] = []
    for result in claim.results:
        if result.driver == DRIVER and result.pool == pool:
            device = live(result.device, inventory)
            if device is None:
                return None
            members.append((result, device))
    return seal(Ready(claim, (Group(BUILT_IN[0][0], tuple(members)),))).entry
