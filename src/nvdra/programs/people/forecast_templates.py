"""Forecast slices in the forms that planning tools read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvdra.gpu.extents import DRIVER
from nvdra.programs.people.forecast_slices import Forecast

TEMPLATES = ("slices", "kwok", "cluster-api")

# Source: cluster-autoscaler, provider clusterapi, README, "Scale from zero support".
_CAPACITY = "capacity.cluster-autoscaler.kubernetes.io"


def documents(found: Forecast, template: str, node_name: str) -> list[Mapping[str, Any]]:
    """Returns the documents of one of TEMPLATES.

    slices       the bodies that the plugin sends, without the owner reference
    kwok         a Node that kwok keeps Ready, and the slices under fixed names, for `kubectl apply`
    cluster-api  the annotations by which cluster-autoscaler knows devices of an empty MachineDeployment; it knows the
                 driver's name and the number of full GPUs, no attribute and no partition
    """
    match template:
        case "kwok":
            return [_node(node_name), *(_named(body, node_name, at) for at, body in enumerate(found.slices))]
        case "cluster-api":
            annotations = {f"{_CAPACITY}/dra-driver": DRIVER, f"{_CAPACITY}/gpu-count": str(found.gpus)}
            return [{"metadata": {"annotations": annotations}}]
    return list(found.slices)


def _node(name: str) -> Mapping[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": name, "nvidia.com/gpu.present": "true", "type": "kwok"},
        },
    }


def _named(body: Mapping[str, Any], node_name: str, at: int) -> Mapping[str, Any]:
    return {**body, "metadata": {"name": f"{at:05x}-{DRIVER}-{node_name}"}}
