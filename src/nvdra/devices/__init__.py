"""What a node has, and what is published of it."""

from nvdra.devices.attributes import published
from nvdra.devices.gpu import Gpu, OddDeviceError, PciFacts, pci_bus_id
from nvdra.devices.inventory import Inventory, NotOffered, from_scan
from nvdra.devices.limits import device_problems, slice_problems
from nvdra.devices.names import GpuName, MigName, Name, VfioName, parse_name
from nvdra.devices.scan import GpuScan, LeftOut, NodeScan, NvLink
from nvdra.devices.slices import (
    Changes,
    Create,
    Delete,
    Dropped,
    Layout,
    Pool,
    SliceSpec,
    Update,
    changes,
    dropped,
    owned,
    spec_of,
    stored_order,
    wanted,
)

__all__ = [
    "Changes",
    "Create",
    "Delete",
    "Dropped",
    "Gpu",
    "GpuName",
    "GpuScan",
    "Inventory",
    "Layout",
    "LeftOut",
    "MigName",
    "Name",
    "NodeScan",
    "NotOffered",
    "NvLink",
    "OddDeviceError",
    "PciFacts",
    "Pool",
    "SliceSpec",
    "Update",
    "VfioName",
    "changes",
    "device_problems",
    "dropped",
    "from_scan",
    "owned",
    "parse_name",
    "pci_bus_id",
    "published",
    "slice_problems",
    "spec_of",
    "stored_order",
    "wanted",
]
