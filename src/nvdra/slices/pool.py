"""The difference between the desired and the stored ResourceSlices of a node.

This module decides and never calls the API server. Slices and devices are v1-shaped JSON values. Names, generations and
counts follow the Go slice controller (k8s.io/dynamic-resource-allocation v0.36), so that one driver
can replace the other on a live node without a write if the content is equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nvdra.api import quantity

SliceDevice = Mapping[str, Any]
Slice = Mapping[str, Any]

_DIGITS = 5
_INDEX = re.compile(r"[0-9a-fA-F]{5,}-")
_EMPTY: tuple[None, dict[str, Any], list[Any]] = (None, {}, [])


@dataclass(frozen=True, slots=True)
class Pool:
    """Identifies a node's slices of one driver. The pool has the node's name."""

    driver: str
    node_name: str


@dataclass(frozen=True, slots=True)
class SliceSpec:
    """The desired content of a slice; `changes` adds pool and generation."""

    devices: tuple[SliceDevice, ...] = ()
    shared_counters: tuple[Mapping[str, Any], ...] = ()

    def is_like(self, other: SliceSpec) -> bool:
        """Whether both are equal for the API server: order counts; notation and absent fields do not."""
        return self == other or (
            _same_devices(self.devices, other.devices)
            and _meaning(list(self.shared_counters)) == _meaning(list(other.shared_counters))
        )


@dataclass(frozen=True, slots=True)
class Dropped:
    """Fields of a slice that the server dropped, and the feature gates that are probably off."""

    sent: SliceSpec
    kept: SliceSpec
    gates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """A PUT of the whole object."""

    index: int
    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Create:
    """A POST; `owned` adds the owner, whose uid is needed only here."""

    index: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """A DELETE with both preconditions."""

    name: str
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write.

    surplus     slices of the current generation to delete together with the writes
    outdated    slices to delete last: of older generations, and of pools that are not desired
    """

    generation: int
    updates: tuple[Update, ...] = ()
    creates: tuple[Create, ...] = ()
    surplus: tuple[Delete, ...] = ()
    outdated: tuple[Delete, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.updates or self.creates or self.surplus or self.outdated)


def stored_order(stored: Iterable[Slice]) -> tuple[str, ...]:
    """Device names of the pool's newest generation, in the order a scheduler sees them."""
    slices = list(stored)
    newest = _newest(slices)
    current = sorted((each for each in slices if _generation(each) == newest), key=_name)
    return tuple(str(device["name"]) for each in current for device in each["spec"].get("devices") or ())


def changes(
    specs: Sequence[SliceSpec],
    stored: Iterable[Slice],
    pool: Pool,
    kept: Mapping[int, Dropped] | None = None,
) -> Changes:
    """The writes that turn the stored slices of the pool into the desired ones; empty if nothing differs.

    One changed slice is rewritten at its generation: the pool stays complete. Anything more starts a generation.
    kept   by index: the content that the server stored before; fields that it dropped are not sent again
    """
    every = sorted(stored, key=lambda each: (str(each["metadata"].get("creationTimestamp", "")), _name(each)))
    slices = [each for each in every if each["spec"]["pool"].get("name") == pool.node_name]
    elsewhere = [each for each in every if each["spec"]["pool"].get("name") != pool.node_name]
    newest = _newest(slices)
    current = _adopted(specs, slices, newest) or _by_index(slices, newest, len(specs))
    taken = {id(each) for each in current.values()}
    changed = [
        index
        for index, each in current.items()
        if not _is_settled(specs[index], each, len(specs), (kept or {}).get(index))
    ]
    missing = [index for index in range(len(specs)) if index not in current]
    is_bumped = bool(missing) or len(changed) > 1
    generation = newest + 1 if is_bumped else newest
    if is_bumped:
        changed = sorted(current)
    place = {"name": pool.node_name, "generation": generation, "resourceSliceCount": len(specs)}
    gone = [each for each in slices if id(each) not in taken]
    return Changes(
        generation,
        tuple(Update(index, _name(current[index]), _updated(current[index], specs[index], place)) for index in changed),
        tuple(Create(index, _created(index, specs[index], place, pool, len(specs))) for index in missing),
        tuple(_delete(each) for each in gone if _generation(each) >= generation),
        tuple(_delete(each) for each in gone if _generation(each) < generation) + tuple(map(_delete, elsewhere)),
    )


