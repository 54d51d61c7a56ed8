"""One answer of `make bench`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`ours` beside `other`, in `unit`, measured in one run.

    target   what is to be reached, in words, for instance "≥ 3 × faster"; "" where none is set
    note     with what `other` is, and what else explains the figure
    """

    question: str
    ours: float
    other: float
    unit: str
    note: str
    target: str

    @property
    def ratio(self) -> float:
        """How many times as much the other takes."""
        return self.other / self.ours
