"""Devices that are kept from publication, given what the checkpoint holds."""

from __future__ import annotations

from nvdra.checkpoint import Checkpoint, Unsupported
from nvdra.gpu.extents import exclusive_names, unsupported_extents
from nvdra.gpu.inventory import Inventory, overlapping
from nvdra.gpu.mig import MigSpec
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.vfio import vfio_address


def withdrawn(inventory: Inventory, checkpoint: Checkpoint) -> frozenset[str]:
    """Names that are not published while what they name is another device now, or taken.

    These are: a name whose UUID changed while claimed, the new name of the claimed device, a full GPU that is
    passed through or that an unsupported entry holds in part or whole, and devices that overlap an unmanaged partition.
    They are published again when the claim is unprepared or the partition is gone.
    """
    unpublished: set[str] = set()
    by_uuid = {device.uuid: name for name, device in inventory.devices.items() if not isinstance(device, MigSpec)}
    for entry in checkpoint.entries.values():
        exclusive = exclusive_names(entry)
        if isinstance(entry.prepared, Unsupported):
            held = {extent.gpu for extent in unsupported_extents(entry, entry.prepared, inventory)}
            unpublished |= {inventory.gpus[address].name for address in held if address in inventory.gpus}
            continue
        for group in entry.prepared:
            for device in group.devices:
                if (address := vfio_address(device.info, inventory.positions)) in inventory.gpus:
                    unpublished.add(inventory.gpus[address].name)
                if device.device not in exclusive:
                    continue
                now = by_uuid.get(device.uuid, "")
                if now != device.device and not isinstance(inventory.devices.get(device.device), MigSpec):
                    unpublished |= {device.device, now}
    for unmanaged in unmanaged_partitions(inventory, checkpoint):
        unpublished |= overlapping(inventory, unmanaged.gpu.pci_bus_id, unmanaged.start, unmanaged.size)
    return frozenset(unpublished & inventory.devices.keys())
