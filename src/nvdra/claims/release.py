"""Letting go of a claim: what leaves the record, and what this release must not touch.

A plain GPU needs no step, so an entry of plain GPUs just leaves. What other releases set up and this one does not
build (MIG devices, passed-through GPUs, MPS daemons) is kept, and the refusal says what it is and who can undo it.
"""

from __future__ import annotations

from nvdra.api.claim import ClaimRef
from nvdra.checkpoint import Entry, Foreign, Record
from nvdra.claims.held import allocation
from nvdra.claims.outcome import Leave, NotPrepared, Refuse, Release
from nvdra.devices import MigName, VfioName, parse_name

_KINDS = {
    "mig": "a MIG device",
    "vfio": "a GPU passed through to a virtual machine",
    "mps": "an MPS control daemon",
}


def unprepare(claim: ClaimRef, record: Record) -> Release:
    """What letting go of `claim` takes. An unknown claim is done already: kubelet asks more often than once."""
    entry = record.entries.get(claim.uid)
    return NotPrepared() if entry is None else undo(claim, entry)


def undo(claim: ClaimRef, entry: Entry) -> Leave | Refuse:
    """What undoing this entry of `claim` takes."""
    if isinstance(entry.prepared, Foreign):
        kinds, names = entry.prepared.kinds, entry.prepared.device_names
    elif entry.state == "PrepareStarted":
        # Nothing was recorded but the allocation: a MIG device or a bound GPU may have been left half made.
        names = tuple(result.device for result in allocation(entry.status).results)
        kinds = frozenset(kind for name in names if (kind := _kind(name)))
    else:
        daemons = [group for group in entry.prepared if group.mps_daemon_id]
        names = tuple(device.device for group in daemons for device in group.devices)
        kinds = frozenset(("mps",)) if daemons else frozenset()
    if kinds:
        prefix = (
            f"unprepare failed for partially prepared claim {claim} failed"
            if entry.state == "PrepareStarted"
            else f"unprepare devices failed for claim {claim}"
        )
        what = " and ".join(_KINDS.get(kind, kind) for kind in sorted(kinds))
        return Refuse(
            f"{prefix}: it holds {what} ({', '.join(names)}) set up by another release of the driver, "
            "which this release does not undo: run the release that prepared it until the claim is gone"
        )
    notes: list[str] = []
    for group in entry.prepared if not isinstance(entry.prepared, Foreign) else ():
        if group.time_slice_applied:
            gpus = ", ".join(device.uuid for device in group.devices)
            notes.append(
                f"claim {claim} leaves a time slice set on {gpus}: gate TimeSlicingSettings is off, so it stays"
            )
    return Leave(tuple(notes))


def _kind(name: str) -> str | None:
    match parse_name(name):
        case MigName():
            return "mig"
        case VfioName():
            return "vfio"
    return None
