"""What a node has, and what is published of it."""

from nvdra.devices.attributes import published
from nvdra.devices.gpu import Gpu, OddDeviceError, PciFacts, pci_bus_id
from nvdra.devices.inventory import Inventory, NotOffered, Partitions, from_scan, overlapping
from nvdra.devices.layouts import COUNTERS_SINCE, Layout, layout_for, minor_version, uncounted, wanted
from nvdra.devices.limits import NEWEST_MINOR, device_problems, slice_problems
from nvdra.devices.mig import Device, MigDevice, MigSpec, parent
from nvdra.devices.mig_profile import MigProfile, Partitioning
from nvdra.devices.names import GpuName, MigName, Name, VfioName, parse_name
from nvdra.devices.scan import (
    ComputeInstanceScan,
    ComputeProfileScan,
    GpuInstanceScan,
    GpuScan,
    LeftOut,
    MigProfileScan,
    MigScan,
    NodeScan,
    NvLink,
)
from nvdra.devices.slices import (
    Changes,
    Create,
    Delete,
    Dropped,
    Pool,
    SliceSpec,
    Update,
    changes,
    dropped,
    owned,
    spec_of,
    stored_order,
)

__all__ = [
    "COUNTERS_SINCE",
    "NEWEST_MINOR",
    "Changes",
    "ComputeInstanceScan",
    "ComputeProfileScan",
    "Create",
    "Delete",
    "Device",
    "Dropped",
    "Gpu",
    "GpuInstanceScan",
    "GpuName",
    "GpuScan",
    "Inventory",
    "Layout",
    "LeftOut",
    "MigDevice",
    "MigName",
    "MigProfile",
    "MigProfileScan",
    "MigScan",
    "MigSpec",
    "Name",
    "NodeScan",
    "NotOffered",
    "NvLink",
    "OddDeviceError",
    "Partitioning",
    "Partitions",
    "PciFacts",
    "Pool",
    "SliceSpec",
    "Update",
    "VfioName",
    "changes",
    "device_problems",
    "dropped",
    "from_scan",
    "layout_for",
    "minor_version",
    "overlapping",
    "owned",
    "parent",
    "parse_name",
    "pci_bus_id",
    "published",
    "slice_problems",
    "spec_of",
    "stored_order",
    "uncounted",
    "wanted",
]
