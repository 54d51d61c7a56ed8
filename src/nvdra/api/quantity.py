"""Kubernetes quantities: amounts with a unit suffix, exact and in canonical form.

Source: k8s.io/apimachinery resource.Quantity, as the native core has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from nvdra._core import parse_quantity, quantity_text

Format = Literal["decimal", "binary", "exponent"]

_NANO = 10**9


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount in billionths, and the notation it is written in."""

    nanos: int
    format: Format = "decimal"

    def whole(self) -> int:
        """The amount as an integer, rounded away from zero like Quantity.Value()."""
        return self.nanos // _NANO if self.nanos < 0 else -(-self.nanos // _NANO)

    def __str__(self) -> str:
        """The canonical form: an integer with the largest suffix that keeps it exact."""
        return quantity_text(self.nanos, self.format)


def binary(amount: int) -> Quantity:
    """`amount` (bytes, a count) in binary notation: 150754820096 reads "143771Mi"."""
    return Quantity(amount * _NANO, "binary")


@lru_cache(maxsize=256)
def parse(text: str) -> Quantity:
    """The quantity in a text. Raises ValueError with the Go library's text.

    Finer than a billionth is rounded away from zero; a binary amount beyond 2**63-1 is capped. Beyond 10**29 the text
    is refused.
    """
    return Quantity(*parse_quantity(text))
