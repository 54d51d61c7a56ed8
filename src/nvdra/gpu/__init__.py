"""Rules of gpu.nvidia.com: GPUs and partitions, their names, attributes, counters and container edits."""

from nvdra.gpu.attributes import published
from nvdra.gpu.gpu import Gpu, OddDeviceError, PciFacts, pci_bus_id
from nvdra.gpu.hidden import HiddenGpu, bound
from nvdra.gpu.inventory import Inventory, NotPublished, Partitions, StuckMode, from_scan, overlapping
from nvdra.gpu.mig import GpuDevice, MigDevice, MigSpec, NvmlDevice, parent
from nvdra.gpu.mig_profile import MigProfile, Partitioning
from nvdra.gpu.names import GpuName, MigName, Name, VfioName, parse_name
from nvdra.gpu.scan import (
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
from nvdra.gpu.twins import with_twins
from nvdra.gpu.vfio import BindVfio, BoundVfio, Passthrough, PassthroughFacts, VfioGpu

__all__ = [
    "BindVfio",
    "BoundVfio",
    "ComputeInstanceScan",
    "ComputeProfileScan",
    "Gpu",
    "GpuDevice",
    "GpuInstanceScan",
    "GpuName",
    "GpuScan",
    "HiddenGpu",
    "Inventory",
    "LeftOut",
    "MigDevice",
    "MigName",
    "MigProfile",
    "MigProfileScan",
    "MigScan",
    "MigSpec",
    "Name",
    "NodeScan",
    "NotPublished",
    "NvLink",
    "NvmlDevice",
    "OddDeviceError",
    "Partitioning",
    "Partitions",
    "Passthrough",
    "PassthroughFacts",
    "PciFacts",
    "StuckMode",
    "VfioGpu",
    "VfioName",
    "bound",
    "from_scan",
    "overlapping",
    "parent",
    "parse_name",
    "pci_bus_id",
    "published",
    "with_twins",
]
