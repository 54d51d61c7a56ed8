"""Scans of made-up nodes with the identities of the recorded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvdra.devices import GpuScan, Inventory, NodeScan, from_scan

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


def inventory(count: int = 8) -> Inventory:
    return from_scan(node_scan(*(gpu_scan(minor) for minor in range(count))), {})


def recording(folder: str, name: str) -> Any:
    return json.loads((RECORDINGS / folder / name).read_text())
