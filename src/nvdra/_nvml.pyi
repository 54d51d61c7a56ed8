"""NVML, bound by dlopen: ints and texts in, ints, texts and small tuples out."""

from collections.abc import Iterable
from typing import Self, TypeAlias, final

__all__ = [
    "DRIVER_NOT_LOADED",
    "FUNCTION_NOT_FOUND",
    "GPU_IS_LOST",
    "INSUFFICIENT_RESOURCES",
    "INVALID_ARGUMENT",
    "IN_USE",
    "LIBRARY_NOT_FOUND",
    "LIB_RM_VERSION_MISMATCH",
    "NOT_FOUND",
    "NOT_SUPPORTED",
    "NO_PERMISSION",
    "RESET_REQUIRED",
    "SUCCESS",
    "TIMEOUT",
    "UNINITIALIZED",
    "Events",
    "Library",
    "Mig",
    "NvmlError",
    "NvmlMissing",
    "Sweep",
    "calls",
    "read_fabric",
]

SUCCESS: int
UNINITIALIZED: int
INVALID_ARGUMENT: int
NOT_SUPPORTED: int
NO_PERMISSION: int
NOT_FOUND: int
DRIVER_NOT_LOADED: int
TIMEOUT: int
LIBRARY_NOT_FOUND: int
FUNCTION_NOT_FOUND: int
GPU_IS_LOST: int
RESET_REQUIRED: int
LIB_RM_VERSION_MISMATCH: int
IN_USE: int
INSUFFICIENT_RESOURCES: int

def calls() -> int: ...

class NvmlError(Exception):
    code: int
    function: str
    text: str
    def __init__(self, code: int, function: str, text: str = "") -> None: ...

class NvmlMissing(NvmlError):
    def __init__(self, function: str) -> None: ...

@final
class Library:
    path: str
    def __new__(cls, path: str) -> Self: ...
    def init(self) -> None: ...
    def shutdown(self) -> None: ...
    def unload(self) -> None: ...
    def error_text(self, code: int) -> str: ...

# Driver version; by GPU index, UUID, NVML's code and text, cluster UUID, status, clique id, state
def read_fabric(library: Library) -> tuple[str, list[tuple[int, str, int, str, bytes, int, int, int]]]: ...

# link, is active, version, PCI bus id of the far end, its type
_Link: TypeAlias = tuple[int, bool, int | None, str | None, int | None]

# In the order of nvdra.gpu.scan.GpuScan's fields.
_Gpu: TypeAlias = tuple[
    int,
    int,
    str,
    str,
    str,
    int,
    int,
    tuple[int, int],
    int | None,
    tuple[int, int] | None,
    int | None,
    int | None,
    tuple[int, ...],
    tuple[_Link, ...],
    tuple[int, ...],
    int | None,
    int | None,
]

# In the order of nvdra.gpu.scan.LeftOut's fields.
_LeftOut: TypeAlias = tuple[int, int | None, str | None, str, int, str]

# In the order of nvdra.gpu.scan.MigProfileScan's fields, without the last.
_Profile: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int, tuple[tuple[int, int], ...]]

# In the order of nvdra.gpu.scan.ComputeInstanceScan's fields: id, profile id, UUID
_ComputeInstance: TypeAlias = tuple[int, int, str]

# In the order of nvdra.gpu.scan.GpuInstanceScan's fields.
_GpuInstance: TypeAlias = tuple[int, int, int, int, tuple[_ComputeInstance, ...]]

@final
class Mig:
    uuid: str
    index: int
    def __new__(cls, library: Library, uuid: str) -> Self: ...
    @property
    def function(self) -> str: ...
    def error_text(self, code: int) -> str: ...
    def mode(self) -> tuple[int, int]: ...
    def set_mode(self, on: bool) -> int: ...
    def instances(self) -> tuple[_GpuInstance, ...]: ...
    def create_gpu_instance(self, profile_id: int, start: int, size: int) -> int: ...
    def create_compute_instance(self, gi_id: int, profile_id: int) -> _ComputeInstance: ...
    def destroy_compute_instance(self, gi_id: int, ci_id: int) -> None: ...
    def destroy_gpu_instance(self, gi_id: int) -> None: ...
    # pid, GPU instance id, compute instance id
    def processes(self) -> list[tuple[int, int, int]]: ...

@final
class Sweep:
    def __new__(
        cls,
        library: Library,
        silent: Iterable[int] = (),
        without_pairs: Iterable[int] = (),
        profiles: bool = False,
    ) -> Self: ...
    def run(self) -> None: ...
    def read_gpu(self, index: int) -> None: ...
    def read_pairs(self) -> None: ...
    def abandon(self) -> None: ...
    @property
    def place(self) -> tuple[int | None, int | None, str, int]: ...
    def function_at(self, index: int) -> str: ...
    def unread(self) -> tuple[int, ...]: ...
    def unfinished(self) -> tuple[int, ...]: ...
    def known(self, index: int) -> tuple[int | None, str | None]: ...
    def tell(
        self,
    ) -> tuple[str, int, list[_Gpu], list[_LeftOut], dict[tuple[int, int], int], dict[tuple[int, int], int]]: ...
    # profile tables; by GPU index the number of its table, and its instances
    def tell_mig(
        self,
    ) -> tuple[list[tuple[_Profile, ...]], dict[int, tuple[int, tuple[_GpuInstance, ...]]]]: ...
    def mig(self, index: int) -> Mig: ...

# PCI address, NVML's bit, data, GPU instance, compute instance
_Event: TypeAlias = tuple[str, int, int, int, int]

@final
class Events:
    def __new__(cls, library: Library) -> Self: ...
    @property
    def function(self) -> str: ...
    def watch(self, address: str, wanted: int) -> int: ...
    def recovery_action(self, address: str) -> int | None: ...
    def answers(self, address: str) -> None: ...
    def active_links(self, address: str) -> int: ...
    def wait(self, timeout_ms: int) -> list[_Event]: ...
    def close(self) -> None: ...
