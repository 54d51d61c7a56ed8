"""Compares an answer of the engine with the oracle's."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from .processes import Json

_SUFFIXES = {
    **{
        suffix: Decimal(10) ** (3 * power - 9)
        for power, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"))
    },
    **{f"{suffix}i": Decimal(1024) ** (power + 1) for power, suffix in enumerate("KMGTPE")},
}
_CEL = re.compile(r"CEL (runtime|compile) error: ")


def amount(text: str) -> Decimal:
    """The number that a quantity stands for."""
    found = re.fullmatch(r"([+-]?[0-9.]+)([a-zA-Z]*)", text)
    if found and found[2] in _SUFFIXES:
        return Decimal(found[1]) * _SUFFIXES[found[2]]
    return Decimal(text)


def difference(oracle: Json, engine: Json) -> str | None:
    """Says in what the answers differ; None if they agree or the engine says that it does not support the case."""
    for answer in (oracle, engine):
        if str(answer.get("error", "")).startswith("decode: "):
            return f"INPUT {answer['error']}"
    if "unsupported" in engine or "is not known to this engine" in str(engine.get("error")):
        return None
    if "panic" in str(oracle.get("error", "")):
        return None
    if ("error" in oracle) != ("error" in engine):
        return f"error: {oracle.get('error')!r} / {engine.get('error')!r}"
    if "nodes" in oracle or "nodes" in engine:
        return _nodes(oracle.get("nodes") or [], engine.get("nodes") or [])
    return _cel(oracle, engine)


def _nodes(oracle: list[Json], engine: list[Json]) -> str | None:
    for ours, theirs in zip(engine, oracle, strict=True):
        name = theirs["name"]
        if theirs["outcome"] in ("panic", "timeout") or ours["outcome"] in ("unsupported", "timeout"):
            return None
        if ours["outcome"] != theirs["outcome"]:
            theirs_text, ours_text = (f"{one['outcome']} {one.get('error', '')!r}" for one in (theirs, ours))
            return f"{name}: outcome {theirs_text} / {ours_text}"
        if _error(theirs.get("error", "")) != _error(ours.get("error", "")):
            return f"{name}: error text {theirs.get('error')!r} / {ours.get('error')!r}"
        if _results(theirs) != _results(ours):
            return f"{name}: results {theirs.get('results')} / {ours.get('results')}"
        if theirs["outcome"] in ("fit", "nofit") and theirs["steps"] not in (-1, ours["steps"]):
            return f"{name}: steps {theirs['steps']} / {ours['steps']}"
    return None


def _error(text: str) -> str:
    """The text up to what another project words."""
    found = _CEL.search(text)
    if found:
        return text[: found.end()]
    for marker in ("failed to perform node selection for device", "failed to parse node selector"):
        if marker in text:
            return text[: text.index(marker)] + marker
    return text


def _results(node: Json) -> list[Any]:
    normal = []
    for allocation in node.get("results") or []:
        devices = []
        for entry in allocation.get("devices", {}).get("results") or []:
            consumed = {k: amount(v) for k, v in (entry.get("consumedCapacity") or {}).items()}
            devices.append({**entry, "consumedCapacity": consumed})
        normal.append((devices, allocation.get("devices", {}).get("config") or [], allocation.get("nodeSelector")))
    return normal


def _cel(oracle: Json, engine: Json) -> str | None:
    if ("compileError" in oracle) != ("compileError" in engine):
        return f"compile: {oracle.get('compileError')!r} / {engine.get('compileError')!r}"
    if oracle.get("outputType") != engine.get("outputType"):
        return f"output type: {oracle.get('outputType')} / {engine.get('outputType')}"
    for index, (theirs, ours) in enumerate(zip(oracle.get("devices") or [], engine.get("devices") or [], strict=True)):
        if "unsupported" in ours:
            continue
        if theirs.get("match") != ours.get("match") or ("error" in theirs) != ("error" in ours):
            return f"device {index}: {theirs} / {ours}"
        if "error" not in theirs and theirs.get("cost") != ours.get("cost"):
            return f"device {index}: cost {theirs.get('cost')} / {ours.get('cost')}"
        if _kind(theirs.get("error", "")) != _kind(ours.get("error", "")):
            return f"device {index}: error {theirs.get('error')!r} / {ours.get('error')!r}"
    return None


def _kind(text: str) -> str:
    """The class of a run-time error, where both sides word it alike."""
    for kind in (
        "no such key",
        "actual cost limit exceeded",
        "no such overload",
        "unsupported attribute value",
        "parse semantic",
    ):
        if kind in text:
            return kind
    return "other" if text else ""
