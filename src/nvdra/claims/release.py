"""Letting go of a claim: what leaves the record, what is given back first, and what this release must not touch.

A plain GPU needs no step, nor does a MIG device that an administrator made: such an entry just leaves. A partition
made on demand is taken away with its last claim. What other releases set up and this one does not build (passed-through
GPUs, MPS daemons) is kept, and the refusal says what it is and who can undo it.
"""

from __future__ import annotations

from dataclasses import replace

from nvdra.api.claim import ClaimRef
from nvdra.api.gates import DYNAMIC_MIG, Gates
from nvdra.checkpoint import Entry, Foreign, Record
from nvdra.claims.entries import allocation, answers, exclusive_names
from nvdra.claims.outcome import DestroyMig, Leave, NotPrepared, Refuse, Release, Undo
from nvdra.claims.place import gpu_of, partitions
from nvdra.devices import GpuName, Inventory, MigName, VfioName, parse_name

_KINDS = {
    "mig": "a MIG device",
    "vfio": "a GPU passed through to a virtual machine",
    "mps": "an MPS control daemon",
}


def unprepare(claim: ClaimRef, inventory: Inventory, record: Record, gates: Gates) -> Release:
    """What letting go of `claim` takes. An unknown claim is done already: kubelet asks more often than once."""
    entry = record.entries.get(claim.uid)
    return NotPrepared() if entry is None else undo(claim, entry, inventory, record, gates)


def undo(claim: ClaimRef, entry: Entry, inventory: Inventory, record: Record, gates: Gates) -> Leave | Undo | Refuse:
    """What undoing this entry of `claim` takes."""
    if refuse := _not_ours(claim, entry):
        return refuse
    on_gpus = tuple(partitions(entry, inventory))
    notes = _notes(claim, entry, on_gpus, gates)
    if not on_gpus or not gates.enabled(DYNAMIC_MIG):
        return Leave(notes)
    steps: list[DestroyMig] = []
    shared: list[DestroyMig] = []
    uuids = {device.device: device.uuid for device in answers(entry)}
    for name, gpu_uuid in on_gpus:
        gpu = gpu_of(gpu_uuid, inventory)
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
            step = DestroyMig(gpu, str(name), name.profile_id, name.start, uuids.get(str(name), ""))
            (shared if _is_shared(name, claim, record) else steps).append(step)
    if not steps:
        return Leave(notes)
    started = replace(entry, state="PrepareStarted", name=claim.name, namespace=claim.namespace)
    return Undo(tuple(steps), started, tuple(shared), notes)


def _not_ours(claim: ClaimRef, entry: Entry) -> Refuse | None:
    """Why this release leaves the entry to another one; None if it need not."""
    held: tuple[str, ...]
    if isinstance(entry.prepared, Foreign):
        kinds, held = entry.prepared.kinds, entry.prepared.device_names
    elif entry.state == "PrepareStarted":
        # Nothing was recorded but the allocation: a bound GPU may have been left half made.
        held = tuple(r.device for r in allocation(entry.status).results if isinstance(parse_name(r.device), VfioName))
        kinds = frozenset(("vfio",)) if held else frozenset()
    else:
        daemons = [group for group in entry.prepared if group.mps_daemon_id]
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
    for group in entry.prepared if not isinstance(entry.prepared, Foreign) else ():
        if group.time_slice_applied:
            gpus = ", ".join(device.uuid for device in group.devices)
            notes.append(
                f"claim {claim} leaves a time slice set on {gpus}: gate TimeSlicingSettings is off, so it stays"
            )
    if on_gpus and entry.state == "PrepareStarted" and not gates.enabled(DYNAMIC_MIG):
        places = ", ".join(str(name) for name, _ in on_gpus)
        notes.append(f"claim {claim} was begun on {places}: gate DynamicMIG is off, so what stands there stays")
    return tuple(notes)


def _is_read_whole(inventory: Inventory) -> bool:
    """Whether every GPU that is there could be read; one that could be may still not be offered."""
    return not inventory.unread and all(
        isinstance(name := parse_name(left.device), GpuName | MigName)
        and (name.minor if isinstance(name, GpuName) else name.parent_minor) in inventory.gpus
        for left in inventory.not_offered
    )


def _is_shared(name: MigName, claim: ClaimRef, record: Record) -> bool:
    """Whether another claim uses the same device. An administrator's does not: it only looks."""
    return any(str(name) in exclusive_names(entry) for uid, entry in record.entries.items() if uid != claim.uid)


def _prefix(claim: ClaimRef, entry: Entry) -> str:
    if entry.state == "PrepareStarted":
        return f"unprepare failed for partially prepared claim {claim} failed"
    return f"unprepare devices failed for claim {claim}"
