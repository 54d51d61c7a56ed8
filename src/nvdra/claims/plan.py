"""A claim against this node: what preparing it takes.

This module decides; it never reads a file, a clock or the API. Texts of refusals are those of the Go driver from
`unable to prepare claim …` and `prepare devices failed: …` on; who calls puts
`error preparing devices for claim <namespace>/<name>:<uid>: ` in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from types import MappingProxyType

from nvdra.api.claim import Claim, ClaimRef, Result
from nvdra.api.configs import ConfigError
from nvdra.api.gates import Gates
from nvdra.checkpoint import Entry, Foreign, PreparedDevice, Record
from nvdra.claims.admin import refused_device
from nvdra.claims.entries import DRIVER, allocation, answers
from nvdra.claims.held import holder, in_the_way
from nvdra.claims.matching import MismatchError
from nvdra.claims.outcome import (
    Await,
    Concrete,
    CreateMig,
    Done,
    Leave,
    LeaveMig,
    Needs,
    Plan,
    Ready,
    Refuse,
    Repair,
    Sealed,
    Step,
    Undo,
    UndoFirst,
)
from nvdra.claims.partitions import concrete, partitions_of_others, unknown_partitions
from nvdra.claims.place import partitions, place
from nvdra.claims.release import undo
from nvdra.claims.resolve import asked, groups
from nvdra.claims.seal import cdi_name, made
from nvdra.devices import Device, Gpu, Inventory, MigSpec, Partitioning, Partitions

_NOTHING: Mapping[str, str] = MappingProxyType({})


def plan(
    claim: Claim,
    inventory: Inventory,
    record: Record,
    gates: Gates,
    *,
    pool: str,
    has_file: bool,
    unsettled: Mapping[str, str] = _NOTHING,
    in_work: Set[str] = frozenset(),
) -> Plan:
    """What preparing `claim` takes on this node, given everything prepared before it.

    record     including the batch's earlier claims
    pool       this node's pool; a result of another pool is another node's device
    has_file   the claim's CDI file exists and says what it should now
    unsettled  device name to claim UID: CDI files whose claims a lost record no longer tells, and the API not yet
    in_work    UIDs of claims whose steps are under way here
    """
    ours = [result for result in claim.results if result.driver == DRIVER]
    if not ours:
        # The Go driver answers with no devices. Kubelet asks a driver only for claims that name it, so the
        # allocation must have changed since: a pod without its GPU would be worse than one that waits.
        return Refuse(
            f"claim {claim.ref} is allocated no device of {DRIVER}: its allocation changed since kubelet read it"
        )
    if (known := again(claim, inventory, record, has_file=has_file)) is not None:
        return known
    entry = record.entries.get(claim.ref.uid)
    for result in ours:
        if result.pool != pool:
            return Refuse(
                f'{_unable(claim.ref)}requested device {result.device} is in pool "{result.pool}", '
                f'not in this node\'s pool "{pool}"'
            )
        if why := refused_device(asked(result, inventory.devices.get(result.device))):
            return Refuse(f"prepare devices failed: {why}", permanent=True)
    if refuse := _overlap(claim.ref, ours, inventory, record, unsettled):
        return refuse
    if first := _first(claim.ref, entry, ours, inventory, record, gates, in_work):
        return first
    members: list[tuple[Result, Device]] = []
    for result in ours:
        device = inventory.devices.get(result.device)
        if device is None:
            why = inventory.why_absent(result.device)
            text = f'prepare devices failed: allocatable not found for device "{result.device}"'
            return Refuse(f"{text}: {why}" if why else text, rescan=True)
        members.append((result, device))
    try:
        grouped = groups(members, claim.configs, gates)
    except (ConfigError, MismatchError) as odd:
        return Refuse(f"prepare devices failed: {odd}", permanent=True)
    specs = {device.name for _, device in members if isinstance(device, MigSpec)}
    shared = partitions_of_others(specs, claim.ref, record, inventory) if specs else {}
    used = {device.name: device for result, device in members if not result.admin_access}
    steps = _steps(claim.ref, used.values(), shared.keys(), inventory, record)
    if isinstance(steps, Refuse):
        return steps
    return Needs(claim, grouped, steps, shared) if steps else Ready(claim, made(grouped, shared))


def again(claim: Claim, inventory: Inventory, record: Record, *, has_file: bool) -> Done | Repair | Refuse | None:
    """What the record answers for a claim that was completed with this very allocation; None for any other."""
    entry = record.entries.get(claim.ref.uid)
    if entry is None or entry.state != "PrepareCompleted" or allocation(entry.status) != allocation(claim.status):
        return None
    return _again(claim.ref, entry, inventory, has_file)


def recall(claim: ClaimRef, inventory: Inventory, record: Record, *, has_file: bool) -> Done | Repair | Refuse | None:
    """What the record alone answers for a claim, for when the API server is silent; None if it was never completed."""
    entry = record.entries.get(claim.uid)
    if entry is None or entry.state != "PrepareCompleted":
        return None
    return _again(claim, entry, inventory, has_file)


def _first(
    claim: ClaimRef,
    entry: Entry | None,
    ours: list[Result],
    inventory: Inventory,
    record: Record,
    gates: Gates,
    in_work: Set[str],
) -> Refuse | UndoFirst | Await | None:
    """What must be out of the way before anything is prepared."""
    if entry is not None and (first := _undone_first(claim, entry, inventory, record, gates)):
        return first
    for result in ours:
        if result.admin_access:
            continue
        for uid in in_the_way(result, claim, inventory, record):
            if uid in in_work:
                return Await(uid)
            begun = record.entries[uid]
            other = ClaimRef(begun.namespace, begun.name, uid)
            if first := _undone_first(other, begun, inventory, record, gates):
                return first
    return None


def _undone_first(
    claim: ClaimRef, entry: Entry, inventory: Inventory, record: Record, gates: Gates
) -> Refuse | UndoFirst | None:
    match undo(claim, entry, inventory, record, gates):
        case Refuse() as refuse:
            return refuse
        case Leave() if entry.state == "PrepareStarted" and not any(partitions(entry, inventory)):
            return None  # it was only begun and changed nothing: it holds nothing
        case Leave() | Undo():
            # Also where no hardware changes: allocated anew, one write for both would leave the former entry with the
            # new file, if death came between file and record; and of two claims begun on one partition each keeps the
            # other from being undone, until one has left.
            return UndoFirst(claim, entry)


def _steps(
    claim: ClaimRef, devices: Iterable[Device], shared: Set[str], inventory: Inventory, record: Record
) -> tuple[Step, ...] | Refuse:
    """What must be done to the hardware before these devices can be handed out.

    shared   names of partitions that are made already, for other claims
    """
    steps: list[Step] = []
    for device in devices:
        match device:
            case MigSpec() if device.name not in shared:
                steps.append(CreateMig(device))
            case Gpu(partitioning=Partitioning()) if inventory.partitions.get(device.uuid, Partitions()).is_on:
                steps.append(LeaveMig(device))
            case _:
                pass
    unknown = unknown_partitions(inventory, record) if steps else ()
    for step in steps:
        name = step.spec.name if isinstance(step, CreateMig) else step.gpu.name
        wanted = place(name, inventory)
        for other in unknown:
            if wanted is not None and wanted.meets(other.place):
                return Refuse(
                    f"{_unable(claim)}requested device {name} overlaps a partition that this driver did not make: "
                    f"{other}; destroy it (nvidia-smi mig -dci, -dgi) or leave the device to who made it",
                    rescan=True,
                )
    return tuple(steps)


def _again(claim: ClaimRef, entry: Entry, inventory: Inventory, has_file: bool) -> Done | Repair | Refuse:
    """The answer for a completed claim whose allocation is unchanged."""
    known = answers(entry)
    for device in known:
        if changed := _changed(device, inventory):
            return Refuse(
                f"{_unable(claim)}device {device.device} was prepared as {device.uuid} and {changed}: "
                "delete the pods that use this claim, then it can be prepared anew",
                rescan=True,
            )
    if has_file:
        return Done(known)
    if (named := cdi_devices(claim.uid, entry, inventory)) is not None:
        return Repair(Sealed(entry, named, known))
    for device in known:
        if _rebuilt(entry, device, inventory) is None:
            return Refuse(
                f"{_unable(claim)}its CDI file is lost or names files that are gone, and device {device.device} is not "
                f"known here, so it cannot be written again{_because(inventory.why_absent(device.device))}",
                rescan=True,
            )
    return Done(known)


def cdi_devices(uid: str, entry: Entry, inventory: Inventory) -> dict[str, Concrete] | None:
    """What the CDI file of a completed claim is for, by CDI device name; None if this node does not know it all now."""
    named: dict[str, Concrete] = {}
    for device in answers(entry):
        found = _rebuilt(entry, device, inventory)
        if found is None:
            return None
        named[cdi_name(uid, device.device)] = found
    return dict(sorted(named.items()))


def _rebuilt(entry: Entry, device: PreparedDevice, inventory: Inventory) -> Concrete | None:
    return None if isinstance(entry.prepared, Foreign) else concrete(device, inventory)


def _changed(device: PreparedDevice, inventory: Inventory) -> str:
    """What became of a prepared device since; "" if nothing is known against it."""
    here = inventory.devices.get(device.device)
    if here is not None and not isinstance(here, MigSpec):
        return f"is {here.uuid} now" if here.uuid != device.uuid else ""
    if device.mig is None or inventory.unread:
        return ""
    partitions = inventory.partitions.get(device.mig.parent_uuid)
    if partitions is None:
        return ""
    live = {compute.uuid for instance in partitions.instances for compute in instance.compute}
    return "" if device.uuid in live else "is gone: somebody destroyed the partition"


def _overlap(
    claim: ClaimRef, ours: list[Result], inventory: Inventory, record: Record, unsettled: Mapping[str, str]
) -> Refuse | None:
    for result in ours:
        if result.admin_access:
            continue
        if other := holder(result, claim, inventory, record):
            return Refuse(
                f"{_unable(claim)}requested device {result.device} is already allocated to different claim {other}"
            )
        if other := _unsettled_on(result, claim, inventory, unsettled):
            return Refuse(
                f"{_unable(claim)}requested device {result.device} may still be in use by claim {other}: "
                "the checkpoint was lost and the API server has not said yet what became of that claim"
            )
    return None


def _unsettled_on(result: Result, claim: ClaimRef, inventory: Inventory, unsettled: Mapping[str, str]) -> str:
    """UID of another claim whose file says that it has the device or its place; "" if there is none."""
    wanted = place(result.device, inventory) if unsettled else None
    for name, uid in unsettled.items():
        there = place(name, inventory)
        is_met = wanted is not None and there is not None and wanted.meets(there)
        if uid != claim.uid and (name == result.device or is_met):
            return uid
    return ""


def _unable(claim: ClaimRef) -> str:
    return f"unable to prepare claim {claim.uid}: "


def _because(why: str) -> str:
    return f" ({why})" if why else ""
