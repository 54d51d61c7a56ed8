"""NVML: a lease, a scan, partitions. Sole importer of the compiled binding."""

from nvdra._nvml import (
    GPU_IS_LOST,
    IN_USE,
    INSUFFICIENT_RESOURCES,
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    NvmlError,
    NvmlMissing,
    calls,
)
from nvdra.nvml.errors import DriverAbsent, DriverChanged, NvmlHung, NvmlInUse
from nvdra.nvml.events import EventsClosed, NvmlEvents, Watched
from nvdra.nvml.session import Nvml

__all__ = [
    "GPU_IS_LOST",
    "INSUFFICIENT_RESOURCES",
    "INVALID_ARGUMENT",
    "IN_USE",
    "NOT_FOUND",
    "NOT_SUPPORTED",
    "NO_PERMISSION",
    "RESET_REQUIRED",
    "DriverAbsent",
    "DriverChanged",
    "EventsClosed",
    "Nvml",
    "NvmlError",
    "NvmlEvents",
    "NvmlHung",
    "NvmlInUse",
    "NvmlMissing",
    "Watched",
    "calls",
]
