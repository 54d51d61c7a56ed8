"""Devices that are kept from publication, given what the checkpoint holds."""

from __future__ import annotations

from nvdra.checkpoint import Foreign, Record
from nvdra.gpu.extents import exclusive_names, unsupported_extents
from nvdra.gpu.inventory import Inventory, overlapping
from nvdra.gpu.mig import MigSpec
from nvdra.gpu.partitions import unmanaged_partitions


def withdrawn(inventory: Inventory, record: Record) -> frozenset[str]:
    """Names that are not published while what they name is another device now, or taken.

    These are: a name whose UUID changed while claimed, the new name of the claimed device, a full GPU that an
    unsupported entry holds in part or whole, and devices that overlap an unmanaged partition. They are published again
    when the claim is unprepared or the partition is gone.
    """
    held_back: set[str] = set()
    by_uuid = {device.uuid: name for name, device in inventory.devices.items() if not isinstance(device, MigSpec)}
    for entry in record.entries.values():
        exclusive = exclusive_names(entry)
        if isinstance(entry.prepared, Foreign):
            held = {extent.gpu for extent in unsupported_extents(entry, entry.prepared, inventory)}
            held_back |= {inventory.gpus[address].name for address in held if address in inventory.gpus}
            continue
        for group in entry.prepared:
            for device in group.devices:
                if device.device not in exclusive:
                    continue
                now = by_uuid.get(device.uuid, "")
                if now != device.device and not isinstance(inventory.devices.get(device.device), MigSpec):
                    held_back |= {device.device, now}
    for unmanaged in unmanaged_partitions(inventory, record):
        held_back |= overlapping(inventory, unmanaged.gpu.pci_bus_id, unmanaged.start, unmanaged.size)
    return frozenset(held_back & inventory.devices.keys())
