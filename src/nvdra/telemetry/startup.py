"""The start-up configuration as one log message that people and tests search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvdra.telemetry import log


@dataclass(frozen=True, slots=True)
class Struct:
    """A named group of fields in the dump. Field names in snake case are shown in Go's camel case."""

    type: str
    fields: Mapping[str, Any]


def startup_dump(*, commit: str, gates: Mapping[str, bool], flags: Struct) -> str:
    """The start-up message: commit, gates as a map literal, flags as a structure with types and no addresses."""
    literal = ", ".join(f'"{name}":{_bool(on)}' for name, on in sorted(gates.items()))
    body = _value(flags, 0).replace(f"({flags.type}) {{", f"(*{flags.type})({{", 1)
    return f"\nCommit: {commit or 'unknown'}\n\nFeature gates: map[string]bool{{{literal}}}\n\nFlags: {body})\n"


def _value(value: Any, depth: int) -> str:
    pad, inner = "  " * depth, "  " * (depth + 1)
    match value:
        case Struct(type=name, fields=fields):
            lines = [f"{inner}{camel(key)}: {_value(field, depth + 1)}" for key, field in fields.items()]
            return f"({name}) {{\n" + ",\n".join(lines) + f"\n{pad}}}"
        case bool():
            return f"(bool) {_bool(value)}"
        case int():
            return f"(int) {value}"
        case float():
            return f"(float32) {value:g}"
        case None:
            return "(interface {}) <nil>"
        case str():
            return f"(string) (len={len(value.encode())}) {log._quoted(value)}" if value else '(string) ""'
        case Mapping():
            lines = [f"{inner}{_value(str(k), 0)}: {_value(v, depth + 1)}" for k, v in sorted(value.items())]
            head = f"(map[string]interface {{}}) (len={len(value)}) "
            return head + ("{\n" + ",\n".join(lines) + f"\n{pad}}}" if lines else "{}")
        case Sequence():
            lines = [f"{inner}{_value(item, depth + 1)}" for item in value]
            head = f"([]string) (len={len(value)}) "
            return head + ("{\n" + ",\n".join(lines) + f"\n{pad}}}" if lines else "{}")
        case _:
            return _value(str(value), depth)


def camel(name: str) -> str:
    """`node_name` as `nodeName`; a name that has capitals already stays (`Verbosity`)."""
    if name != name.lower():
        return name
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _bool(on: bool) -> str:
    return "true" if on else "false"
