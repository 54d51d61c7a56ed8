"""Who holds what: other claims' devices, by name and by place.

Only reads: what to do about a holder is decided in `plan`.
"""

from __future__ import annotations

from collections.abc import Iterator

from nvdra.api.claim import ClaimRef, Result
from nvdra.checkpoint import Foreign, Record
from nvdra.claims.entries import allocation, exclusive_names
from nvdra.claims.partitions import unknown_partitions
from nvdra.claims.place import foreign_places, holds, place, places_begun
from nvdra.devices import Inventory, MigSpec, overlapping


def holder(result: Result, claim: ClaimRef, inventory: Inventory, record: Record) -> str | None:
    """UID of another completed claim that holds the result's device, or its place; None if it is free.

    A device is held by name (the allocation's word). Its place is also held by whoever has it under another name:
    the GPU by its partitions and they by the GPU, a GPU passed through, or with the minor number it had before a driver
    reload.
    """
    wanted = place(result.device, inventory)
    for uid, entry in record.entries.items():
        if uid == claim.uid or entry.state != "PrepareCompleted":
            continue
        if any(other.device == result.device for other in allocation(entry.status).exclusive):
            return uid
        if wanted is not None and holds(entry, wanted, inventory):
            return uid
    return None


def in_the_way(result: Result, claim: ClaimRef, inventory: Inventory, record: Record) -> Iterator[str]:
    """UIDs of other claims that were begun and not completed, or are being undone, on the place of the result."""
    wanted = place(result.device, inventory)
    for uid, entry in record.entries.items():
        if uid == claim.uid or entry.state != "PrepareStarted":
            continue
        if result.device in exclusive_names(entry) or any(
            wanted is not None and wanted.meets(begun) for begun in places_begun(entry, inventory)
        ):
            yield uid


def withdrawn(inventory: Inventory, record: Record) -> frozenset[str]:
    """Names to hold back from publication, because what they name is something else now, or taken.

    A name whose UUID changed while claimed, the new name of the claimed device, a full GPU whose parts or whole another
    release has handed out, and whatever overlaps a partition that nobody here made. They come back when the claim is
    unprepared and the partition gone.
    """
    held_back: set[str] = set()
    by_uuid = {device.uuid: name for name, device in inventory.devices.items() if not isinstance(device, MigSpec)}
    for entry in record.entries.values():
        exclusive = exclusive_names(entry)
        if isinstance(entry.prepared, Foreign):
            uuids = {place.gpu for place in foreign_places(entry, entry.prepared, inventory)}
            held_back |= {gpu.name for gpu in inventory.gpus.values() if gpu.uuid in uuids}
            continue
        for group in entry.prepared:
            for device in group.devices:
                if device.device not in exclusive:
                    continue
                now = by_uuid.get(device.uuid, "")
                if now != device.device and not isinstance(inventory.devices.get(device.device), MigSpec):
                    held_back |= {device.device, now}
    for unknown in unknown_partitions(inventory, record):
        held_back |= overlapping(inventory, unknown.gpu.uuid, unknown.start, unknown.size)
    return frozenset(held_back & inventory.devices.keys())
