"""Slices and devices at and beyond each limit, as the API server of Kubernetes 1.37 judges them."""

from __future__ import annotations

from typing import Any

TAINT = {"key": "gpu.nvidia.com/xid", "value": "48", "effect": "NoSchedule"}
VALUE = {"string": "x"}


def spec(*devices: Any, **more: Any) -> dict[str, Any]:
    pool = {"name": "node-a", "generation": 1, "resourceSliceCount": 1}
    return {"driver": "gpu.nvidia.com", "nodeName": "node-a", "pool": pool, "devices": list(devices), **more}


def many(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"name": f"d{n}", **more} for n in range(count)]


def counter_sets(sets: int, counters: int) -> list[dict[str, Any]]:
    return [{"name": f"s{n}", "counters": {f"c{m}": {"value": "1"} for m in range(counters)}} for n in range(sets)]


def pool(**more: Any) -> dict[str, Any]:
    return {"name": "node-a", "generation": 1, "resourceSliceCount": 1, **more}


def attributes(**values: Any) -> dict[str, Any]:
    return {"name": "d", "attributes": values}


def capacity(**more: Any) -> dict[str, Any]:
    return {"name": "d", "allowMultipleAllocations": True, "capacity": {"memory": {"value": "8", **more}}}


def policy(**more: Any) -> dict[str, Any]:
    return capacity(requestPolicy=more)


GOOD_SLICES: list[dict[str, Any]] = [
    spec(),
    spec(*many(128)),
    spec(*many(64, taints=[TAINT])),
    spec(pool=pool(name="a/b.c", generation=0)),
    spec(driver="GPU.nvidia.com"),
    spec(nodeName=None, allNodes=True),
    spec({"name": "d", "nodeName": "n"}, nodeName=None, perDeviceNodeSelection=True),
    spec(devices=None, sharedCounters=counter_sets(8, 32)),
]

BAD_SLICES: list[tuple[dict[str, Any], str]] = [
    (spec(driver=""), "spec.driver"),
    (spec(driver="x" * 64), "at most 63"),
    (spec(driver="a_b"), "spec.driver"),
    (spec(pool=pool(name="")), "spec.pool.name"),
    (spec(pool=pool(name="a//b")), "spec.pool.name"),
    (spec(pool=pool(name="x" * 254)), "at most 253"),
    (spec(pool=pool(generation=-1)), "must not be negative"),
    (spec(pool=pool(resourceSliceCount=0)), "greater than zero"),
    (spec(nodeName=None), "exactly one of"),
    (spec(allNodes=True), "exactly one of"),
    (spec(nodeName=None, nodeSelector={"nodeSelectorTerms": []}), "exactly one term"),
    (spec({"name": "d"}, nodeName=None, perDeviceNodeSelection=True), "node targets"),
    (spec({"name": "d", "nodeName": "n"}), "node targets"),
    (spec(*many(129)), "has 129 devices, at most 128"),
    (spec(*many(64), {"name": "x", "taints": [TAINT]}), "at most 64"),
    (spec(*many(64), {"name": "x", "attributes": {"a": {"ints": [1]}}}), "at most 64"),
    (spec({"name": "a"}, {"name": "a"}), 'duplicate "a"'),
    (spec({"name": "A"}), 'spec.devices[0].name: "A" is not a DNS label'),
    (spec(*many(1), sharedCounters=counter_sets(1, 1)), "counters or devices, not both"),
    (spec(devices=None, sharedCounters=counter_sets(9, 1)), "at most 8"),
    (spec(devices=None, sharedCounters=counter_sets(1, 33)), "1 to 32"),
    (spec(devices=None, sharedCounters=counter_sets(1, 0)), "1 to 32"),
    (spec(devices=None, sharedCounters=[*counter_sets(1, 1), *counter_sets(1, 1)]), 'duplicate "s0"'),
    (spec(devices=None, sharedCounters=[{"name": "S", "counters": {"c": {"value": "1"}}}]), "not a DNS label"),
    (spec(devices=None, sharedCounters=[{"name": "s", "counters": {"c": {"value": "x"}}}]), "not a quantity"),
]

BY_VERSION: list[tuple[dict[str, Any], int, bool]] = [
    (spec(*many(128, taints=[TAINT])), 34, True),
    (spec(*many(128, taints=[TAINT])), 35, False),
    (spec({"name": "d", "taints": [TAINT] * 5}), 34, False),
    (spec({"name": "d", "taints": [TAINT] * 5}), 35, True),
    (spec({"name": "d", "taints": [{**TAINT, "effect": "None"}]}), 34, False),
    (spec({"name": "d", "taints": [{**TAINT, "effect": "None"}]}), 35, True),
    (spec({"name": "d", "attributes": {"a": {"ints": [1]}}}), 35, False),
    (spec({"name": "d", "attributes": {"a": {"ints": [1]}}}), 36, True),
    (spec(devices=None, sharedCounters=counter_sets(2, 17)), 34, False),
    (spec(devices=None, sharedCounters=counter_sets(2, 17)), 35, True),
    (
        spec(
            {"name": "d", "consumesCounters": [{"counterSet": "s0", "counters": {"c0": {"value": "1"}}}]},
            sharedCounters=counter_sets(1, 1),
        ),
        34,
        True,
    ),
    (spec({"name": "d", "consumesCounters": [{"counterSet": "s", "counters": {"c": {"value": "1"}}}]}), 34, False),
    (spec({"name": "d", "consumesCounters": [{"counterSet": "s", "counters": {"c": {"value": "1"}}}]}), 35, True),
]

