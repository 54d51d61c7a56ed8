"""Fleets of a simulation: nodes of given types, or those of a live cluster's dump."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvdra.api.gates import Gates
from nvdra.gpu.shares import Shares
from nvdra.programs.people.forecast_compare import OWN
from nvdra.programs.people.forecast_slices import ForecastError, forecast
from nvdra.programs.people.simulate_claims import CLASSES

Json = Mapping[str, Any]

# Driver, pool, device, and what a share of it consumes; None for a whole device.
InUse = tuple[str, str, str, tuple[tuple[str, str], ...] | None]

_NODES = re.compile(r"(\d+)x([^@]+)(?:@(.*))?", re.ASCII)
_MOST = 1_000_000


class FleetError(Exception):
    """A fleet cannot be read; the text is for people."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many nodes of a type, with their own feature gates or None."""

    count: int
    portrait: str
    gates: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that publish alike.

    slices  those of one node, called `node` in them
    names   of all nodes
    """

    slices: bytes
    node: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a simulation starts with.

    classes    JSON list of DeviceClasses
    allocated  devices in use from the start, by node
    notes      on what is left out
    """

    groups: tuple[Group, ...]
    classes: bytes
    allocated: Mapping[str, tuple[InUse, ...]]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [name for group in self.groups for name in group.names]


def wanted(text: str) -> Wanted:
    """Returns what --nodes COUNTxTYPE[@GATES] says. Raises ValueError."""
    found = _NODES.fullmatch(text)
    if found is None:
        raise ValueError("must be COUNTxTYPE or COUNTxTYPE@GATES, such as 100xh100x8@DynamicMIG=true")
    count = int(found[1])
    if not 1 <= count <= _MOST:
        raise ValueError(f"must be 1 to {_MOST} nodes")
    return Wanted(count, found[2], found[3])


def of_types(types: Sequence[tuple[Wanted, Gates, Shares]], minor: int) -> Fleet:
    """Returns a fleet by portraits, each forecast by the publishing code. Raises ForecastError."""
    groups = []
    counted: Counter[str] = Counter()
    for one, gates, sharing in types:
        stem = Path(one.portrait).stem
        found = asyncio.run(forecast(one.portrait, gates, sharing, node_name=stem, minor=minor))
        bodies = [
            {**body, "metadata": {"name": f"{at:05x}-gpu.nvidia.com-{stem}"}} for at, body in enumerate(found.slices)
        ]
        if not found.devices:
            raise ForecastError(f"type {one.portrait} publishes no device: check its gates")
        first = counted[stem]
        counted[stem] += one.count
        names = tuple(f"{stem}-{number}" for number in range(first, first + one.count))
        groups.append(Group(json.dumps(bodies, default=dict).encode(), stem, names))
    return Fleet(tuple(groups), json.dumps(CLASSES).encode(), {})


def of_dump(objects: Sequence[Json], *, keeps: str = "", with_claims: bool = True) -> Fleet:
    """Returns the fleet of a dump of nodes, classes, slices and claims. Raises FleetError.

    keeps  text of all expressions: attributes of single GPUs that it mentions tell nodes apart
    """
    of_kind: dict[str, list[Json]] = {}
    for each in objects:
        of_kind.setdefault(str(each.get("kind")), []).append(each)
    slices = of_kind.get("ResourceSlice", [])
    local: dict[str, list[Json]] = {}
    elsewhere = Counter(str(one["spec"].get("driver")) for one in slices if not one["spec"].get("nodeName"))
    for one in slices:
        if one["spec"].get("nodeName"):
            local.setdefault(str(one["spec"]["nodeName"]), []).append(one)
    classes = of_kind.get("DeviceClass", [])
    keeps += json.dumps(classes)
    own = frozenset(name for name in OWN if name.rpartition("/")[2] not in keeps)
    alike: dict[str, list[str]] = {}
    for node in sorted(local):
        key = json.dumps([_likeness(one, node, own) for one in sorted(local[node], key=_name)], sort_keys=True)
        alike.setdefault(key, []).append(node)
    if not alike:
        raise FleetError("it has no ResourceSlice of a node")
    groups = [Group(json.dumps(local[nodes[0]]).encode(), nodes[0], tuple(nodes)) for nodes in alike.values()]
    notes = [
        f"{count} slices of {driver} belong to no single node and are left out" for driver, count in elsewhere.items()
    ]
    allocated = _allocated(of_kind.get("ResourceClaim", []), local) if with_claims else {}
    return Fleet(tuple(groups), json.dumps(classes).encode(), allocated, tuple(notes))


def _likeness(one: Json, node: str, own: frozenset[str]) -> Json:
    """A slice without what differs between nodes of one type."""
    spec = dict(one["spec"])
    spec["pool"] = {**spec["pool"], "name": str(spec["pool"].get("name")).replace(node, ""), "generation": 0}
    spec["nodeName"] = ""
    spec["devices"] = [
        {
            **device,
            "attributes": {key: value for key, value in (device.get("attributes") or {}).items() if key not in own},
        }
        for device in spec.get("devices") or ()
    ]
    return spec


def _name(one: Json) -> str:
    return str(one["metadata"].get("name"))


def _allocated(claims: Sequence[Json], local: Mapping[str, Sequence[Json]]) -> dict[str, tuple[InUse, ...]]:
    node_of = {
        (str(one["spec"]["driver"]), str(one["spec"]["pool"].get("name"))): node
        for node, slices in local.items()
        for one in slices
    }
    found: dict[str, list[InUse]] = {}
    for claim in claims:
        allocation = (claim.get("status") or {}).get("allocation") or {}
        for result in (allocation.get("devices") or {}).get("results") or ():
            driver, pool, device = (str(result.get(key)) for key in ("driver", "pool", "device"))
            consumed = tuple((name, str(value)) for name, value in (result.get("consumedCapacity") or {}).items())
            node = node_of.get((driver, pool))
            if node and not result.get("adminAccess"):
                in_use = (driver, pool, device, consumed if result.get("shareID") else None)
                found.setdefault(node, []).append(in_use)
    return {node: tuple(devices) for node, devices in found.items()}


def objects_of(path: Path) -> list[Json]:
    """Returns the objects of a file of `kubectl get … -o json`. Raises FleetError and OSError."""
    try:
        document = json.loads(path.read_bytes())
        items = document.get("items", [document])
        if not all(isinstance(one, dict) and isinstance(one.get("metadata", {}), dict) for one in items):
            raise ValueError("its items are no objects")
        for one in items:
            if one.get("kind") == "ResourceSlice":
                one["spec"]["pool"]["name"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FleetError(
            f"{path}: not the output of `kubectl get nodes,deviceclasses,resourceslices,resourceclaims -A -o json`: "
            f"{type(error).__name__}: {error}"
        ) from None
    return list(items)
