"""A trace: pods with their arrival, duration and claims, read from JSON or CSV and checked."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvdra.programs.flags import duration_s
from nvdra.programs.people.simulate_claims import ShorthandError, claim_spec

Json = Mapping[str, Any]


class TraceError(Exception):
    """A trace cannot be used; the text names the file, the entry and the mistake."""


@dataclass(slots=True)
class Trace:
    """Pods as columns, in the order of arrival.

    kinds      each different list of claims once, by its text; the specs are those of ResourceClaims
    kind       by pod, the number of its kind
    nodes      by pod, the only node that it may have, or ""
    """

    kinds: dict[str, tuple[Json, ...]] = field(default_factory=dict)
    arrivals: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def labels(self) -> list[str]:
        return list(self.kinds)


def read(path: Path) -> Trace:
    """Returns the trace of a .csv or .json file. Raises TraceError and OSError."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        specs, entries = _from_csv(text) if path.suffix == ".csv" else _from_json(text)
        return _checked(specs, entries)
    except TraceError as error:
        raise TraceError(f"trace {path}: {error}") from None


def as_csv(trace: Trace) -> str:
    """The trace as CSV; every kind must be written in shorthand."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arrival", "duration", "claims"])
    labels = trace.labels
    writer.writerows(
        [f"{arrival:.3f}", f"{duration:.3f}", labels[kind]]
        for arrival, duration, kind in zip(trace.arrivals, trace.durations, trace.kind, strict=True)
    )
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class _Entry:
    place: str
    arrival: Any
    duration: Any
    claims: tuple[str, ...]
    name: str
    node: str


def _from_csv(text: str) -> tuple[Json, Iterator[_Entry]]:
    rows = csv.DictReader(io.StringIO(text))
    head = rows.fieldnames or []
    known = {"arrival", "duration", "claims", "name", "node"}
    if missing := {"arrival", "duration", "claims"} - set(head):
        raise TraceError(f"the first line lacks {', '.join(sorted(missing))}; it names the columns")
    if odd := set(head) - known:
        raise TraceError(f"unknown column {', '.join(sorted(map(str, odd)))}; there are {', '.join(sorted(known))}")

    def entries() -> Iterator[_Entry]:
        for row in rows:
            place = f"line {rows.line_num}"
            if None in row or None in row.values():
                raise TraceError(f"{place} does not have {len(head)} columns")
            claims = tuple(row["claims"].split())
            yield _Entry(place, row["arrival"], row["duration"], claims, row.get("name") or "", row.get("node") or "")

    return {}, entries()


def _from_json(text: str) -> tuple[Json, Iterator[_Entry]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("pods"), list):
        raise TraceError('not an object with a list "pods"')
    if odd := document.keys() - {"claims", "pods"}:
        raise TraceError(f"unknown member {', '.join(sorted(odd))}; there are claims, pods")
    specs = document.get("claims") or {}
    if not isinstance(specs, dict) or not all(isinstance(each, dict) for each in specs.values()):
        raise TraceError('"claims" is not an object of ResourceClaim specs by name')

    def entries() -> Iterator[_Entry]:
        for at, pod in enumerate(document["pods"]):
            place = f"pods[{at}]"
            if not isinstance(pod, dict):
                raise TraceError(f"{place} is not an object")
            if odd := pod.keys() - {"arrival", "duration", "claims", "name", "node"}:
                raise TraceError(f"{place} has the unknown member {', '.join(sorted(odd))}")
            claims = pod.get("claims")
            names = [claims] if isinstance(claims, str) else claims
            if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
                raise TraceError(f"{place}: claims is not a name or a list of names")
            name, node = pod.get("name") or "", pod.get("node") or ""
            yield _Entry(place, pod.get("arrival"), pod.get("duration"), tuple(names), str(name), str(node))

    return specs, entries()


def _checked(specs: Json, entries: Iterable[_Entry]) -> Trace:
    trace = Trace()
    numbers: dict[tuple[str, ...], int] = {}
    ends: dict[str, tuple[float, str]] = {}
    before = 0.0
    for entry in entries:
        arrival = _seconds(entry, "arrival", entry.arrival)
        duration = math.inf if entry.duration in (None, "") else _seconds(entry, "duration", entry.duration)
        if arrival < before:
            raise TraceError(
                f"{entry.place}: arrival {arrival:g} is before {before:g}, that of the entry before it; sort by arrival"
            )
        before = arrival
        if entry.name:
            _check_overlap(entry, arrival, arrival + duration, ends)
        if entry.claims not in numbers:
            numbers[entry.claims] = _kind(entry, specs, trace)
        trace.arrivals.append(arrival)
        trace.durations.append(duration)
        trace.kind.append(numbers[entry.claims])
        trace.nodes.append(entry.node)
        trace.names.append(entry.name)
    if not trace.arrivals:
        raise TraceError("it has no pods")
    return trace


def _kind(entry: _Entry, specs: Json, trace: Trace) -> int:
    """The number of the entry's kind, which is added to the trace."""
    if not entry.claims:
        raise TraceError(f"{entry.place} has no claims")
    made = []
    for name in entry.claims:
        if name in specs:
            made.append(specs[name])
            continue
        try:
            made.append(claim_spec(name))
        except ShorthandError as error:
            own = f"; claims of the trace: {', '.join(specs)}" if specs else ""
            raise TraceError(f"{entry.place}: {error}{own}") from None
    trace.kinds[" ".join(entry.claims)] = tuple(made)
    return len(trace.kinds) - 1


def _check_overlap(entry: _Entry, begin: float, end: float, ends: dict[str, tuple[float, str]]) -> None:
    known = ends.get(entry.name)
    if known and begin < known[0]:
        raise TraceError(
            f"{entry.place}: pod {entry.name} arrives at {begin:g} and overlaps {known[1]}, "
            f"the same pod until {known[0]:g}; give each its own name"
        )
    ends[entry.name] = (end, entry.place)


def _seconds(entry: _Entry, what: str, value: Any) -> float:
    """Seconds from a number or a duration such as 1h30m."""
    try:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _parsed(value)
    except (ValueError, TypeError, OverflowError):
        raise TraceError(f"{entry.place}: {what} {value!r} is neither seconds nor a duration such as 1h30m") from None
    if not math.isfinite(found) or found < 0:
        raise TraceError(f"{entry.place}: {what} {value} is {'negative' if found < 0 else 'not finite'}")
    return found


def _parsed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return duration_s(text)


def from_entries(entries: Iterable[tuple[float, float, str]]) -> Trace:
    """Returns a trace of arrivals, durations and claims in shorthand."""
    made = (
        _Entry(f"pods[{at}]", arrival, duration, tuple(claims.split()), "", "")
        for at, (arrival, duration, claims) in enumerate(entries)
    )
    return _checked({}, made)
