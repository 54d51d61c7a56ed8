"""Converts slices and claims between the shape of resource.k8s.io/v1, which all packages use, and older wire shapes.

v1beta2 has v1's shape. v1beta1 nests a device under `basic` and has the fields of a request's `exactly` inline.
Unknown fields are kept unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvdra.kube.discovery import DRA_GROUP

_FLAT_ELSEWHERE = frozenset(("name", "firstAvailable"))


def to_wire(thing: Mapping[str, Any], version: str) -> dict[str, Any]:
    """A v1-shaped slice or claim as `version` writes it."""
    made = {**thing, "apiVersion": f"{DRA_GROUP}/{version}"}
    if version == "v1beta1" and isinstance(thing.get("spec"), Mapping):
        spec = thing["spec"]
        made["spec"] = _claim_spec(spec, _flat) if _is_claim(spec) else _slice_spec(spec, _nested)
    return made


def from_wire(thing: Mapping[str, Any], version: str) -> dict[str, Any]:
    """The v1 shape of a slice or claim that was read in `version`; items of a list do not name their version."""
    made = {**thing, "apiVersion": f"{DRA_GROUP}/v1"}
    if version == "v1beta1" and isinstance(thing.get("spec"), Mapping):
        spec = thing["spec"]
        made["spec"] = _claim_spec(spec, _exact) if _is_claim(spec) else _slice_spec(spec, _unnested)
    return made


def _is_claim(spec: Mapping[str, Any]) -> bool:
    # A claim's devices are an object with requests, a slice's a list.
    return isinstance(spec.get("devices"), Mapping)


def _slice_spec(spec: Mapping[str, Any], device: Any) -> dict[str, Any]:
    made = dict(spec)
    if spec.get("devices"):
        made["devices"] = [device(each) for each in spec["devices"]]
    return made


def _claim_spec(spec: Mapping[str, Any], request: Any) -> dict[str, Any]:
    devices = dict(spec["devices"])
    if devices.get("requests"):
        devices["requests"] = [request(each) for each in devices["requests"]]
    return {**spec, "devices": devices}


def _nested(device: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": device.get("name", ""), "basic": {key: device[key] for key in device if key != "name"}}


def _unnested(device: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: device[key] for key in device if key not in ("name", "basic")}
    return {"name": device.get("name", ""), **rest, **(device.get("basic") or {})}


def _flat(request: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: request[key] for key in request if key != "exactly"}
    return {**rest, **(request.get("exactly") or {})}


def _exact(request: Mapping[str, Any]) -> dict[str, Any]:
    outer = {key: request[key] for key in request if key in _FLAT_ELSEWHERE}
    inner = {key: request[key] for key in request if key not in _FLAT_ELSEWHERE}
    return {**outer, "exactly": inner} if inner else outer
