"""Decides how a claim is prepared on this node. Pure: reads no file, no clock and no API.

Texts of refusals are the Go driver's from `unable to prepare claim …` and `prepare devices failed: …` on; the claim
service puts `error preparing devices for claim <namespace>/<name>:<uid>: ` in front.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from types import MappingProxyType
from typing import TypeVar

from nvdra.api.claim import Claim, ClaimRef, Result
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.claims.driver import ConfigRefused, Driver, Missing, NodeDevice, Refuse
from nvdra.claims.entries import allocation, answers, exclusive_names
from nvdra.claims.outcome import (
    AlreadyPrepared,
    Forget,
    NeedsSteps,
    Plan,
    Ready,
    Repair,
    RollBackFirst,
    TearDownFirst,
    WaitForClaim,
)
from nvdra.claims.sealing import restored
from nvdra.claims.unprepare_plan import is_late, release

_NOTHING: Mapping[str, str] = MappingProxyType({})

V = TypeVar("V")


def plan(
    driver: Driver[V],
    claim: Claim,
    node: V,
    checkpoint: Checkpoint,
    *,
    pool: str,
    has_file: bool,
    unsettled: Mapping[str, str] = _NOTHING,
    in_work: Set[str] = frozenset(),
    now: float = 0.0,
) -> Plan:
    """The next action to prepare `claim` on this node.

    checkpoint  including changes of the batch's earlier claims
    pool        the name of this node's pool; a result of another pool is another node's device
    has_file    the claim's CDI file exists and is current
    unsettled   device name to claim UID, for claims whose entries were lost and that are not settled yet
    in_work     UIDs of claims that are being worked on here
    now         seconds since 1970, for claims that were aborted
    """
    ours = [result for result in claim.results if result.driver == driver.name]
    if not ours:
        # The Go driver answers with no devices. Kubelet calls a driver only for claims with devices of that driver, so
        # the allocation has changed since. A pod that waits is better than a pod that runs without its device.
        return Refuse(
            f"claim {claim.ref} is allocated no device of {driver.name}: its allocation changed since kubelet read it"
        )
    if (known := answer_if_prepared(driver, claim, node, checkpoint, has_file=has_file)) is not None:
        return known
    if (entry := checkpoint.entries.get(claim.ref.uid)) is not None and is_late(entry, claim, now):
        return Refuse(f"stale prepare for claim {claim.ref}: claim prepare was already aborted", permanent=True)
    for result in ours:
        if result.pool != pool:
            return Refuse(
                f'{unable(claim.ref)}requested device {result.device} is in pool "{result.pool}", '
                f'not in this node\'s pool "{pool}"'
            )
        if why := driver.forbids(result, node):
            return Refuse(f"prepare devices failed: {why}", permanent=True)
    if refuse := _conflict(driver, claim, ours, node, checkpoint, unsettled):
        return refuse
    if first := _first(driver, claim, ours, node, checkpoint, in_work):
        return first
    members: list[tuple[Result, NodeDevice]] = []
    for result in ours:
        device = driver.resolve(result, node)
        if isinstance(device, Missing):
            text = f'prepare devices failed: allocatable not found for device "{result.device}"'
            return Refuse(f"{text}: {device.reason}" if device.reason else text, rescan=True)
        members.append((result, device))
    try:
        groups = driver.group(members, claim.configs)
    except ConfigRefused as odd:
        return Refuse(f"prepare devices failed: {odd}", permanent=True)
    steps = driver.steps(claim.ref, groups, node, checkpoint)
    if isinstance(steps, Refuse):
        return steps
    return NeedsSteps(claim, groups, steps) if steps.apply else Ready(claim, groups, steps.facts)


def answer_if_prepared(
    driver: Driver[V], claim: Claim, node: V, checkpoint: Checkpoint, *, has_file: bool
) -> AlreadyPrepared | Repair | Refuse | None:
    """The checkpoint's answer for a claim that was completed with the same allocation; None for any other claim."""
    entry = checkpoint.entries.get(claim.ref.uid)
    if entry is None or entry.state != "PrepareCompleted":
        return None
    if allocation(entry.status, driver.name) != allocation(claim.status, driver.name):
        return None
    return _answer_prepared(driver, claim.ref, entry, node, has_file)


def answer_from_checkpoint(
    driver: Driver[V], claim: ClaimRef, node: V, checkpoint: Checkpoint, *, has_file: bool
) -> AlreadyPrepared | Repair | Refuse | None:
    """The checkpoint's answer while the API server gives none; None if the claim was never completed."""
    entry = checkpoint.entries.get(claim.uid)
    if entry is None or entry.state != "PrepareCompleted":
        return None
    return _answer_prepared(driver, claim, entry, node, has_file)


def unable(claim: ClaimRef) -> str:
    """The Go driver's prefix of refusals that concern one device."""
    return f"unable to prepare claim {claim.uid}: "


