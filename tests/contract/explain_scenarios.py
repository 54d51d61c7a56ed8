"""Claims that kube-scheduler leaves pending, one for each cause that can be made on an API server."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.contract import explained as e

Json = dict[str, Any]

NAMESPACE = "ml"
NODES = ("explain-1", "explain-2")
DRIVER = "explain.example"
_ROOT = "resource.kubernetes.io/pcieRoot"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A pending pod `want` with its claims.

    holders    claims that get devices first: name of the node, claim
    codes      what the first node answers
    helps      kinds of the changes that help
    says       part of what the scheduler says, where it words an error its own way
    """

    name: str
    codes: frozenset[str]
    helps: frozenset[str]
    objects: tuple[Json, ...]
    claims: tuple[Json, ...]
    holders: tuple[tuple[str, Json], ...] = ()
    verdict: str = "no fit"
    says: str = ""
    nodes: tuple[str, ...] = field(default=NODES[:1])


def node(name: str) -> Json:
    """A node without a kubelet, as ready as a scheduler asks for."""
    amounts = {"cpu": "8", "memory": "64Gi", "pods": "110"}
    made = e.node(name)
    made["status"] = {
        "capacity": amounts,
        "allocatable": amounts,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}],
    }
    return made


def pod(name: str, claims: tuple[str, ...], on: str | None = None) -> Json:
    """A pod that only the nodes of these scenarios can take."""
    made = e.pod(name, *claims)
    for entry in made["spec"]["resourceClaims"]:
        entry["name"] = f"claim-{entry['name']}"
    terms = [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [on] if on else NODES}]}
    ]
    made["spec"] |= {
        "containers": [{"name": "main", "image": "none", "resources": {"claims": _named(made)}}],
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
        "terminationGracePeriodSeconds": 0,
    }
    return made


def _named(pod: Json) -> list[Json]:
    return [{"name": entry["name"]} for entry in pod["spec"]["resourceClaims"]]


def _class(expression: str = f"device.driver == '{DRIVER}'") -> Json:
    made = e.device_class(expression)
    made["metadata"]["name"] = DRIVER
    return made


def _slice(node: str, devices: list[Json], name: str = "", **more: Any) -> Json:
    made = e.slice_of(node, devices, **more)
    made["spec"]["driver"] = DRIVER
    made["metadata"] = {"name": f"explain-{node}-{name or '0'}"}
    return made


def _claim(name: str = "want", **exactly: Any) -> Json:
    made = copy.deepcopy(e.claim(name, **exactly))
    for request in made["spec"]["devices"]["requests"]:
        request["exactly"].setdefault("deviceClassName", DRIVER)
        if request["exactly"]["deviceClassName"] == e.DRIVER:
            request["exactly"]["deviceClassName"] = DRIVER
    return made


def gpu(index: int, **more: Any) -> Json:
    made = e.gpu(index, **more)
    made["attributes"]["index"] = {"int": index}
    return made


def _cel(expression: str) -> list[Json]:
    return [{"cel": {"expression": expression}}]


def _index(value: int) -> list[Json]:
    return _cel(f"device.attributes['{DRIVER}'].index == {value}")


def scenarios() -> list[Scenario]:
    """Returns one scenario a cause."""
    return [make() for make in _SCENARIOS]


_SCENARIOS: list[Callable[[], Scenario]] = []


