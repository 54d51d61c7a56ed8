"""Rows as a table for people, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.row import Row

_HEAD = ("question", "ours", "other", "unit", "other/ours", "target", "", "note")
_VERDICTS = {True: "reached", False: "MISSED", None: ""}


def text(rows: Sequence[Row]) -> str:
    """A Markdown table that reads well as it is."""
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([shown[0], rule, *shown[1:]])


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps(
        [
            {
                "question": row.question,
                "ours": _number(row.ours),
                "other": _number(row.other),
                "unit": row.unit,
                "ratio": _number(row.ratio),
                "target": str(row.target) if row.target else None,
                "reached": row.is_reached,
                "note": row.note,
            }
            for row in rows
        ],
        indent=1,
        ensure_ascii=False,
    )


def summary(rows: Sequence[Row]) -> str:
    """How many targets are reached, and every miss with what explains it."""
    missed = [row for row in rows if row.is_reached is False]
    judged = sum(row.is_reached is not None for row in rows)
    untold = sum(row.target is not None for row in rows) - judged
    lines = [f"{judged - len(missed)} of {judged} targets reached" + (f", {untold} not measured" if untold else "")]
    for row in missed:
        assert row.target is not None
        limit = row.unit if row.target.most is not None else f"{_shown(row.other)} {row.unit}"
        lines.append(f"missed: {row.question}: {_shown(row.ours)} {row.unit}, target {row.target} {limit} ({row.note})")
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio != row.ratio else f"{row.ratio:.2f}"
    target = str(row.target) if row.target else ""
    verdict = "" if row.target is None else _VERDICTS[row.is_reached] or "not measured"
    return (row.question, _shown(row.ours), _shown(row.other), row.unit, ratio, target, verdict, row.note)


def _shown(value: float) -> str:
    if value != value:
        return "—"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