def _first(
    driver: Driver[V], claim: Claim, ours: list[Result], node: V, checkpoint: Checkpoint, in_work: Set[str]
) -> Refuse | RollBackFirst | WaitForClaim | None:
    """The rollback or the running work that must end before the claim can be prepared; None if there is none."""
    entry = checkpoint.entries.get(claim.ref.uid)
    if (
        entry is not None
        and entry.state != "PrepareAborted"
        and not _is_resumed(driver, claim, entry)
        and (first := _rolled_back_first(driver, claim.ref, entry, node, checkpoint))
    ):
        return first
    for result in ours:
        if result.admin_access:
            continue
        for uid in _overlapping(driver, result, claim.ref, node, checkpoint):
            if uid in in_work:
                return WaitForClaim(uid)
            begun = checkpoint.entries[uid]
            other = ClaimRef(begun.namespace, begun.name, uid)
            if first := _rolled_back_first(driver, other, begun, node, checkpoint):
                return first
    return None


def _is_resumed(driver: Driver[V], claim: Claim, entry: Entry) -> bool:
    """Whether the claim's half-prepared entry is prepared on, without a rollback."""
    is_half_prepared = entry.state == "PrepareStarted" and not entry.prepared
    return (
        driver.resumes
        and is_half_prepared
        and allocation(entry.status, driver.name) == allocation(claim.status, driver.name)
    )


def _overlapping(driver: Driver[V], result: Result, claim: ClaimRef, node: V, checkpoint: Checkpoint) -> Iterator[str]:
    """UIDs of other claims that are half prepared or half torn down and overlap the result's device."""
    for uid, entry in checkpoint.entries.items():
        if uid == claim.uid or entry.state != "PrepareStarted":
            continue
        if result.device in exclusive_names(entry, driver.name) or driver.overlaps(result, entry, node):
            yield uid


def _rolled_back_first(
    driver: Driver[V], claim: ClaimRef, entry: Entry, node: V, checkpoint: Checkpoint
) -> Refuse | RollBackFirst | None:
    match release(driver, claim, entry, node, checkpoint):
        case Refuse() as refuse:
            return refuse
        case Forget(blocks_others=False) if entry.state == "PrepareStarted":
            return None  # the half-prepared claim changed nothing
        case Forget() | TearDownFirst():
            # Also if no hardware changes. A claim with a new allocation must not replace its entry in one write: after
            # a crash between file and checkpoint, the former entry would have the new file. And two half-prepared
            # entries on the same extent block each other's rollback until one of them is removed.
            return RollBackFirst(claim, entry)


def _answer_prepared(
    driver: Driver[V], claim: ClaimRef, entry: Entry, node: V, has_file: bool
) -> AlreadyPrepared | Repair | Refuse:
    """The answer for a completed claim whose allocation is unchanged."""
    known = answers(entry)
    for device in known:
        if changed := driver.changed(device, node):
            return Refuse(
                f"{unable(claim)}device {device.device} was prepared as {device.uuid} and {changed}: "
                "delete the pods that use this claim, then it can be prepared anew",
                rescan=True,
            )
    if has_file:
        return AlreadyPrepared(known)
    sealed = restored(driver, claim, entry, node)
    if isinstance(sealed, Missing):
        because = f" ({sealed.reason})" if sealed.reason else ""
        return Refuse(
            f"{unable(claim)}its CDI file is lost or names files that are gone, and device {sealed.device} is not "
            f"known here, so it cannot be written again{because}",
            rescan=True,
        )
    return Repair(sealed)


def _conflict(
    driver: Driver[V],
    claim: Claim,
    ours: list[Result],
    node: V,
    checkpoint: Checkpoint,
    unsettled: Mapping[str, str],
) -> Refuse | None:
    for result in ours:
        if result.admin_access:
            continue
        if why := _conflict_with_completed(driver, claim, result, node, checkpoint):
            return Refuse(f"{unable(claim.ref)}{why}")
        for name, uid in unsettled.items():
            if uid != claim.ref.uid and (name == result.device or driver.same_extent(name, result.device, node)):
                return Refuse(
                    f"{unable(claim.ref)}requested device {result.device} may still be in use by claim {uid}: "
                    "the checkpoint was lost and the API server has not said yet what became of that claim"
                )
    return None


def _conflict_with_completed(driver: Driver[V], claim: Claim, result: Result, node: V, checkpoint: Checkpoint) -> str:
    """Why another completed claim conflicts with the result's device; "" if none does.

    Claims conflict if their allocations name the same device, or if the driver finds that their extents overlap.
    """
    for uid, entry in checkpoint.entries.items():
        if uid == claim.ref.uid or entry.state != "PrepareCompleted":
            continue
        is_same = any(other.device == result.device for other in allocation(entry.status, driver.name).exclusive)
        if is_same and (refused := driver.share_refused(claim, result, uid, entry)) is not None:
            if refused:
                return refused
        elif is_same or driver.conflict(result, entry, node):
            return f"requested device {result.device} is already allocated to different claim {uid}"
    return ""