def _scenario(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    _SCENARIOS.append(make)
    return make


def _plain(name: str, codes: set[str], helps: set[str], slices: list[Json], claim: Json, **more: Any) -> Scenario:
    objects = (_class(), *slices, *more.pop("objects", ()))
    return Scenario(name, frozenset(codes), frozenset(helps), objects, (claim,), **more)


@_scenario
def _in_use() -> Scenario:
    holders = ((NODES[0], _claim("old")),)
    slices = [_slice(NODES[0], [gpu(0)])]
    return _plain("devices in use", {"device.in-use"}, {"release"}, slices, _claim(), holders=holders)


@_scenario
def _selector() -> Scenario:
    claim = _claim(selectors=_cel(f"device.attributes['{DRIVER}'].productName == 'NVIDIA B200'"))
    slices = [_slice(NODES[0], [gpu(0)])]
    return _plain("a selector that is false", {"cel.request-false"}, {"drop-selector"}, slices, claim)


@_scenario
def _class_selector() -> Scenario:
    objects = (_class("device.driver == 'other.example'"), _slice(NODES[0], [gpu(0)]))
    return Scenario("a class that takes no device", frozenset({"cel.class-false"}), frozenset(), objects, (_claim(),))


@_scenario
def _runtime_error() -> Scenario:
    claim = _claim(selectors=_cel(f"device.attributes['{DRIVER}'].missing == 1"))
    slices = [_slice(NODES[0], [gpu(0)])]
    return _plain("a selector that fails", {"cel.runtime"}, set(), slices, claim, verdict="error")


@_scenario
def _taint() -> Scenario:
    slices = [_slice(NODES[0], [gpu(0, taints=[{"key": "sick", "value": "xid", "effect": "NoSchedule"}])])]
    return _plain("a taint of the driver", {"taint"}, {"tolerate"}, slices, _claim())


@_scenario
def _rule() -> Scenario:
    taint = {"key": "repair", "value": "rack-4", "effect": "NoExecute"}
    rule = {
        "kind": "DeviceTaintRule",
        "metadata": {"name": "explain-repair"},
        "spec": {"deviceSelector": {"driver": DRIVER, "pool": NODES[0]}, "taint": taint},
    }
    slices = [_slice(NODES[0], [gpu(0)])]
    return _plain("a taint of a rule", {"taint"}, {"tolerate"}, slices, _claim(), objects=(rule,))


@_scenario
def _mismatch() -> Scenario:
    claim = _claim(count=2, constraints=[{"matchAttribute": _ROOT}])
    slices = [_slice(NODES[0], [gpu(0), gpu(2)])]
    helps = {"drop-constraint", "count"}
    return _plain("devices that do not match", {"constraint.mismatch"}, helps, slices, claim)


@_scenario
def _duplicate() -> Scenario:
    claim = _claim(count=2, constraints=[{"distinctAttribute": _ROOT}])
    slices = [_slice(NODES[0], [gpu(0), gpu(1)])]
    helps = {"drop-constraint", "count"}
    return _plain("devices that are not distinct", {"constraint.duplicate"}, helps, slices, claim)


@_scenario
def _absent() -> Scenario:
    claim = _claim(constraints=[{"matchAttribute": "example.com/none"}])
    slices = [_slice(NODES[0], [gpu(0)])]
    return _plain("an attribute that is absent", {"constraint.absent"}, {"drop-constraint"}, slices, claim)


def _partitions() -> list[Json]:
    def part(name: str, amount: int) -> Json:
        consumed = [{"counterSet": "gpu-0", "counters": {"memory": {"value": str(amount)}}}]
        return {"name": name, "consumesCounters": consumed, "attributes": {"type": {"string": name}}}

    pool = {"resourceSliceCount": 2}
    counters = [{"name": "gpu-0", "counters": {"memory": {"value": "8"}}}]
    parts = _slice(NODES[0], [part("whole", 8), part("half", 4)], pool=pool)
    sets = _slice(NODES[0], [], "counters", pool=pool, sharedCounters=counters)
    del sets["spec"]["devices"]
    return [parts, sets]


@_scenario
def _counters() -> Scenario:
    wanted = f"device.attributes['{DRIVER}'].type == '%s'"
    holders = ((NODES[0], _claim("old", selectors=_cel(wanted % "half"))),)
    claim = _claim(selectors=_cel(wanted % "whole"))
    codes = {"counters.short", "device.in-use"}
    return _plain("counters that are short", codes, {"release"}, _partitions(), claim, holders=holders)


def _share(**capacity: Any) -> Json:
    return gpu(0) | {"allowMultipleAllocations": True, "capacity": {"memory": {"value": "80Gi", **capacity}}}


@_scenario
def _exhausted() -> Scenario:
    policy = {"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi"}}
    slices = [_slice(NODES[0], [_share(requestPolicy=policy)])]
    holders = ((NODES[0], _claim("old", capacity={"requests": {"memory": "60Gi"}})),)
    claim = _claim(capacity={"requests": {"memory": "40Gi"}})
    helps = {"release", "drop-capacity"}
    return _plain("a share that does not fit", {"capacity.exhausted"}, helps, slices, claim, holders=holders)


