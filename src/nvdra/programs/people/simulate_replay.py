"""A dump's claims allocated anew, each on the node that it has: does the allocator choose the scheduler's devices?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvdra.programs.flags import UsageError
from nvdra.programs.people.paper import as_json, counted, table
from nvdra.programs.people.simulate_fleet import FleetError, objects_of, of_dump
from nvdra.programs.people.simulate_run import Scenario, prepared
from nvdra.programs.people.simulate_scenario import features
from nvdra.programs.people.simulate_trace import Trace

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Replayed:
    """One pod's claims: devices that the scheduler chose, and those of the simulation; both sorted by name."""

    claims: str
    node: str
    scheduled: tuple[str, ...]
    simulated: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        return self.scheduled == self.simulated


def replay(values: Mapping[str, Any]) -> int:
    """Prints the comparison; exit status 1 if a claim differs. Raises FleetError, AllocationError, OSError."""
    if not values["dump"]:
        raise UsageError("--replay needs --dump FILE")
    objects = objects_of(Path(values["dump"]))
    found = replayed(objects, str(values["release"]), features(str(values["allocator_features"])))
    if not found:
        raise FleetError("the dump has no allocated claim with a node")
    different = [one for one in found if not one.is_same]
    if values["output"] == "json":
        shown = [
            {
                "claims": one.claims,
                "node": one.node,
                "scheduled": list(one.scheduled),
                "simulated": list(one.simulated),
                "same": one.is_same,
            }
            for one in found
        ]
        print(as_json({"different": len(different), "replayed": shown}), end="")
    else:
        same = len(found) - len(different)
        nodes = counted(len({one.node for one in found}), "node")
        print(f"{counted(len(found), 'pod')} replayed on {nodes}: {same} alike")
        rows = [
            [one.claims, one.node, ", ".join(one.scheduled) or "-", ", ".join(one.simulated) or "none"]
            for one in different
        ]
        print(table(["CLAIMS", "NODE", "SCHEDULER", "SIMULATION"], rows) if rows else "", end="")
    return 1 if different else 0


def replayed(objects: Sequence[Json], release: str, features: Sequence[tuple[str, bool]]) -> list[Replayed]:
    """Returns what became of each pod's claims, in the order in which the scheduler allocated them."""
    claims = [one for one in objects if one.get("kind") == "ResourceClaim" and _results(one) and _node(one)]
    text = json.dumps([one["spec"] for one in claims])
    fleet = of_dump(objects, keeps=text, with_claims=False)
    trace = Trace()
    pods = _pods(claims, {str(one["metadata"].get("uid")): one for one in objects if one.get("kind") == "Pod"})
    for at, of in enumerate(pods):
        trace.kinds[f"{at}: {_label(of)}"] = tuple(one["spec"] for one in of)
        trace.arrivals.append(float(at))
        trace.durations.append(float("inf"))
        trace.kind.append(at)
        trace.nodes.append(_node(of[0]))
        trace.names.append("")
    run = prepared(Scenario("replay", fleet, "scheduler", release, tuple(features), 0), trace, 1)
    while run.advance(10_000):
        pass
    placed = {number: tuple(sorted(devices)) for number, _, _, devices in run.placements()}
    return [
        Replayed(
            _label(of),
            _node(of[0]),
            tuple(sorted(device for one in of for device in _devices(one))),
            placed.get(at, ()),
        )
        for at, of in enumerate(pods)
    ]


def _pods(claims: Sequence[Json], pods: Mapping[str, Json]) -> list[list[Json]]:
    """Claims that one pod had allocated together, in the pod's order; pods in the order of their allocations.

    Timestamps are whole seconds; within one second the version of the object decides, which its last write gave it.
    """
    made: dict[tuple[str, str], list[Json]] = {}
    for one in sorted(claims, key=_order):
        users = one["status"].get("reservedFor") or ()
        user = str(users[0].get("uid")) if users else str(one["metadata"].get("uid"))
        made.setdefault((user, str(one["status"]["allocation"].get("allocationTimestamp"))), []).append(one)
    return [sorted(of, key=_position(pods.get(user))) for (user, _), of in made.items()]


def _position(pod: Json | None) -> Callable[[Json], int]:
    """The key that sorts a pod's claims as its spec lists them."""
    spec, status = (pod or {}).get("spec") or {}, (pod or {}).get("status") or {}
    made = {one["name"]: one.get("resourceClaimName") for one in status.get("resourceClaimStatuses") or ()}
    names = [one.get("resourceClaimName") or made.get(one["name"]) for one in spec.get("resourceClaims") or ()]

    def position(claim: Json) -> int:
        name = claim["metadata"].get("name")
        return names.index(name) if name in names else len(names)

    return position


def _order(claim: Json) -> tuple[str, int, str]:
    version = str(claim["metadata"].get("resourceVersion", ""))
    time = str(claim["status"]["allocation"].get("allocationTimestamp") or claim["metadata"].get("creationTimestamp"))
    return time, int(version) if version.isdecimal() else 0, str(claim["metadata"].get("name"))


def _label(claims: Sequence[Json]) -> str:
    return ", ".join(f"{one['metadata'].get('namespace', '')}/{one['metadata'].get('name')}" for one in claims)


def _results(claim: Json) -> Sequence[Json]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    return (allocation.get("devices") or {}).get("results") or ()


def _devices(claim: Json) -> list[str]:
    return [str(result["device"]) for result in _results(claim) if not result.get("adminAccess")]


def _node(claim: Json) -> str:
    """The only node where the allocation can be used, or ""."""
    selector = claim["status"]["allocation"].get("nodeSelector") or {}
    for term in selector.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("operator") == "In" and len(field["values"]) == 1:
                return str(field["values"][0])
    return ""
