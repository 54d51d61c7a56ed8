"""A small node and claims against it, for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvdra.api.claim import Claim, ClaimRef, OpaqueConfig, Result
from nvdra.checkpoint.record import Entry, Record
from nvdra.devices import GpuScan, Inventory, NodeScan, from_scan

RECORDINGS = Path(__file__).parents[2] / "golden" / "recordings"
POOL = "node-a"
OURS = "gpu.nvidia.com"


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


def claim_of(document: dict[str, Any]) -> Claim:
    """A claim as the API server stores it, read with nothing but the standard library."""
    meta, status = document["metadata"], document["status"]
    devices = status["allocation"]["devices"]
    return Claim(
        ref=ClaimRef(meta["namespace"], meta["name"], meta["uid"]),
        results=tuple(
            Result(r["request"], r["driver"], r["pool"], r["device"], bool(r.get("adminAccess")), r.get("shareID"))
            for r in devices["results"]
        ),
        configs=tuple(
            OpaqueConfig(
                c["source"],
                tuple(c.get("requests", ())),
                c["opaque"]["driver"] if "opaque" in c else None,
                json.dumps(c["opaque"]["parameters"], separators=(",", ":")).encode() if "opaque" in c else b"",
            )
            for c in devices.get("config", ())
        ),
        status=json.dumps(status, separators=(",", ":")).encode(),
    )


def claim(
    uid: str, *devices: str | dict[str, Any], config: list[dict[str, Any]] | None = None, name: str = "", **status: Any
) -> Claim:
    """A claim for devices of this node: names, or results with more in them."""
    results = []
    for index, device in enumerate(devices):
        more = {"device": device} if isinstance(device, str) else device
        results.append({"request": f"r{index}", "driver": OURS, "pool": POOL, **more})
    allocation: dict[str, Any] = {"devices": {"results": results}}
    if config is not None:
        allocation["devices"]["config"] = config
    return claim_of(
        {
            "metadata": {"namespace": "ns", "name": name or f"claim-{uid}", "uid": uid},
            "status": {"allocation": allocation, **status},
        }
    )


def gpu_config(parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An entry of `allocation.devices.config` with a GpuConfig."""
    fields = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", **(parameters or {})}
    return {"source": "FromClaim", "opaque": {"driver": OURS, "parameters": fields}, **more}


def record(**entries: Entry) -> Record:
    return Record("boot", entries)


def recording(folder: str, name: str) -> Any:
    return json.loads((RECORDINGS / folder / name).read_text())