def owned(create: Create, pool: Pool, node_uid: str) -> dict[str, Any]:
    """The object to POST. The node owns it, so Kubernetes deletes it with the node."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": pool.node_name, "uid": node_uid, "controller": True}
    body = create.body
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [owner]}}


def dropped(sent: SliceSpec, answer: Slice) -> Dropped | None:
    """The fields of a slice that the server dropped; None if it kept all."""
    kept = spec_of(answer)
    if sent.is_like(kept):
        return None
    return Dropped(sent, kept, tuple(_gates(sent, kept)) or ("unknown",))


def spec_of(stored: Slice) -> SliceSpec:
    """The content of a stored slice."""
    spec = stored["spec"]
    return SliceSpec(tuple(spec.get("devices") or ()), tuple(spec.get("sharedCounters") or ()))


def _newest(slices: Iterable[Slice]) -> int:
    return max((_generation(each) for each in slices), default=0)


def _generation(stored: Slice) -> int:
    try:
        return int(stored["spec"]["pool"]["generation"])
    except (KeyError, TypeError, ValueError):
        return 0  # older than any of ours


def _name(stored: Slice) -> str:
    return str(stored["metadata"]["name"])


def _delete(stored: Slice) -> Delete:
    metadata = stored["metadata"]
    return Delete(metadata["name"], metadata["uid"], metadata["resourceVersion"])


def _width(count: int) -> int:
    return max(_DIGITS, len(f"{max(count - 1, 0):x}"))


def _by_index(slices: Iterable[Slice], newest: int, count: int) -> dict[int, Slice]:
    """Slices of the newest generation by the index in their names; the older of two with one index."""
    index_in_name = re.compile(rf"([0-9a-fA-F]{{{_width(count)}}})-")
    current: dict[int, Slice] = {}
    for each in slices:
        found = index_in_name.match(_name(each))
        if found and _generation(each) == newest and int(found[1], 16) < count:
            current.setdefault(int(found[1], 16), each)
    return dict(sorted(current.items()))


def _adopted(specs: Sequence[SliceSpec], slices: Sequence[Slice], newest: int) -> dict[int, Slice]:
    """A complete pool of one slice with equal content under a name without index, as older drivers named theirs.

    Recreating it would take the devices away for a moment and change nothing else.
    """
    current = [each for each in slices if _generation(each) == newest]
    if len(specs) != 1 or len(current) != 1:
        return {}
    (found,) = current
    is_complete = found["spec"]["pool"].get("resourceSliceCount") == 1
    if _INDEX.match(_name(found)) or not is_complete or not specs[0].is_like(spec_of(found)):
        return {}
    return {0: found}


def _is_settled(spec: SliceSpec, stored: Slice, count: int, known: Dropped | None) -> bool:
    is_content = spec.is_like(spec_of(stored)) or (
        known is not None and known.sent.is_like(spec) and known.kept.is_like(spec_of(stored))
    )
    place, targets = stored["spec"]["pool"], stored["spec"]
    return (
        is_content
        and place.get("resourceSliceCount") == count
        and not any(targets.get(key) for key in ("nodeSelector", "allNodes", "perDeviceNodeSelection"))
    )


def _updated(stored: Slice, spec: SliceSpec, place: Mapping[str, Any]) -> dict[str, Any]:
    """The stored object with the desired content; unknown fields stay."""
    metadata = {key: value for key, value in stored["metadata"].items() if key != "managedFields"}
    theirs = ("pool", "devices", "sharedCounters", "nodeSelector", "allNodes", "perDeviceNodeSelection")
    rest = {key: value for key, value in stored["spec"].items() if key not in theirs}
    before = {str(device["name"]): device for device in stored["spec"].get("devices") or ()}
    devices = tuple(_with_times(device, before.get(str(device["name"]), {})) for device in spec.devices)
    return {**stored, "metadata": metadata, "spec": {**rest, "pool": place, **_content(spec, devices)}}


def _created(index: int, spec: SliceSpec, place: Mapping[str, Any], pool: Pool, count: int) -> dict[str, Any]:
    prefix = f"{index:0{_width(count)}x}-{pool.driver}-{pool.node_name}-"
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"generateName": prefix},
        "spec": {
            "driver": pool.driver,
            "nodeName": pool.node_name,
            "pool": place,
            **_content(spec, spec.devices),
        },
    }


def _content(spec: SliceSpec, devices: Sequence[SliceDevice]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if devices:
        content["devices"] = list(devices)
    if spec.shared_counters:
        content["sharedCounters"] = list(spec.shared_counters)
    return content


def _with_times(device: SliceDevice, before: SliceDevice) -> SliceDevice:
    """The device with the stored times of its taints: a taint that stays keeps the time when it was added."""
    dated = {_taint(taint): taint.get("timeAdded") for taint in before.get("taints") or ()}
    if not device.get("taints") or not dated:
        return device
    taints = [
        {**taint, "timeAdded": dated[_taint(taint)]}
        if not taint.get("timeAdded") and dated.get(_taint(taint))
        else taint
        for taint in device["taints"]
    ]
    return {**device, "taints": taints}


def _taint(taint: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(taint.get("key") or ""), str(taint.get("value") or ""), str(taint.get("effect") or "")


def _same_devices(one: Sequence[SliceDevice], other: Sequence[SliceDevice]) -> bool:
    return len(one) == len(other) and all(map(_same_device, one, other))


def _same_device(one: SliceDevice, other: SliceDevice) -> bool:
    if one == other:
        return True
    untainted = [{key: device[key] for key in device if key != "taints"} for device in (one, other)]
    ours, theirs = one.get("taints") or (), other.get("taints") or ()
    return (
        _meaning(untainted[0]) == _meaning(untainted[1])
        and len(ours) == len(theirs)
        and all(_taint(a) == _taint(b) and _same_moment(a, b) for a, b in zip(ours, theirs, strict=True))
    )


def _same_moment(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two times are equal for a server, which stores whole seconds and fills in a missing time."""
    ours, theirs = one.get("timeAdded"), other.get("timeAdded")
    if not ours or not theirs:
        return True
    return abs((datetime.fromisoformat(ours) - datetime.fromisoformat(theirs)).total_seconds()) <= 1


