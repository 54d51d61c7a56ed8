"""What gives back everything of a checkpoint entry, from the entry alone, reference-counted over other entries.

A plain GPU needs no step, nor does a MIG device that an administrator made. A partition made on demand is destroyed
with its last claim, a time slice is reset with its last claim. What other releases set up and this one does not build
(passed-through GPUs, MPS daemons) is kept, and the refusal says what it is and which release can undo it.
"""

from __future__ import annotations

from collections.abc import Iterator

from nvdra.api.claim import ClaimRef
from nvdra.api.configs import TIME_SLICING, ConfigError, GpuConfig, decode
from nvdra.api.gates import DYNAMIC_MIG, TIME_SLICING_SETTINGS, Gates
from nvdra.checkpoint import Checkpoint, Entry, PreparedGroup, Unsupported
from nvdra.claims import Refuse, Teardown, allocation, answers
from nvdra.gpu.extents import DRIVER, exclusive_names, partitions
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.inventory import Inventory
from nvdra.gpu.names import GpuName, MigName, VfioName, parse_name
from nvdra.gpu.steps import CreatePartition, SetTimeSlice

_KINDS = {
    "mig": "a MIG device",
    "vfio": "a GPU passed through to a virtual machine",
    "mps": "an MPS control daemon",
}


def teardown(
    claim: ClaimRef, entry: Entry, inventory: Inventory, checkpoint: Checkpoint, gates: Gates
) -> Teardown | Refuse:
    """The steps to roll back for `entry` of `claim`; none where nothing of it lies on hardware."""
    if refuse := _unsupported(claim, entry):
        return refuse
    on_gpus = tuple(partitions(entry, inventory))
    steps: list[CreatePartition | SetTimeSlice] = []
    shared: list[CreatePartition | SetTimeSlice] = []
    if gates.enabled(DYNAMIC_MIG):
        created = _created(claim, entry, on_gpus, inventory)
        if isinstance(created, Refuse):
            return created
        for step in created:
            (shared if _is_shared(step, claim, checkpoint) else steps).append(step)
    if gates.enabled(TIME_SLICING_SETTINGS):
        sliced = _sliced(claim, entry, inventory)
        if isinstance(sliced, Refuse):
            return sliced
        for slice_step in sliced:
            (shared if _is_shared(slice_step, claim, checkpoint) else steps).append(slice_step)
    return Teardown(tuple(steps), tuple(shared), _notes(claim, entry, on_gpus, gates), blocks_others=bool(on_gpus))


def needs(step: object, entry: Entry) -> bool:
    """Whether an entry of any state still needs what the step did."""
    match step:
        case CreatePartition(device=device):
            return device in exclusive_names(entry)
        case SetTimeSlice(gpu=gpu):
            return gpu.uuid in set(_sliced_uuids(entry)) or (
                entry.state == "PrepareStarted" and gpu.name in _sliced_names(entry)
            )
        case _:
            return False


def _is_shared(step: CreatePartition | SetTimeSlice, claim: ClaimRef, checkpoint: Checkpoint) -> bool:
    """Whether another claim needs the step too."""
    return any(needs(step, entry) for uid, entry in checkpoint.entries.items() if uid != claim.uid)


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
        found = {name: inventory.devices.get(name) for name in sorted(_sliced_names(entry))}
        lost = [name for name, device in found.items() if device is None]
        uuids = {device.uuid for device in found.values() if isinstance(device, Gpu)}
    else:
        names_of = {device.uuid: device.device for device in answers(entry)}
        uuids = set(_sliced_uuids(entry))
        lost = [names_of[uuid] for uuid in sorted(uuids) if inventory.address_of(uuid) not in inventory.gpus]
    if lost and not _is_read_whole(inventory):
        why = inventory.why_absent(lost[0]) or "it is not on this node"
        return Refuse(
            f"{_prefix(claim, entry)}: {lost[0]} cannot be read now, so its time slice cannot be reset: {why}; "
            "kubelet will ask again, nvdra doctor tells more",
            rescan=True,
        )
    return [SetTimeSlice(gpu, 0) for _, gpu in sorted(inventory.gpus.items()) if gpu.uuid in uuids]


def _sliced_uuids(entry: Entry) -> Iterator[str]:
    """UUIDs of full GPUs that a prepared entry set a time slice on."""
    if isinstance(entry.prepared, Unsupported):
        return
    for group in entry.prepared:
        if not isinstance(group, PreparedGroup) or group.time_slice_applied is False:
            continue
        full = [d for d in group.devices if d.mig is None and isinstance(parse_name(d.device), GpuName)]
        if group.time_slice_applied is None:
            # v0.4.0 of the Go driver does not say whether it set a slice: the claim's own config tells.
            asked = _sliced_names(entry)
            sliced = [device for device in full if device.device in asked]
        else:
            # A group with admin access alone says so only where the Go driver set its slice.
            exclusive = {result.device for result in allocation(entry.status, DRIVER).exclusive}
            sliced = [device for device in full if device.device in exclusive] or full
        yield from (device.uuid for device in sliced)


def _sliced_names(entry: Entry) -> frozenset[str]:
    """Names of full GPUs whose claim has a config that asks for a time slice."""
    given = allocation(entry.status, DRIVER)
    asking = [config.requests for config in given.configs if _asks_for_slice(config.parameters)]
    return frozenset(
        result.device
        for result in given.exclusive
        if isinstance(parse_name(result.device), GpuName)
        and any(
            not requests or result.request in requests or result.request.partition("/")[0] in requests
            for requests in asking
        )
    )


def _asks_for_slice(parameters: bytes) -> bool:
    try:
        config = decode(parameters)
    except ConfigError:
        return False
    return isinstance(config, GpuConfig) and config.sharing is not None and config.sharing.strategy == TIME_SLICING


def _unsupported(claim: ClaimRef, entry: Entry) -> Refuse | None:
    """Why this release leaves the entry to another one; None if it can give everything back."""
    held: tuple[str, ...]
    if isinstance(entry.prepared, Unsupported):
        kinds, held = entry.prepared.kinds, entry.prepared.device_names
    elif entry.state == "PrepareStarted":
        # The entry holds only the allocation: a bound GPU may have been left half prepared.
        results = allocation(entry.status, DRIVER).results
        held = tuple(r.device for r in results if isinstance(parse_name(r.device), VfioName))
        kinds = frozenset(("vfio",)) if held else frozenset()
    else:
        daemons = [group for group in entry.prepared if isinstance(group, PreparedGroup) and group.mps_daemon_id]
        held = tuple(device.device for group in daemons for device in group.devices)
        kinds = frozenset(("mps",)) if daemons else frozenset()
    if not kinds:
        return None
    what = " and ".join(_KINDS.get(kind, kind) for kind in sorted(kinds))
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
        isinstance(name := parse_name(left.device), GpuName | MigName)
        and inventory.by_minor(name.minor if isinstance(name, GpuName) else name.parent_minor) is not None
        for left in inventory.not_published
    )


def _prefix(claim: ClaimRef, entry: Entry) -> str:
    if entry.state == "PrepareStarted":
        return f"unprepare failed for partially prepared claim {claim} failed"
    return f"unprepare devices failed for claim {claim}"
