"""What gives back everything of a checkpoint entry, from the entry alone, reference-counted over other entries.

A plain GPU needs no step, nor does a MIG device that an administrator made. A partition made on demand is destroyed
with its last claim, a time slice is reset and an MPS daemon ends with its last claim, a passed-through GPU goes back to
its driver. What other releases set up and this one cannot interpret is kept, and the refusal says what it is.
"""

from __future__ import annotations

from nvdra.api.claim import ClaimRef
from nvdra.api.gates import DYNAMIC_MIG, MPS_SUPPORT, PASSTHROUGH_SUPPORT, TIME_SLICING_SETTINGS, Gates
from nvdra.checkpoint import Checkpoint, Entry, PreparedGroup, Unsupported
from nvdra.claims import Refuse, Teardown, allocation, answers
from nvdra.gpu.extents import DRIVER, exclusive_names, extent
from nvdra.gpu.extents import partitions as mig_partitions
from nvdra.gpu.fabric import fabric_teardown, uses_gpus
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.groups import regroup
from nvdra.gpu.inventory import Inventory
from nvdra.gpu.mig import MigDevice
from nvdra.gpu.mps import StartMpsDaemon
from nvdra.gpu.names import GpuName, MigName, VfioName, parse_name
from nvdra.gpu.sharing import Sharing, daemons, daemons_of
from nvdra.gpu.steps import (
    CreatePartition,
    GpuStep,
    SetTimeSlice,
    is_shared,
    sliced_names,
    sliced_uuids,
)
from nvdra.gpu.vfio import BindVfio, vfio_address

_KINDS = {
    "mig": "a MIG device",
}


def teardown(
    claim: ClaimRef, entry: Entry, inventory: Inventory, checkpoint: Checkpoint, gates: Gates, sharing: Sharing
) -> Teardown | Refuse:
    """The steps to roll back for `entry` of `claim`; none where nothing of it lies on hardware."""
    if refuse := _unsupported(claim, entry):
        return refuse
    on_gpus = tuple(mig_partitions(entry, inventory))
    mps = _daemons(claim, entry, inventory, gates, sharing)
    if isinstance(mps, Refuse):
        return mps
    bound = _bound(claim, entry, inventory, gates)
    if isinstance(bound, Refuse):
        return bound
    steps: list[GpuStep] = []
    shared: list[GpuStep] = []
    for binding in bound:
        (shared if is_shared(binding, claim, checkpoint) else steps).append(binding)
    for daemon in mps:
        (shared if is_shared(daemon, claim, checkpoint) else steps).append(daemon)
    if gates.enabled(DYNAMIC_MIG):
        created = _created(claim, entry, on_gpus, inventory)
        if isinstance(created, Refuse):
            return created
        for step in created:
            (shared if is_shared(step, claim, checkpoint) else steps).append(step)
    if gates.enabled(TIME_SLICING_SETTINGS):
        sliced = _sliced(claim, entry, inventory)
        if isinstance(sliced, Refuse):
            return sliced
        for slice_step in sliced:
            (shared if is_shared(slice_step, claim, checkpoint) else steps).append(slice_step)
    partitions, notes = fabric_teardown(claim, entry, inventory)
    if inventory.fabric is not None and inventory.fabric.unread and uses_gpus(entry):
        return Refuse(
            f"{_prefix(claim, entry)}: error deactivating fabric partition: Fabric Manager is not ready: "
            f"{inventory.fabric.unread}; kubelet will ask again"
        )
    for partition in partitions:
        (shared if is_shared(partition, claim, checkpoint) else steps).append(partition)
    notes += _notes(claim, entry, on_gpus, gates)
    return Teardown(tuple(steps), tuple(shared), notes, blocks_others=bool(on_gpus or partitions))


