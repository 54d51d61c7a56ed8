"""Shapes of resource.k8s.io versions, there and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.kube import from_wire, to_wire

DEVICE = {"name": "gpu-0", "attributes": {"uuid": {"string": "GPU-0"}}, "capacity": {"memory": {"value": "80Gi"}}}
SLICE: dict[str, Any] = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceSlice",
    "metadata": {"name": "a"},
    "spec": {"driver": "d", "nodeName": "n", "pool": {"name": "n"}, "devices": [DEVICE, {"name": "gpu-1"}]},
}
REQUEST = {"name": "gpu", "exactly": {"deviceClassName": "c", "count": 2}}
ANY_OF = {"name": "any", "firstAvailable": [{"name": "sub", "deviceClassName": "c"}]}
CLAIM: dict[str, Any] = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceClaim",
    "spec": {"devices": {"requests": [REQUEST, ANY_OF], "config": []}},
    "status": {"allocation": {}},
}


def test_v1beta1_nests_a_device_and_lays_a_request_flat() -> None:
    old = to_wire(SLICE, "v1beta1")
    assert old["apiVersion"] == "resource.k8s.io/v1beta1"
    basic = {"attributes": DEVICE["attributes"], "capacity": DEVICE["capacity"]}
    assert old["spec"]["devices"] == [{"name": "gpu-0", "basic": basic}, {"name": "gpu-1", "basic": {}}]
    assert old["spec"]["nodeName"] == "n"
    requests = to_wire(CLAIM, "v1beta1")["spec"]["devices"]["requests"]
    assert requests == [{"name": "gpu", "deviceClassName": "c", "count": 2}, ANY_OF]


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
@pytest.mark.parametrize("thing", [SLICE, CLAIM, {**SLICE, "spec": {"driver": "d"}}])
def test_there_and_back_is_the_same(version: str, thing: dict[str, Any]) -> None:
    assert from_wire(to_wire(thing, version), version) == thing


def test_items_of_a_list_name_no_version() -> None:
    old = to_wire(SLICE, "v1beta1")
    del old["apiVersion"]
    assert from_wire(old, "v1beta1") == SLICE


@given(st.dictionaries(st.text().filter(lambda key: key not in ("name", "basic")), st.integers()))
def test_fields_nobody_knows_pass_through(more: dict[str, int]) -> None:
    thing = {**SLICE, "spec": {"devices": [{"name": "x", **more}]}}
    assert from_wire(to_wire(thing, "v1beta1"), "v1beta1") == thing
