"""What a node has, and what is published of it."""

from nvdra.devices.attributes import published
from nvdra.devices.gpu import Gpu, OddDeviceError, PciFacts, pci_bus_id
from nvdra.devices.inventory import Inventory, NotOffered, from_scan
from nvdra.devices.names import GpuName, MigName, Name, VfioName, parse_name
from nvdra.devices.scan import GpuScan, LeftOut, NodeScan, NvLink

__all__ = [
    "Gpu",
    "GpuName",
    "GpuScan",
    "Inventory",
    "LeftOut",
    "MigName",
    "Name",
    "NodeScan",
    "NotOffered",
    "NvLink",
    "OddDeviceError",
    "PciFacts",
    "VfioName",
    "from_scan",
    "parse_name",
    "pci_bus_id",
    "published",
]
