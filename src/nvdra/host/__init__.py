"""This node: driver root, device nodes, locks, durable files, child processes."""

from nvdra.host.capabilities import CapabilityUnknown, capability_nodes
from nvdra.host.device_nodes import gpu_device, make_nodes
from nvdra.host.driver_files import DriverVersionUnknown, is_unchanged, look_up, survey
from nvdra.host.driver_root import (
    DriverFileMissing,
    DriverRoot,
    device_major,
    driver_root,
    find_library,
    find_program,
    module_version,
)
from nvdra.host.footprint import Footprint
from nvdra.host.hints import DriverHints, Hints
from nvdra.host.holders import CgroupOwner, Holder, Holders, cgroup_owner, find_holders, host_proc
from nvdra.host.hook import HookMissing, install_hook
from nvdra.host.mps_control import MpsControl, MpsControlError, MpsControlUnusable
from nvdra.host.named import gone
from nvdra.host.node import Node, is_temporary, meant_for
from nvdra.host.nvidia_smi import ComputeMode, NvidiaSmi, NvidiaSmiError, find_nvidia_smi
from nvdra.host.passthrough import (
    Slot,
    SlotFunction,
    look_at_passthrough,
    look_at_slot,
    nvidia_numbers,
    vfio_numbers,
    vfio_paths,
)
from nvdra.host.pci import BusListing, PciBus, PciFunction, gpu_files, look_at_bus, survey_gpu
from nvdra.host.pci_names import PciNames
from nvdra.host.vfio_modules import VfioModules

__all__ = [
    "BusListing",
    "CapabilityUnknown",
    "CgroupOwner",
    "ComputeMode",
    "DriverFileMissing",
    "DriverHints",
    "DriverRoot",
    "DriverVersionUnknown",
    "Footprint",
    "Hints",
    "Holder",
    "Holders",
    "HookMissing",
    "MpsControl",
    "MpsControlError",
    "MpsControlUnusable",
    "Node",
    "NvidiaSmi",
    "NvidiaSmiError",
    "PciBus",
    "PciFunction",
    "PciNames",
    "Slot",
    "SlotFunction",
    "VfioModules",
    "capability_nodes",
    "cgroup_owner",
    "device_major",
    "driver_root",
    "find_holders",
    "find_library",
    "find_nvidia_smi",
    "find_program",
    "gone",
    "gpu_device",
    "gpu_files",
    "host_proc",
    "install_hook",
    "is_temporary",
    "is_unchanged",
    "look_at_bus",
    "look_at_passthrough",
    "look_at_slot",
    "look_up",
    "make_nodes",
    "meant_for",
    "module_version",
    "nvidia_numbers",
    "survey",
    "survey_gpu",
    "vfio_numbers",
    "vfio_paths",
]
