# ruff: noqa: E501
"""Fleets of GPUs as this driver publishes them: whole GPUs, MIG placements over counters, PCIe roots."""

from __future__ import annotations

from .processes import Json

DRIVER = "gpu.nvidia.com"
_FEATURES = {
    "AdminAccess": True, "ConsumableCapacity": True, "DeviceBindingAndStatus": True, "DeviceTaints": True,
    "PartitionableDevices": True, "PrioritizedList": True,
}  # fmt: skip
_PROFILES = ((1, range(7)), (2, (0, 2, 4)), (3, (0, 4)), (4, (0,)), (7, (0,)))


def fleet(nodes: int, *, mig: bool = False, loop: int = 0, held: int = 0, **exactly: object) -> Json:
    """Returns a case: one claim on a fleet whose first node is asked.

    held      GPUs of the node that are allocated already
    exactly   fields of the request
    """
    slices: list[Json] = []
    for index in range(nodes):
        slices += _node(f"node-{index}", mig)
    constraints = [{"matchAttribute": exactly.pop("match")}] if "match" in exactly else []
    request = {
        "name": "gpu",
        "exactly": {"deviceClassName": DRIVER, "allocationMode": "ExactCount", "count": 1, **exactly},
    }
    claim = {
        "metadata": {"name": "c", "namespace": "ml"},
        "spec": {"devices": {"requests": [request], "constraints": constraints}},
    }
    selectors = [{"cel": {"expression": f"device.driver == '{DRIVER}'"}}]
    return {
        "id": "fleet", "kind": "allocate", "features": _FEATURES, "loop": loop,
        "objects": {
            "nodes": [{"metadata": {"name": "node-0", "labels": {}}}],
            "resourceSlices": slices,
            "deviceClasses": [{"metadata": {"name": DRIVER}, "spec": {"selectors": selectors}}],
            "resourceClaims": [claim],
        },
        "allocated": {"devices": [[DRIVER, "node-0", f"gpu-{i}"] for i in range(held)]},
        "claims": ["c"], "nodes": ["node-0"],
    }  # fmt: skip


def _node(name: str, mig: bool) -> list[Json]:
    pool = {"name": name, "generation": 1, "resourceSliceCount": 9 if mig else 1}
    spec = {"driver": DRIVER, "nodeName": name, "pool": pool}
    if not mig:
        return [{"metadata": {"name": f"{name}-0"}, "spec": {**spec, "devices": [_gpu(i) for i in range(8)]}}]
    counters = [{"name": f"gpu-{i}", "counters": _counters(range(8), 7)} for i in range(8)]
    slices = [{"metadata": {"name": f"{name}-0"}, "spec": {**spec, "sharedCounters": counters}}]
    for i in range(8):
        devices = [{**_gpu(i), "consumesCounters": [{"counterSet": f"gpu-{i}", "counters": _counters(range(8), 7)}]}]
        for size, starts in _PROFILES:
            devices += [_partition(i, size, start) for start in starts]
        slices.append({"metadata": {"name": f"{name}-{i + 1}"}, "spec": {**spec, "devices": devices}})
    return slices


def _gpu(index: int) -> Json:
    attributes = {
        "type": {"string": "gpu"}, "uuid": {"string": f"GPU-{index}"}, "productName": {"string": "NVIDIA H200"},
        "brand": {"string": "Nvidia"}, "architecture": {"string": "Hopper"}, "driverVersion": {"version": "580.159.4"},
        "cudaComputeCapability": {"version": "9.0.0"}, "resource.kubernetes.io/pcieRoot": {"string": f"pci0000:{index // 2}"},
    }  # fmt: skip
    return {"name": f"gpu-{index}", "attributes": attributes, "capacity": {"memory": {"value": "143771Mi"}}}


def _partition(gpu: int, size: int, start: int) -> Json:
    attributes = {
        "type": {"string": "mig"}, "profile": {"string": f"{size}g"}, "parentUUID": {"string": f"GPU-{gpu}"},
        "productName": {"string": "NVIDIA H200"}, "driverVersion": {"version": "580.159.4"},
    }  # fmt: skip
    consumed = [{"counterSet": f"gpu-{gpu}", "counters": _counters(range(start, min(start + size, 8)), size)}]
    return {"name": f"gpu-{gpu}-mig-{size}g-{start}", "attributes": attributes, "consumesCounters": consumed}


def _counters(slices: range, engines: int) -> Json:
    memory = {f"memory-slice-{i}": {"value": "1"} for i in slices}
    return {**memory, "multiprocessors": {"value": str(18 * engines)}}
