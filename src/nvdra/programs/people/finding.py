"""What the doctor says of one thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]

# In the order of their gravity; the worst one's place is the exit status.
LEVELS: tuple[Level, ...] = ("ok", "warning", "problem")


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing.

    next   what to do about it; "" if there is nothing to do
    """

    check: str
    level: Level
    text: str
    next: str = ""


def worst(findings: list[Finding]) -> Level:
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")