def _created(
    claim: ClaimRef, entry: Entry, on_gpus: tuple[tuple[MigName, str], ...], inventory: Inventory
) -> list[CreatePartition] | Refuse:
    found: list[CreatePartition] = []
    uuids = {device.device: device.uuid for device in answers(entry)}
    for name, address in on_gpus:
        gpu = inventory.gpus.get(address)
        if gpu is None:
            if _is_read_whole(inventory):
                continue  # the GPU is gone from the node, with everything on it
            why = inventory.why_absent(f"gpu-{name.parent_minor}") or "it is not on this node"
            return Refuse(
                f"{_prefix(claim, entry)}: the GPU of {name} cannot be read now: {why}; kubelet will ask again, "
                "nvdra doctor tells more",
                rescan=True,
            )
        if gpu.partitioning is not None:
            found.append(CreatePartition(gpu, str(name), name.profile_id, name.start, uuid=uuids.get(str(name), "")))
    return found


def _sliced(claim: ClaimRef, entry: Entry, inventory: Inventory) -> list[SetTimeSlice] | Refuse:
    """Steps that set time slices for this entry. A GPU that is gone needs no reset; one that cannot be read does."""
    if entry.state == "PrepareStarted" and not answers(entry):
        found = {name: inventory.devices.get(name) for name in sorted(sliced_names(entry))}
        lost = [name for name, device in found.items() if device is None]
        uuids = {device.uuid for device in found.values() if isinstance(device, Gpu)}
    else:
        names_of = {device.uuid: device.device for device in answers(entry)}
        uuids = set(sliced_uuids(entry))
        lost = [names_of[uuid] for uuid in sorted(uuids) if inventory.address_of(uuid) not in inventory.gpus]
    if lost and not _is_read_whole(inventory):
        why = inventory.why_absent(lost[0]) or "it is not on this node"
        return Refuse(
            f"{_prefix(claim, entry)}: {lost[0]} cannot be read now, so its time slice cannot be reset: {why}; "
            "kubelet will ask again, nvdra doctor tells more",
            rescan=True,
        )
    return [SetTimeSlice(gpu, 0) for _, gpu in sorted(inventory.gpus.items()) if gpu.uuid in uuids]


def _daemons(
    claim: ClaimRef, entry: Entry, inventory: Inventory, gates: Gates, sharing: Sharing
) -> list[StartMpsDaemon] | Refuse:
    """MPS daemons of this entry. What is left of one whose devices are gone, the upkeep of daemons finds."""
    if entry.state == "PrepareStarted" and not answers(entry):
        return _begun_daemons(claim, entry, inventory, gates, sharing)
    held = daemons_of(entry)
    if held and not gates.enabled(MPS_SUPPORT):
        served = ", ".join(device.device for group in held.values() for device in group.devices)
        return Refuse(
            f"{_prefix(claim, entry)}: an MPS control daemon serves its devices ({served}), and gate {MPS_SUPPORT} is "
            "off, which ends no daemon: turn the gate on until the claim is gone"
        )
    by_uuid = {gpu.uuid: gpu for gpu in inventory.gpus.values()}
    found = []
    for daemon, group in sorted(held.items()):
        devices = {device.uuid: device.device for device in group.devices}
        uuids = tuple(sorted(devices))
        gpus = tuple(by_uuid[uuid] for uuid in uuids if uuid in by_uuid)
        found.append(StartMpsDaemon(daemon, gpus, uuids, names=tuple(devices[uuid] for uuid in uuids)))
    return found


def _begun_daemons(
    claim: ClaimRef, entry: Entry, inventory: Inventory, gates: Gates, sharing: Sharing
) -> list[StartMpsDaemon] | Refuse:
    """Daemons that may have been started for a claim that was begun: its configs tell."""
    if not gates.enabled(MPS_SUPPORT):
        return []
    given = allocation(entry.status, DRIVER)
    members = []
    for result in given.exclusive:
        device = inventory.devices.get(result.device)
        if isinstance(device, Gpu | MigDevice):
            members.append((result, device))
        elif not _is_read_whole(inventory):
            why = inventory.why_absent(result.device) or "it is not on this node"
            return Refuse(
                f"{_prefix(claim, entry)}: {result.device} cannot be read now, so its MPS daemon cannot be found: {why}"
                "; kubelet will ask again, nvdra doctor tells more",
                rescan=True,
            )
    found = daemons(claim, regroup(members, given.configs, gates), gates, sharing)
    return [] if isinstance(found, Refuse) else list(found)