GOOD_DEVICES: list[dict[str, Any]] = [
    attributes(**{f"a{n}": VALUE for n in range(32)}),
    attributes(a={"string": "x" * 64}, b={"version": "1.2.3-rc.1+b"}, c={"int": -1}, d={"bool": False}),
    attributes(**{"resource.kubernetes.io/pciBusID": VALUE}),
    attributes(a={"ints": list(range(48))}),
    attributes(a={"strings": ["x", "x"]}),
    attributes(**{"Good/a": VALUE}),
    policy(default="9", validRange={"min": "1"}),
    capacity(value="143771Mi"),
    policy(default="2", validValues=["1", "2", "4"]),
    policy(default="2", validRange={"min": "1", "max": "7", "step": "1"}),
    {"name": "d", "bindingConditions": ["a"], "bindingFailureConditions": ["b"]},
    {"name": "d", "taints": [{"key": "xid", "effect": "NoExecute"}]},
]

BAD_DEVICES: list[tuple[dict[str, Any], str]] = [
    ({}, "not a DNS label"),
    ({"name": "x" * 64}, "not a DNS label"),
    (attributes(**{f"a{n}": VALUE for n in range(33)}), "has 33 attributes and capacities"),
    (attributes(a={"ints": list(range(49))}), "has 49 values"),
    (attributes(a={"string": "é" * 33}), "has 66 bytes, at most 64"),
    (attributes(a={"version": "12.4"}), "not a semantic version"),
    (attributes(a={"version": "01.2.3"}), "not a semantic version"),
    (attributes(a={"int": "1"}), "not an integer"),
    (attributes(a={"int": True}), "not an integer"),
    (attributes(a={"bool": 1}), "not true or false"),
    (attributes(a={}), "exactly one value"),
    (attributes(a={"int": 1, "string": "x"}), "exactly one value"),
    (attributes(a={"strings": []}), "must not be empty"),
    (attributes(**{"a-b": VALUE}), "C identifier"),
    (attributes(**{"a" * 33: VALUE}), "C identifier"),
    (attributes(**{"a_b/a": VALUE}), "DNS subdomain"),
    (attributes(**{"/a": VALUE}), "DNS subdomain"),
    (capacity(value="8 GB"), "not a quantity"),
    ({**policy(default="1", validValues=["1"]), "allowMultipleAllocations": False}, "allowMultipleAllocations"),
    (policy(default="1", validValues=["1"], validRange={"min": "1"}), "exclude each other"),
    (policy(validValues=["1"]), ".default: is needed"),
    (policy(default="1", validValues=["2", "1"]), "ascending"),
    (policy(default="3", validValues=["1", "2"]), "one of validValues"),
    (policy(default="1", validValues=[str(n) for n in range(1, 12)]), "at most 10"),
    (policy(default="1", validRange={}), ".min: is needed"),
    (policy(default="0", validRange={"min": "1"}), "within it"),
    (policy(default="9", validRange={"min": "1", "max": "8"}), "within it"),
    (policy(default="9", validValues=["9"]), ".validValues: must not exceed"),
    (policy(default="1", validRange={"min": "1", "max": "9"}), ".max: must not exceed"),
    (policy(default="1", validRange={"min": "1", "step": "0"}), ".step: must be greater"),
    (policy(default="2", validRange={"min": "1", "step": "2"}), "whole steps"),
    ({"name": "d", "consumesCounters": [{"counterSet": "s"}]}, "has 0, 1 to 32"),
    ({"name": "d", "consumesCounters": [{"counterSet": "s", "counters": {"C": {"value": "1"}}}]}, "DNS label"),
    (
        {"name": "d", "consumesCounters": [{"counterSet": s, "counters": {"c": {"value": "1"}}} for s in "abc"]},
        "at most 2",
    ),
    ({"name": "d", "taints": [TAINT] * 17}, "at most 16"),
    ({"name": "d", "taints": [{**TAINT, "key": ""}]}, "not a label name"),
    ({"name": "d", "taints": [{**TAINT, "value": "a b"}]}, "not a label value"),
    ({"name": "d", "taints": [{**TAINT, "effect": "Maybe"}]}, "not an effect"),
    ({"name": "d", "bindingConditions": ["a"]}, "need each other"),
    ({"name": "d", "bindingConditions": ["a"], "bindingFailureConditions": ["a"]}, "duplicate"),
    ({"name": "d", "bindingConditions": list("abcde"), "bindingFailureConditions": ["x"]}, "at most 4"),
    ({"name": "d", "bindingConditions": ["a b"], "bindingFailureConditions": ["x"]}, "not a condition type"),
]
