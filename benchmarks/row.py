"""One answer of `make bench`."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan


@dataclass(frozen=True, slots=True)
class Target:
    """The target: at most `share` of the other figure, or at most `most` in the row's unit."""

    share: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        if self.most is not None:
            return f"≤ {self.most:g}"
        assert self.share is not None
        return f"≤ {self.share:g} ×" if self.share >= 0.35 or self.share < 0.3 else f"≥ {round(1 / self.share, 1):g} ×"


THREE_TIMES = Target(share=1 / 3)
"""Three times as fast as the other."""


@dataclass(frozen=True, slots=True)
class Row:
    """`ours` beside `other`, in `unit`, measured in one run.

    other    nan where nothing was measured beside ours
    note     with what `other` is, and what else explains the figure
    """

    question: str
    ours: float
    other: float
    unit: str
    note: str
    target: Target | None = None

    @property
    def ratio(self) -> float:
        """The ratio of the other figure to ours."""
        return self.other / self.ours if self.ours else nan

    @property
    def is_reached(self) -> bool | None:
        """None: nothing is to be reached, or what it is told by was not measured."""
        if self.target is None:
            return None
        limit = self.target.most if self.target.most is not None else (self.target.share or 0.0) * self.other
        return None if limit != limit else self.ours <= limit
