"""The result of one check of `nvdra doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]

# In order of gravity; the index of the worst one is the exit status.
LEVELS: tuple[Level, ...] = ("ok", "warning", "problem")


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, as a sentence.

    next   the next step; "" if there is nothing to do
    """

    check: str
    level: Level
    text: str
    next: str = ""


def worst(findings: list[Finding]) -> Level:
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")
