"""How a live node's devices differ from the forecast of its type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvdra.api import quantity

Value = Mapping[str, Any]

# Attributes of the single GPU or its slot, which no type of node determines.
OWN = frozenset(
    (
        "uuid",
        "parentUUID",
        "resource.kubernetes.io/pciBusID",
        "resource.kubernetes.io/pcieRoot",
        "pciBusID",
        "nvlinkDomain",
        "pcieSwitch",
    )
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One point: `field` is "device", or "attribute NAME", "capacity NAME", "counters"; "-" stands for absent."""

    device: str
    field: str
    forecast: str
    live: str

    def as_json(self) -> dict[str, str]:
        return {"device": self.device, "field": self.field, "forecast": self.forecast, "live": self.live}


def devices_of(slices: Sequence[Value], driver: str, node_name: str) -> dict[str, Value] | None:
    """Devices of the newest complete or incomplete generation of the node's pool; None if it has no slice."""
    own = [each["spec"] for each in slices if _is_of(each["spec"], driver, node_name)]
    if not own:
        return None
    newest = max(int(spec["pool"].get("generation") or 0) for spec in own)
    return {
        str(device.get("name")): device
        for spec in own
        if int(spec["pool"].get("generation") or 0) == newest
        for device in spec.get("devices") or ()
    }


def compare(forecast: Mapping[str, Value], live: Mapping[str, Value]) -> list[Difference]:
    """Returns every difference, by device name: devices lacking or extra, attributes, capacities, counters."""
    return [found for name in sorted(forecast.keys() | live.keys()) for found in _of(name, forecast, live)]


def _of(name: str, forecast: Mapping[str, Value], live: Mapping[str, Value]) -> Iterator[Difference]:
    if name not in live:
        yield Difference(name, "device", "published", "-")
        return
    if name not in forecast:
        yield Difference(name, "device", "-", "published")
        return
    ours, theirs = forecast[name], live[name]
    for kind, field in (("attribute", "attributes"), ("capacity", "capacity")):
        one, other = ours.get(field) or {}, theirs.get(field) or {}
        for key in sorted((one.keys() | other.keys()) - OWN):
            if (was := _shown(one.get(key))) != (now := _shown(other.get(key))):
                yield Difference(name, f"{kind} {key}", was, now)
    if (was := _counted(ours)) != (now := _counted(theirs)):
        yield Difference(name, "counters", was, now)


def _is_of(spec: Value, driver: str, node_name: str) -> bool:
    return spec.get("driver") == driver and spec["pool"].get("name") == node_name


def _shown(value: Value | None) -> str:
    """An attribute's or capacity's value as text."""
    if value is None:
        return "-"
    return _amount(value["value"]) if "value" in value else ", ".join(str(each) for each in value.values())


def _amount(text: Any) -> str:
    """The amount in one notation, whichever it came in."""
    try:
        return str(quantity.Quantity(quantity.parse(str(text)).nanos, "binary"))
    except ValueError:
        return str(text)


def _counted(device: Value) -> str:
    """Counters that the device consumes, without the names of the sets, which hold the GPU's own name."""
    used = [
        f"{name} {_amount(counter.get('value'))}"
        for each in device.get("consumesCounters") or ()
        for name, counter in sorted((each.get("counters") or {}).items())
    ]
    return ", ".join(used) or "-"
