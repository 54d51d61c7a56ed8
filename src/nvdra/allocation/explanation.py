"""An explanation as values: verdicts, causes added up over nodes, and changes that were tried."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason of refusal.

    code     stable, for scripts
    nodes, devices  how many it concerns
    facts    what else is known: holders of a device, values that a selector saw
    """

    code: str
    text: str
    nodes: int
    devices: int
    example_nodes: tuple[str, ...]
    example_devices: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One change after which the claims fit on some nodes. It was tried."""

    kind: str
    change: str
    nodes: int
    example_nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What one node answers, with the codes of its causes."""

    node: str
    verdict: str
    causes: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a claim, or a pod's claims, fit or not.

    release  the patch release whose allocator the answers are held against
    notes    states of claims that keep the scheduler from looking at nodes: code and text
    errors   errors that abort the whole scheduling attempt: code, text, number of nodes
    """

    subject: str
    claims: tuple[str, ...]
    release: str
    variant: str
    fits: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, str, int], ...]
    causes: tuple[Cause, ...]
    relaxations: tuple[Relaxation, ...]
    nodes: tuple[NodeVerdict, ...]


_KNOWN = {"code", "text", "nodes", "devices", "exampleNodes", "exampleDevices"}


def explanation(text: str) -> Explanation:
    """Returns the explanation that the engine wrote as JSON."""
    found = json.loads(text)
    return Explanation(
        subject=found["subject"],
        claims=tuple(found["claims"]),
        release=found["profile"]["patch"],
        variant=found["profile"]["variant"],
        fits=tuple(found["fits"]),
        notes=tuple((note["code"], note["text"]) for note in found["notes"]),
        errors=tuple((error["code"], error["error"], error["nodes"]) for error in found["errors"]),
        causes=tuple(_cause(cause) for cause in found["causes"]),
        relaxations=tuple(
            Relaxation(one["kind"], one["change"], one["nodes"], tuple(one["exampleNodes"]))
            for one in found["relaxations"]
        ),
        nodes=tuple(
            NodeVerdict(one["node"], one["verdict"], tuple(one.get("causes", ())), one.get("error", ""))
            for one in found["nodes"]
        ),
    )


def _cause(found: dict[str, Any]) -> Cause:
    return Cause(
        code=found["code"],
        text=found["text"],
        nodes=found["nodes"],
        devices=found["devices"],
        example_nodes=tuple(found["exampleNodes"]),
        example_devices=tuple(found["exampleDevices"]),
        facts={key: value for key, value in found.items() if key not in _KNOWN and value},
    )
