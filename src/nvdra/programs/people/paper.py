"""Tables and JSON for people's tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Columns as wide as their widest cell, two spaces apart; each line ends where its text does."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows])
    return "".join(f"{indent}{line.rstrip()}\n" for line in lines)


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def gibibytes(amount: int | None) -> str:
    """An amount of memory for the eye; "unknown" if there is none."""
    return "unknown" if amount is None else f"{amount / (1 << 30):.1f} GiB"


def counted(count: int, thing: str) -> str:
    """ "1 claim", "2 claims"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
