"""What one sweep over NVML says of a node: numbers and texts as NVML gives them, nothing interpreted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NvLink:
    """One NVLink of a GPU. `remote_pci_bus_id` is None where NVML does not tell the far end."""

    link: int
    is_active: bool
    version: int | None
    remote_pci_bus_id: str | None  # NVML's text, "00000000:9F:00.0"
    remote_type: int | None  # nvmlIntNvLinkDeviceType_t: 0 GPU, 1 IBM NPU, 2 switch, 255 unknown


@dataclass(frozen=True, slots=True)
class ComputeProfileScan:
    """A compute instance profile that spans a whole GPU instance of some profile."""

    index: int  # 0..8
    profile_id: int
    slices: int


@dataclass(frozen=True, slots=True)
class MigProfileScan:
    """A GPU instance profile and where its instances may lie.

    index       0..17, what profiles are asked for by; `profile_id` is what NVML then calls it
    memory_mib  memorySizeMB, which is MiB
    placements  (start, size) in memory slices, ascending
    compute     compute instance profiles with as many slices, ascending by index; nvml.h's, whose ids are the indices:
                NVML itself tells them of a live instance only, and some GPUs lack one of two (7 slices: 4 and 8)
    """

    index: int
    profile_id: int
    slices: int
    most: int  # instances at once
    multiprocessors: int
    copy_engines: int
    decoders: int
    encoders: int
    jpeg_engines: int
    ofa_engines: int
    memory_mib: int
    placements: tuple[tuple[int, int], ...]
    compute: tuple[ComputeProfileScan, ...] = ()


@dataclass(frozen=True, slots=True)
class ComputeInstanceScan:
    """A live compute instance. `uuid` is its MIG device's; "" where the driver shows none."""

    ci_id: int
    profile_id: int
    uuid: str


@dataclass(frozen=True, slots=True)
class GpuInstanceScan:
    """A live GPU instance; half made or half destroyed it has no compute instance."""

    gi_id: int
    profile_id: int
    start: int  # memory slices
    size: int
    compute: tuple[ComputeInstanceScan, ...] = ()


@dataclass(frozen=True, slots=True)
class MigScan:
    """How a MIG-capable GPU may be partitioned and how it is.

    profiles   ascending by index; GPUs of one model share one tuple. Empty if they were not asked for
    instances  ascending by start; empty with MIG mode off
    """

    profiles: tuple[MigProfileScan, ...] = ()
    instances: tuple[GpuInstanceScan, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuScan:
    """One GPU, in NVML's own units and numbers.

    Optional values are None where NVML says NOT_SUPPORTED or lacks the function; those of modes and topology
    (from `numa_node` on) also where NVML refuses for another reason: a GPU is published without them too.

    numa_node            of the GPU's own memory, where the platform makes it one (Grace); not the nearest one
    memory_affinity      the host's NUMA nodes nearest to the GPU; empty if unknown
    module_id            the GPU's place on its board, as Fabric Manager numbers it; 0 is no place
    virtualization_mode  0 none, 1 passthrough, 2 vGPU guest, 3 host vGPU, 4 host vSGA
    Source: NVML 13 API reference.
    """

    index: int
    minor: int
    uuid: str
    name: str
    pci_bus_id: str  # nvmlPciInfo_t.busId: upper case, 8-digit domain
    architecture: int
    brand: int
    cuda_compute_capability: tuple[int, int]
    memory_bytes: int | None
    mig_mode: tuple[int, int] | None  # (current, pending); None: not MIG capable
    addressing_mode: int | None
    numa_node: int | None
    cpu_affinity: tuple[int, ...]  # CPU numbers; empty if unknown
    nvlinks: tuple[NvLink, ...]
    memory_affinity: tuple[int, ...] = ()
    virtualization_mode: int | None = None
    persistence_mode: int | None = None
    module_id: int | None = None
    mig: MigScan = MigScan()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A GPU that could not be read: which one, and NVML's refusal.

    code   NVML's; 10 (TIMEOUT) also when the function never answered, and `text` says since when
    """

    index: int
    minor: int | None
    uuid: str | None
    function: str
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class NodeScan:
    """The whole node in one sweep.

    cuda_driver_version   NVML's number, 13000 for 13.0
    common_ancestor       {(i, j): nvmlGpuTopologyLevel_t} for index pairs i < j
    p2p                   {(i, j): nvmlGpuP2PStatus_t of NVLINK capability} for ordered index pairs i != j
    """

    driver_version: str
    cuda_driver_version: int
    gpus: tuple[GpuScan, ...]
    left_out: tuple[LeftOut, ...]
    common_ancestor: dict[tuple[int, int], int]
    p2p: dict[tuple[int, int], int]
