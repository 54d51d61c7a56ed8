"""The API server's limits for ResourceSlices, checked before a write.

Texts name fields as the server does. `minor` is the server's minor version: some limits changed.
Source: validation of resource.k8s.io, Kubernetes 1.32 to 1.37.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from nvdra.api import quantity

NEWEST_MINOR = 37

DEVICES = 128
DEVICES_WITH_MORE = 64  # once a device of the slice has taints, counters or list attributes
_NAMED_VALUES = 32
_VALUES = 48
_TEXT = 64
SETS = 8
_COUNTERS = 32
_CONDITIONS = 4
_VALID_VALUES = 10
_LISTS = ("ints", "bools", "strings", "versions")
_KINDS = ("int", "bool", "string", "version", *_LISTS)
_EFFECTS = ("NoSchedule", "NoExecute", "None")


def _shape(pattern: str) -> Callable[[str], bool]:
    """A cached check of a text's shape: the partitions of a node repeat few texts very often."""
    compiled = re.compile(pattern, re.ASCII)
    return lru_cache(maxsize=512)(lambda text: compiled.fullmatch(text) is not None)


_PART = r"(0|[1-9][0-9]*)"
_PRE = r"(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"

_is_label = _shape(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_is_subdomain = _shape(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_is_identifier = _shape(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_is_name = _shape(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)")
_is_semver = _shape(rf"{_PART}\.{_PART}\.{_PART}(-{_PRE}(\.{_PRE})*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")

SliceDevice = Mapping[str, Any]


def slice_problems(spec: Mapping[str, Any], minor: int = NEWEST_MINOR) -> tuple[str, ...]:
    """Why the server would refuse this v1-shaped `spec`; () if it would not."""
    return tuple(_slice(spec, minor))


def device_problems(device: SliceDevice, minor: int = NEWEST_MINOR) -> tuple[str, ...]:
    """Why the server would refuse a slice because of this device alone."""
    return tuple(_device(device, minor))


def is_demanding(device: SliceDevice) -> bool:
    """Whether this device lowers the number of devices that its slice may hold."""
    lists = any(kind in value for value in (device.get("attributes") or {}).values() for kind in _LISTS)
    return bool(device.get("taints") or device.get("consumesCounters") or lists)


def _slice(spec: Mapping[str, Any], minor: int) -> Iterator[str]:
    driver, pool = str(spec.get("driver") or ""), spec.get("pool") or {}
    devices: Sequence[SliceDevice] = spec.get("devices") or ()
    sets: Sequence[Mapping[str, Any]] = spec.get("sharedCounters") or ()
    if len(driver) > 63 or not _is_subdomain(driver.lower()):
        yield f'spec.driver: "{driver}" is not a DNS subdomain of at most 63 characters'
    name = str(pool.get("name") or "")
    if not 0 < len(name) <= 253 or not all(_is_subdomain(part) for part in name.split("/")):
        yield f'spec.pool.name: "{name}" is not DNS subdomains joined by "/" (at most 253 characters)'
    if pool.get("generation", 0) < 0:
        yield "spec.pool.generation: must not be negative"
    if pool.get("resourceSliceCount", 0) <= 0:
        yield "spec.pool.resourceSliceCount: must be greater than zero"
    if minor >= 35 and spec.get("devices") is not None and spec.get("sharedCounters") is not None:
        yield "spec: a slice has counters or devices, not both, not even empty"
    yield from _target(spec, devices)
    most = DEVICES
    if (minor >= 35 and any(d.get("taints") or d.get("consumesCounters") for d in devices)) or (
        minor >= 36 and any(is_demanding(device) for device in devices)
    ):
        most = DEVICES_WITH_MORE
    if len(devices) > most:
        yield f"spec.devices: has {len(devices)} devices, at most {most} are allowed"
    yield from _twice("spec.devices", (device.get("name") for device in devices))
    for index, device in enumerate(devices):
        yield from (f"spec.devices[{index}]{problem}" for problem in _device(device, minor))
    if minor >= 33:
        yield from _counter_sets(sets, devices, minor)


def _target(spec: Mapping[str, Any], devices: Sequence[SliceDevice]) -> Iterator[str]:
    targets = [key for key in ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection") if spec.get(key)]
    if len(targets) != 1:
        yield f"spec: exactly one of nodeName, nodeSelector, allNodes, perDeviceNodeSelection is needed, not {targets}"
    selector = spec.get("nodeSelector")
    if selector and len(selector.get("nodeSelectorTerms") or ()) != 1:
        yield "spec.nodeSelector.nodeSelectorTerms: must have exactly one term"
    for index, device in enumerate(devices):
        own = [key for key in ("nodeName", "nodeSelector", "allNodes") if device.get(key)]
        if len(own) != (1 if spec.get("perDeviceNodeSelection") else 0):
            yield f"spec.devices[{index}]: node targets {own} do not fit perDeviceNodeSelection"


def _device(device: SliceDevice, minor: int) -> Iterator[str]:
    if not _is_label(str(device.get("name") or "")):
        yield f'.name: "{device.get("name")}" is not a DNS label'
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > _NAMED_VALUES:
        yield f": has {len(attributes) + len(capacity)} attributes and capacities, at most {_NAMED_VALUES} are allowed"
    values = sum(len(next(iter(v.values()))) if v.keys() & set(_LISTS) else 1 for v in attributes.values() if v)
    if values > _VALUES:
        yield f".attributes: has {values} values, at most {_VALUES} are allowed"
    for name, value in attributes.items():
        yield from _qualified(".attributes", name)
        yield from _attribute(f'.attributes["{name}"]', value, minor)
    for name, value in capacity.items():
        yield from _qualified(".capacity", name)
        yield from _capacity(f'.capacity["{name}"]', value, bool(device.get("allowMultipleAllocations")))
    yield from _consumption(device.get("consumesCounters") or (), minor)
    yield from _taints(device.get("taints") or (), minor)
    yield from _conditions(device)


def _qualified(path: str, name: str) -> Iterator[str]:
    domain, slash, identifier = name.rpartition("/")
    if slash and (len(domain) > 63 or not _is_subdomain(domain.lower())):
        yield f'{path}: domain of "{name}" is not a DNS subdomain of at most 63 characters'
    if not _is_identifier(identifier):
        yield f'{path}: "{identifier}" is not a C identifier of at most 32 characters'


def _attribute(path: str, value: Mapping[str, Any], minor: int) -> Iterator[str]:
    kinds = [kind for kind in _KINDS if kind in value]
    if len(kinds) != 1 or (kinds[0] in _LISTS and minor < 36):
        yield f"{path}: exactly one value is needed"
        return
    kind, content = kinds[0], value[kinds[0]]
    if kind in _LISTS and not content:
        yield f"{path}.{kind}: must not be empty"
    for each in content if kind in _LISTS else (content,):
        if kind.startswith(("string", "version")) and len(str(each).encode()) > _TEXT:
            yield f"{path}.{kind}: has {len(str(each).encode())} bytes, at most {_TEXT} are allowed"
        elif kind.startswith("version") and not _is_semver(str(each)):
            yield f'{path}.{kind}: "{each}" is not a semantic version (2.0.0)'
        elif kind.startswith("int") and (isinstance(each, bool) or not isinstance(each, int)):
            yield f"{path}.{kind}: {each!r} is not an integer"
        elif kind.startswith("bool") and not isinstance(each, bool):
            yield f"{path}.{kind}: {each!r} is not true or false"


def _capacity(path: str, capacity: Mapping[str, Any], is_shared: bool) -> Iterator[str]:
    amount = _amount(capacity.get("value") or 0)
    if amount is None:
        yield f"{path}.value: {capacity.get('value')!r} is not a quantity"
    policy = capacity.get("requestPolicy")
    if not policy:
        return
    path = f"{path}.requestPolicy"
    values, span = policy.get("validValues") or (), policy.get("validRange")
    default = _amount(policy.get("default"))
    if not is_shared:
        yield f"{path}: needs allowMultipleAllocations"
    if values and span is not None:
        yield f"{path}: validValues and validRange exclude each other"
    if (values or span is not None) and default is None:
        yield f"{path}.default: is needed with validValues or validRange"
        return
    amounts = [_amount(each) for each in values]
    if len(amounts) > _VALID_VALUES:
        yield f"{path}.validValues: has {len(amounts)} values, at most {_VALID_VALUES} are allowed"
    known = [each for each in amounts if each is not None]
    if len(known) != len(amounts) or known != sorted(set(known)):
        yield f"{path}.validValues: must be ascending quantities without repetition"
    elif values and default not in known:
        yield f"{path}.default: must be one of validValues"
    if any(each > (amount or 0) for each in known):
        yield f"{path}.validValues: must not exceed the capacity's value"
    if span is not None:
        yield from _range(f"{path}.validRange", span, default or 0, amount or 0)


def _range(path: str, span: Mapping[str, Any], default: int, value: int) -> Iterator[str]:
    least, most, step = (_amount(span.get(key)) for key in ("min", "max", "step"))
    if least is None:
        yield f"{path}.min: is needed"
        return
    if default < least or (most is not None and default > most):
        yield f"{path}: default must lie within it"
    if most is not None and most > value:
        yield f"{path}.max: must not exceed the capacity's value"
    if step is not None:
        if step <= 0:
            yield f"{path}.step: must be greater than zero"
        elif (default - least) % step or (most is not None and (most - least) % step) or least + step > value:
            yield f"{path}.step: default and max must be whole steps above min, min plus one step within the value"


def _counter_sets(sets: Sequence[Mapping[str, Any]], devices: Sequence[SliceDevice], minor: int) -> Iterator[str]:
    counters = [len(each.get("counters") or {}) for each in sets]
    if minor >= 35 and len(sets) > SETS:
        yield f"spec.sharedCounters: has {len(sets)} sets, at most {SETS} are allowed"
    if minor < 35 and sum(counters) > _COUNTERS:
        yield f"spec.sharedCounters: has {sum(counters)} counters, at most {_COUNTERS} are allowed"
    yield from _twice("spec.sharedCounters", (each.get("name") for each in sets))
    for index, each in enumerate(sets):
        path = f"spec.sharedCounters[{index}]"
        if not _is_label(str(each.get("name") or "")):
            yield f'{path}.name: "{each.get("name")}" is not a DNS label'
        if not counters[index] or (minor >= 35 and counters[index] > _COUNTERS):
            yield f"{path}.counters: has {counters[index]} counters, 1 to {_COUNTERS} are allowed"
        yield from _counters(f"{path}.counters", each.get("counters") or {})
    if minor < 35:
        here = {each.get("name") for each in sets}
        for index, device in enumerate(devices):
            for used in device.get("consumesCounters") or ():
                if used.get("counterSet") not in here:
                    yield f'spec.devices[{index}].consumesCounters: set "{used.get("counterSet")}" is not in this slice'


def _counters(path: str, counters: Mapping[str, Any]) -> Iterator[str]:
    for name, counter in counters.items():
        if not _is_label(name):
            yield f'{path}: "{name}" is not a DNS label'
        if _amount(counter.get("value")) is None:
            yield f'{path}["{name}"].value: {counter.get("value")!r} is not a quantity'


def _consumption(used: Sequence[Mapping[str, Any]], minor: int) -> Iterator[str]:
    if minor >= 35 and len(used) > 2:
        yield f".consumesCounters: has {len(used)} entries, at most 2 are allowed"
    if minor < 35 and sum(len(each.get("counters") or {}) for each in used) > _COUNTERS:
        yield f".consumesCounters: at most {_COUNTERS} counters are allowed"
    yield from _twice(".consumesCounters", (each.get("counterSet") for each in used))
    for index, each in enumerate(used):
        counters = each.get("counters") or {}
        if not counters or len(counters) > _COUNTERS:
            yield f".consumesCounters[{index}].counters: has {len(counters)}, 1 to {_COUNTERS} are allowed"
        yield from _counters(f".consumesCounters[{index}].counters", counters)


def most_taints(minor: int) -> int:
    """How many taints a device may have."""
    return 16 if minor >= 35 else 4


def _taints(taints: Sequence[Mapping[str, Any]], minor: int) -> Iterator[str]:
    most = most_taints(minor)
    if len(taints) > most:
        yield f".taints: has {len(taints)} taints, at most {most} are allowed"
    for index, taint in enumerate(taints):
        prefix, slash, name = str(taint.get("key") or "").rpartition("/")
        if not _is_name(name) or (slash and not _is_subdomain(prefix)):
            yield f'.taints[{index}].key: "{taint.get("key")}" is not a label name'
        value = str(taint.get("value") or "")
        if value and not _is_name(value):
            yield f'.taints[{index}].value: "{value}" is not a label value'
        effect = taint.get("effect")
        if effect not in _EFFECTS or (effect == "None" and minor < 35):
            yield f'.taints[{index}].effect: "{effect}" is not an effect this server knows'


def _conditions(device: SliceDevice) -> Iterator[str]:
    binding, failure = device.get("bindingConditions") or (), device.get("bindingFailureConditions") or ()
    if bool(binding) != bool(failure):
        yield ": bindingConditions and bindingFailureConditions need each other"
    for key, names in (("bindingConditions", binding), ("bindingFailureConditions", failure)):
        if len(names) > _CONDITIONS:
            yield f".{key}: has {len(names)}, at most {_CONDITIONS} are allowed"
        for name in names:
            prefix, slash, last = str(name).rpartition("/")
            if not _is_name(last) or (slash and not _is_subdomain(prefix)):
                yield f'.{key}: "{name}" is not a condition type'
    yield from _twice(".bindingConditions", (*binding, *failure))


def _twice(path: str, names: Iterable[Any]) -> Iterator[str]:
    yield from (f'{path}: duplicate "{name}"' for name, times in Counter(names).items() if times > 1)


def _amount(value: Any) -> int | None:
    """The amount in billionths; None if the text is no quantity."""
    return None if value is None or isinstance(value, bool) else _nanos(str(value))


@lru_cache(maxsize=512)
def _nanos(text: str) -> int | None:
    try:
        return quantity.parse(text).nanos
    except ValueError:
        return None