def _bound(claim: ClaimRef, entry: Entry, inventory: Inventory, gates: Gates) -> list[BindVfio] | Refuse:
    """Passed-through GPUs of this entry; one that is gone from the node needs nothing."""
    found: dict[str, str] = {}
    for device in answers(entry):
        if device.type == "vfio":
            found[device.device] = vfio_address(device.info, inventory.positions)
    if entry.state == "PrepareStarted" and not answers(entry):
        # The entry holds only the allocation: any of its GPUs may have been bound.
        for name in exclusive_names(entry):
            if isinstance(parse_name(name), VfioName):
                place = extent(name, inventory)
                found[name] = "" if place is None else place.gpu
    if found and not gates.enabled(PASSTHROUGH_SUPPORT):
        return Refuse(
            f"{_prefix(claim, entry)}: its GPUs ({', '.join(sorted(found))}) may be bound to vfio-pci, and gate "
            f"{PASSTHROUGH_SUPPORT} is off, which gives none back: turn the gate on until the claim is gone, or run "
            "nvdra vfio give-back on the node"
        )
    if "" in found.values() and not inventory.pci_gpus:
        return Refuse(
            f"{_prefix(claim, entry)}: the PCI bus has not been read yet, so its GPUs ({', '.join(sorted(found))}) are "
            "not known; kubelet will ask again",
            rescan=True,
        )
    return [BindVfio(name, address) for name, address in sorted(found.items()) if address]


def _unsupported(claim: ClaimRef, entry: Entry) -> Refuse | None:
    """Why this release leaves the entry to another one; None if it can give everything back."""
    if not isinstance(entry.prepared, Unsupported):
        return None
    what = " and ".join(_KINDS.get(kind, kind) for kind in sorted(entry.prepared.kinds))
    held = entry.prepared.device_names
    return Refuse(
        f"{_prefix(claim, entry)}: it holds {what} ({', '.join(held)}) set up by another release of the driver, "
        "which this release does not undo: run the release that prepared it until the claim is gone"
    )


def _notes(claim: ClaimRef, entry: Entry, on_gpus: tuple[tuple[MigName, str], ...], gates: Gates) -> tuple[str, ...]:
    notes: list[str] = []
    for group in entry.prepared if not isinstance(entry.prepared, Unsupported) else ():
        if isinstance(group, PreparedGroup) and group.time_slice_applied and not gates.enabled(TIME_SLICING_SETTINGS):
            gpus = ", ".join(device.uuid for device in group.devices)
            notes.append(
                f"claim {claim} leaves a time slice set on {gpus}: gate TimeSlicingSettings is off, so it stays"
            )
    if on_gpus and entry.state == "PrepareStarted" and not gates.enabled(DYNAMIC_MIG):
        devices = ", ".join(str(name) for name, _ in on_gpus)
        notes.append(f"claim {claim} was begun on {devices}: gate DynamicMIG is off, so what stands there stays")
    return tuple(notes)


def _is_read_whole(inventory: Inventory) -> bool:
    """Whether every GPU that is there could be read; one that could be may still not be offered."""
    return not inventory.unread and all(
        isinstance(name := parse_name(left.device), VfioName)
        or (
            isinstance(name, GpuName | MigName)
            and inventory.by_minor(name.minor if isinstance(name, GpuName) else name.parent_minor) is not None
        )
        for left in inventory.not_published
    )


def _prefix(claim: ClaimRef, entry: Entry) -> str:
    if entry.state == "PrepareStarted":
        return f"unprepare failed for partially prepared claim {claim} failed"
    return f"unprepare devices failed for claim {claim}"
