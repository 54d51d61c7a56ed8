"""Taints of published devices, from several sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Taints = Mapping[str, Sequence[Mapping[str, str]]]
"""By device name, in the shape of resource.k8s.io/v1; the API server fills in the times."""


def merged(sources: Mapping[str, Taints]) -> dict[str, tuple[Mapping[str, str], ...]]:
    """The taints of all sources: the sources in the order of their names, each source's taints in its order."""
    made: dict[str, tuple[Mapping[str, str], ...]] = {}
    for _, taints in sorted(sources.items()):
        for device, own in taints.items():
            made[device] = (*made.get(device, ()), *own)
    return made


def with_taints(device: dict[str, Any], taints: Taints) -> dict[str, Any]:
    """A published device with the taints of its name behind those that it has."""
    own = taints.get(str(device["name"]))
    return {**device, "taints": [*device.get("taints", ()), *map(dict, own)]} if own else device
