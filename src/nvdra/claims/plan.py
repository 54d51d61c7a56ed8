"""A claim against this node: what preparing it takes, and what it leaves in the record.

This module decides; it never reads a file, a clock or the API. Texts of refusals are those of the Go driver from
`unable to prepare claim …` and `prepare devices failed: …` on; who calls puts
`error preparing devices for claim <namespace>/<name>:<uid>: ` in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nvdra.api.claim import Claim, ClaimRef, Result
from nvdra.api.configs import ConfigError
from nvdra.api.gates import Gates
from nvdra.checkpoint import Entry, Foreign, PreparedDevice, PreparedGroup, Record
from nvdra.claims.held import DRIVER, allocation, answers, holder
from nvdra.claims.matching import MismatchError
from nvdra.claims.outcome import Done, Leave, Plan, Ready, Refuse, Repair, Sealed
from nvdra.claims.release import undo
from nvdra.claims.resolve import groups
from nvdra.devices import Gpu, Inventory

CDI_KIND = "k8s.gpu.nvidia.com/claim"

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
) -> Plan:
    """What preparing `claim` takes on this node, given everything prepared before it.

    record     including the batch's earlier claims
    pool       this node's pool; a result of another pool is another node's device
    has_file   the claim's CDI file exists
    unsettled  device name to claim UID: CDI files whose claims a lost record no longer tells, and the API not yet
    """
    ours = [result for result in claim.results if result.driver == DRIVER]
    if not ours:
        # The Go driver answers with no devices. Kubelet asks a driver only for claims that name it, so the
        # allocation must have changed since: a pod without its GPU would be worse than one that waits.
        return Refuse(
            f"claim {claim.ref} is allocated no device of {DRIVER}: its allocation changed since kubelet read it"
        )
    entry = record.entries.get(claim.ref.uid)
    if entry is not None and entry.state == "PrepareCompleted" and allocation(entry.status) == allocation(claim.status):
        return _again(claim.ref, entry, inventory, has_file)
    for result in ours:
        if result.pool != pool:
            return Refuse(
                f'{_unable(claim.ref)}requested device {result.device} is in pool "{result.pool}", '
                f'not in this node\'s pool "{pool}"'
            )
    if refuse := _overlap(claim.ref, ours, inventory, record, unsettled):
        return refuse
    notes: tuple[str, ...] = ()
    if entry is not None:
        match undo(claim.ref, entry):
            case Refuse() as refuse:
                return refuse
            case Leave(notes=left):
                notes = left
    members: list[tuple[Result, Gpu]] = []
    for result in ours:
        gpu = inventory.devices.get(result.device)
        if gpu is None:
            why = inventory.why_absent(result.device)
            text = f'prepare devices failed: allocatable not found for device "{result.device}"'
            return Refuse(f"{text}: {why}" if why else text, rescan=True)
        members.append((result, gpu))
    try:
        return Ready(claim, groups(members, claim.configs, gates), replaces=entry, notes=notes)
    except (ConfigError, MismatchError) as odd:
        return Refuse(f"prepare devices failed: {odd}", permanent=True)


def recall(claim: ClaimRef, inventory: Inventory, record: Record, *, has_file: bool) -> Done | Repair | Refuse | None:
    """What the record alone answers for a claim, for when the API server is silent; None if it was never completed."""
    entry = record.entries.get(claim.uid)
    if entry is None or entry.state != "PrepareCompleted":
        return None
    return _again(claim, entry, inventory, has_file)


def seal(ready: Ready) -> Sealed:
    """What a claim leaves behind once everything it needs is done.

    Groups are in the order of their first result, so that the same claim gives the same bytes everywhere.
    Two results on one device give one CDI device and an answer each.
    """
    claim = ready.claim
    prepared = tuple(
        PreparedGroup(tuple(_prepared(claim.ref.uid, result, gpu) for result, gpu in group.members))
        for group in ready.groups
    )
    entry = Entry(
        state="PrepareCompleted",
        status=claim.status,
        prepared=prepared,
        # DROP-IN: better. The Go driver drops both here; with them a completed entry can be checked with one GET.
        name=claim.ref.name,
        namespace=claim.ref.namespace,
    )
    named = {_cdi_name(claim.ref.uid, gpu.name): gpu for group in ready.groups for _, gpu in group.members}
    return Sealed(entry, dict(sorted(named.items())), answers(entry))


def _again(claim: ClaimRef, entry: Entry, inventory: Inventory, has_file: bool) -> Done | Repair | Refuse:
    """The answer for a completed claim whose allocation is unchanged."""
    known = answers(entry)
    for device in known:
        gpu = inventory.devices.get(device.device)
        if gpu is not None and gpu.uuid != device.uuid:
            return Refuse(
                f"{_unable(claim)}device {device.device} was prepared as {device.uuid} and is {gpu.uuid} now: "
                "delete the pods that use this claim, then it can be prepared anew"
            )
    if has_file:
        return Done(known)
    named: dict[str, Gpu] = {}
    for device in known:
        gpu = inventory.devices.get(device.device)
        if gpu is None or isinstance(entry.prepared, Foreign):
            return Refuse(
                f"{_unable(claim)}its CDI file is lost and device {device.device} is not known here, "
                f"so it cannot be written again{_because(inventory.why_absent(device.device))}",
                rescan=True,
            )
        named[_cdi_name(claim.uid, gpu.name)] = gpu
    return Repair(Sealed(entry, dict(sorted(named.items())), known))


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
        other = unsettled.get(result.device)
        if other is not None and other != claim.uid:
            return Refuse(
                f"{_unable(claim)}requested device {result.device} may still be in use by claim {other}: "
                "the checkpoint was lost and the API server has not said yet what became of that claim"
            )
    return None


def _prepared(uid: str, result: Result, gpu: Gpu) -> PreparedDevice:
    return PreparedDevice(
        uuid=gpu.uuid,
        requests=(result.request,),
        pool=result.pool,
        device=result.device,
        cdi_ids=(f"{CDI_KIND}={_cdi_name(uid, result.device)}",),
        share_id=result.share_id,
    )


def _cdi_name(uid: str, device: str) -> str:
    return f"{uid}-{device}"


def _unable(claim: ClaimRef) -> str:
    return f"unable to prepare claim {claim.uid}: "


def _because(why: str) -> str:
    return f" ({why})" if why else ""
