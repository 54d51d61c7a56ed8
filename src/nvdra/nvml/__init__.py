"""NVML: a lease, a scan. Sole importer of the compiled binding."""

from nvdra._nvml import NvmlError, NvmlMissing, calls
from nvdra.nvml.errors import DriverAbsent, DriverChanged, NvmlHeld, NvmlHung
from nvdra.nvml.session import Nvml

__all__ = ["DriverAbsent", "DriverChanged", "Nvml", "NvmlError", "NvmlHeld", "NvmlHung", "NvmlMissing", "calls"]
