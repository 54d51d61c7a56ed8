"""Clusters for `nvdra claim explain`: nodes of GPUs as the plugin publishes them, with claims that hold some."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

DRIVER = "gpu.nvidia.com"


def node(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}


def gpu(index: int, product: str = "NVIDIA H200", **more: Any) -> Json:
    attributes = {
        "productName": {"string": product},
        "uuid": {"string": f"GPU-{index}"},
        "resource.kubernetes.io/pcieRoot": {"string": f"pci0000:{index // 2:02d}"},
    }
    return {"name": f"gpu-{index}", "attributes": attributes, "capacity": {"memory": {"value": "141Gi"}}, **more}


def slice_of(name: str, devices: list[Json], **more: Any) -> Json:
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1, **more.pop("pool", {})}
    spec = {"driver": DRIVER, "nodeName": name, "pool": pool, "devices": devices, **more}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{name}-0", "managedFields": [{"manager": "x"}]},
        "spec": spec,
    }


def device_class(expression: str = f"device.driver == '{DRIVER}'") -> Json:
    spec = {"selectors": [{"cel": {"expression": expression}}]}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": DRIVER}, "spec": spec}


def claim(name: str, *, held: list[tuple[str, str]] | None = None, **exactly: Any) -> Json:
    """A claim for GPUs; `held` are nodes and devices that it is allocated."""
    constraints = exactly.pop("constraints", [])
    requests = [{"name": "gpu", "exactly": {"deviceClassName": DRIVER, **exactly}}]
    found: Json = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "ml"},
        "spec": {"devices": {"requests": requests, "constraints": constraints}},
        "status": {},
    }
    if held:
        results = [{"request": "gpu", "driver": DRIVER, "pool": pool, "device": device} for pool, device in held]
        found["status"] = {
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": f"{name}-pod", "uid": "1"}],
        }
    return found


def pod(name: str, *claims: str) -> Json:
    spec = {"resourceClaims": [{"name": f"c{i}", "resourceClaimName": one} for i, one in enumerate(claims)]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ml"}, "spec": spec}


def cluster(*objects: Json) -> Json:
    """A dump as `kubectl get … -o json` writes it."""
    return {"apiVersion": "v1", "items": [*objects], "kind": "List"}


def example() -> Json:
    """Returns the cluster that the guide shows."""
    objects = [device_class()]
    for name in (f"gpu-node-{i}" for i in range(1, 5)):
        objects += [node(name), slice_of(name, [gpu(i) for i in range(4)])]
    taint = {"key": "repair", "effect": "NoSchedule"}
    objects += [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": "rack-4-repair"},
            "spec": {"deviceSelector": {"pool": "gpu-node-4"}, "taint": taint},
        },
        claim("train-a", held=[("gpu-node-1", f"gpu-{i}") for i in range(4)]),
        claim("train-b", held=[("gpu-node-2", "gpu-0"), ("gpu-node-2", "gpu-2")]),
        claim("notebook", held=[("gpu-node-3", f"gpu-{i}") for i in range(3)]),
        claim("eval", count=2, constraints=[{"matchAttribute": "resource.kubernetes.io/pcieRoot"}]),
    ]
    return cluster(*objects)
