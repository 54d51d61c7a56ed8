"""The share of the enumerated deaths that a run takes: the same in each run, spread evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One death in `step`. Cases begin at different deaths, so that together they meet every one."""

    step: int

    @property
    def is_whole(self) -> bool:
        return self.step == 1

    def first(self, case: int) -> int:
        """The first death of the case with this number."""
        return case % self.step

    def of(self, deaths: Sequence[T], case: int, cases: int) -> list[T]:
        """The share of the deaths that one of several cases takes: together they leave none out."""
        step = min(self.step, cases)
        return list(deaths[case % step :: step])