@_scenario
def _policy() -> Scenario:
    policy = {"default": "1Gi", "validRange": {"min": "1Gi", "max": "16Gi"}}
    slices = [_slice(NODES[0], [_share(requestPolicy=policy)])]
    claim = _claim(capacity={"requests": {"memory": "40Gi"}})
    return _plain("a share beyond the policy", {"capacity.policy"}, {"drop-capacity"}, slices, claim)


@_scenario
def _undefined() -> Scenario:
    slices = [_slice(NODES[0], [_share()])]
    claim = _claim(capacity={"requests": {"cores": "1"}})
    return _plain("a capacity that is not there", {"capacity.undefined"}, {"drop-capacity"}, slices, claim)


@_scenario
def _few() -> Scenario:
    slices = [_slice(NODES[0], [gpu(0), gpu(1)])]
    return _plain("too few devices", {"devices.few"}, {"count"}, slices, _claim(count=3))


@_scenario
def _all_empty() -> Scenario:
    claim = _claim(allocationMode="All", selectors=_index(7))
    slices = [_slice(NODES[0], [gpu(0)])]
    codes = {"all.empty", "cel.request-false"}
    return _plain("all of no devices", codes, {"drop-selector"}, slices, claim)


@_scenario
def _all_blocked() -> Scenario:
    holders = ((NODES[0], _claim("old", selectors=_index(0))),)
    slices = [_slice(NODES[0], [gpu(0), gpu(1)])]
    claim = _claim(allocationMode="All")
    codes = {"device.in-use"}
    helps = {"release", "count"}
    return _plain("all devices, one in use", codes, helps, slices, claim, holders=holders)


@_scenario
def _all_bad() -> Scenario:
    slices = [_slice(NODES[0], [gpu(0)], pool={"resourceSliceCount": 2})]
    claim = _claim(allocationMode="All")
    return _plain("all of a pool in change", {"all.bad-pool"}, set(), slices, claim, verdict="error")


@_scenario
def _incomplete() -> Scenario:
    slices = [_slice(NODES[0], [gpu(0)], pool={"resourceSliceCount": 2})]
    return _plain("a pool that is incomplete", {"pool.incomplete"}, set(), slices, _claim())


@_scenario
def _invalid() -> Scenario:
    pool = {"resourceSliceCount": 2}
    slices = [_slice(NODES[0], [gpu(0)], pool=pool), _slice(NODES[0], [gpu(0)], "again", pool=pool)]
    return _plain("a pool that is invalid", {"pool.invalid"}, set(), slices, _claim())


@_scenario
def _obsolete() -> Scenario:
    old = _slice(NODES[0], [gpu(0)], pool={"name": "shared", "resourceSliceCount": 2})
    new = _slice(NODES[1], [gpu(1)], pool={"name": "shared", "resourceSliceCount": 2, "generation": 2})
    return _plain("a pool that is replaced", {"pool.obsolete"}, set(), [old, new], _claim(), nodes=NODES)


@_scenario
def _nothing() -> Scenario:
    return _plain("no devices for the node", {"slice.other-node"}, set(), [], _claim())


@_scenario
def _per_device() -> Scenario:
    made = _slice(NODES[0], [gpu(0) | {"nodeName": NODES[0]}, gpu(1) | {"nodeName": NODES[1]}])
    del made["spec"]["nodeName"]
    made["spec"]["perDeviceNodeSelection"] = True
    claim = _claim(count=2)
    return _plain("devices of other nodes", {"device.other-node"}, {"count"}, [made], claim, nodes=NODES)


@_scenario
def _no_class() -> Scenario:
    objects = (_slice(NODES[0], [gpu(0)]),)
    codes, claim = frozenset({"class.missing"}), (_claim(),)
    says = f"device class {DRIVER} does not exist"
    return Scenario("a class that is not there", codes, frozenset(), objects, claim, verdict="error", says=says)


@_scenario
def _alternatives() -> Scenario:
    claim = _claim()
    subs: Iterator[Json] = (
        {"name": name, "deviceClassName": DRIVER, "selectors": _index(index)} for name, index in (("a", 7), ("b", 8))
    )
    claim["spec"]["devices"]["requests"] = [{"name": "gpu", "firstAvailable": list(subs)}]
    slices = [_slice(NODES[0], [gpu(0)])]
    return _plain("no alternative fits", {"cel.request-false"}, {"drop-selector"}, slices, claim)