_AMOUNTS = frozenset(("value", "default", "min", "max", "step"))


def _meaning(thing: Any, key: str = "", is_amount: bool = False) -> Any:
    """A form in which equal means the same to the API server: nothing absent, amounts instead of notations."""
    if isinstance(thing, Mapping):
        is_counted = is_amount or key in ("capacity", "counters")
        parts = {name: _meaning(value, name, is_counted) for name, value in thing.items()}
        return {name: part for name, part in parts.items() if part not in _EMPTY}
    if isinstance(thing, list | tuple):
        is_counted = is_amount and key == "validValues"
        return [_amount(each) if is_counted else _meaning(each, "", is_amount) for each in thing]
    if is_amount and key in _AMOUNTS:
        return _amount(thing)
    return thing


def _amount(value: Any) -> Any:
    try:
        return quantity.parse(str(value)).nanos
    except ValueError:
        return value


def _gates(sent: SliceSpec, kept: SliceSpec) -> Iterable[str]:
    """Feature gates that explain the loss, in the order of their evidence."""
    pairs = list(zip(sent.devices, kept.devices, strict=False))

    def fewer(*keys: str) -> bool:
        return any(len(ours.get(key) or ()) > len(theirs.get(key) or ()) for ours, theirs in pairs for key in keys)

    if fewer("taints"):
        yield "DRADeviceTaints"
    if len(sent.shared_counters) > len(kept.shared_counters) or fewer("consumesCounters"):
        yield "DRAPartitionableDevices"
    if fewer("bindingConditions", "bindingFailureConditions"):
        yield "DRADeviceBindingConditions"
    if any(
        ours.get("allowMultipleAllocations") and not theirs.get("allowMultipleAllocations") for ours, theirs in pairs
    ):
        yield "DRAConsumableCapacity"
