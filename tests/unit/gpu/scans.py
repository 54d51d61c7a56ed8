"""Scans of made-up nodes with the identities of the recorded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvdra.gpu import (
    ComputeInstanceScan,
    ComputeProfileScan,
    GpuInstanceScan,
    GpuScan,
    Inventory,
    MigProfileScan,
    MigScan,
    NodeScan,
    from_scan,
)

RECORDINGS = Path(__file__).parents[2] / "golden" / "recordings"


def uuid_of(minor: int) -> str:
    return f"GPU-4d4f434b-0000-0000-0000-{minor:012d}"


def gpu_scan(minor: int, **changes: Any) -> GpuScan:
    """A GPU with the identities of the recorded nodes."""
    values: dict[str, Any] = {
        "index": minor,
        "minor": minor,
        "uuid": uuid_of(minor),
        "name": "Mock NVIDIA A100-SXM4-40GB",
        "pci_bus_id": f"00000000:{minor + 1:02X}:00.0",
        "architecture": 7,
        "brand": 14,
        "cuda_compute_capability": (8, 0),
        "memory_bytes": 40 * 2**30,
        "mig_mode": (0, 0),
        "addressing_mode": None,
        "numa_node": None,
        "cpu_affinity": (),
        "nvlinks": (),
    }
    return GpuScan(**{**values, **changes})


def node_scan(*gpus: GpuScan, **changes: Any) -> NodeScan:
    values: dict[str, Any] = {
        "driver_version": "550.163.01",
        "cuda_driver_version": 12040,
        "gpus": gpus,
        "left_out": (),
        "common_ancestor": {},
        "p2p": {},
    }
    return NodeScan(**{**values, **changes})


# Measured on an H200: index, id, slices, multiprocessors, copy engines, decoders, encoders, JPEG and OFA engines,
# memory (MiB), memory slices of a placement, where they begin, compute instance profiles that span it.
_H200 = (
    (0, 19, 1, 16, 1, 1, 0, 1, 0, 16384, 1, range(7), (0,)),
    (1, 14, 2, 32, 2, 2, 0, 2, 0, 33280, 2, range(0, 6, 2), (1,)),
    (2, 9, 3, 60, 3, 3, 0, 3, 0, 71424, 4, (0, 4), (2,)),
    (3, 5, 4, 64, 4, 4, 0, 4, 0, 71424, 4, (0,), (3,)),
    (4, 0, 7, 132, 8, 7, 0, 7, 1, 143360, 8, (0,), (4, 8)),
    (7, 20, 1, 16, 1, 1, 0, 1, 1, 16384, 1, range(7), (0,)),
    (9, 15, 1, 26, 1, 1, 0, 1, 0, 33280, 2, range(0, 8, 2), (0,)),
)


def h200_profiles(*, spanning: bool = False) -> tuple[MigProfileScan, ...]:
    """Its profiles; those of compute instances too if `spanning`: NVML tells them only where a GPU instance is."""
    made = []
    for index, profile_id, slices, sm, ce, dec, enc, jpeg, ofa, mib, size, starts, compute in _H200:
        placements = tuple((start, size) for start in starts)
        known = tuple(ComputeProfileScan(each, each, slices) for each in compute) if spanning else ()
        made.append(MigProfileScan(index, profile_id, slices, 7, sm, ce, dec, enc, jpeg, ofa, mib, placements, known))
    return tuple(made)


def h200_scan(minor: int = 0, *instances: GpuInstanceScan, **changes: Any) -> GpuScan:
    """The measured H200, with MIG mode on exactly if it has instances."""
    values: dict[str, Any] = {
        "uuid": f"GPU-bbf1d9b4-0000-4000-8000-{minor:012d}",
        "name": "NVIDIA H200",
        "pci_bus_id": f"00000000:{minor:02X}:06.0",
        "architecture": 9,
        "cuda_compute_capability": (9, 0),
        "memory_bytes": 150754820096,
        "mig_mode": (1, 1) if instances else (0, 0),
        "addressing_mode": 0,
        "virtualization_mode": 1,
        "mig": MigScan(h200_profiles(spanning=bool(instances)), instances),
    }
    return gpu_scan(minor, **{**values, **changes})


def instance(
    profile_id: int, start: int, size: int, *, gi_id: int | None = None, compute: int | None = 0
) -> GpuInstanceScan:
    """A live partition; without a compute instance if `compute`, that one's profile, is None."""
    gi_id = start + 1 if gi_id is None else gi_id
    made = () if compute is None else (ComputeInstanceScan(0, compute, f"MIG-{profile_id}-{start}"),)
    return GpuInstanceScan(gi_id, profile_id, start, size, made)


def inventory(count: int = 8) -> Inventory:
    return from_scan(node_scan(*(gpu_scan(minor) for minor in range(count))), {})


def recording(folder: str, name: str) -> Any:
    return json.loads((RECORDINGS / folder / name).read_text())
