"""The scheduler's part in the demo: claims are allocated from what the node published, first fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SliceDevice = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attribute:
    """A published attribute and the value it must have."""

    name: str  # "resource.kubernetes.io/numaNode"; without a domain it is the driver's own
    value: int | str

    def cel(self, driver: str) -> str:
        """The selector as it stands in a claim."""
        domain, _, name = self.name.rpartition("/")
        value = f'"{self.value}"' if isinstance(self.value, str) else str(self.value)
        return f'device.attributes["{domain or driver}"].{name} == {value}'

    def is_met(self, device: SliceDevice) -> bool:
        return bool(attribute(device, self.name) == self.value)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a claim asks for."""

    name: str
    count: int
    selector: Attribute | None = None

    def claim(self, namespace: str, driver: str) -> dict[str, Any]:
        """The ResourceClaim as its owner writes it."""
        exactly: dict[str, Any] = {"deviceClassName": driver, "allocationMode": "ExactCount", "count": self.count}
        if self.selector is not None:
            exactly["selectors"] = [{"cel": {"expression": self.selector.cel(driver)}}]
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": self.name, "namespace": namespace},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
        }


def attribute(device: SliceDevice, name: str) -> Any:
    """The value of a device's attribute; None if it has none of this name."""
    value = device["attributes"].get(name, {})
    return next(iter(value.values()), None)


def telling(devices: Sequence[SliceDevice]) -> Attribute | None:
    """An attribute that tells the last device from the first, so that picking by it shows; None if there is none."""
    for name in ("resource.kubernetes.io/numaNode", "resource.kubernetes.io/pcieRoot", "uuid"):
        value = attribute(devices[-1], name)
        if value is not None and value != attribute(devices[0], name):
            return Attribute(name, value)
    return None


def allocate(wish: Wish, devices: Iterable[SliceDevice], taken: Iterable[str]) -> list[str] | None:
    """Names of devices for the wish; None if the node has not enough left."""
    used = set(taken)
    fit = [
        device["name"]
        for device in devices
        if device["name"] not in used and (wish.selector is None or wish.selector.is_met(device))
    ]
    return fit[: wish.count] if len(fit) >= wish.count else None


def status(driver: str, pool: str, names: Iterable[str], pod: str) -> dict[str, Any]:
    """The claim's status once it is allocated and reserved for a pod."""
    results = [{"request": "gpu", "driver": driver, "pool": pool, "device": name} for name in names]
    return {
        "allocation": {"devices": {"results": results}},
        "reservedFor": [{"resource": "pods", "name": pod, "uid": f"uid-of-{pod}"}],
    }
