"""Kubernetes quantities: amounts with a unit suffix, exact and in canonical form.

Source: k8s.io/apimachinery resource.Quantity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Format = Literal["decimal", "binary", "exponent"]

_BINARY = {"": 0, "Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_BINARY_TEXT = {power: suffix for suffix, power in _BINARY.items()}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_TEXT = {power: suffix for suffix, power in _DECIMAL.items()}

_SHAPE = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([A-Za-z]*)([+-]?[0-9]*)", re.ASCII)
_EXPONENT = re.compile(r"[eE]([+-]?[0-9]+)", re.ASCII)

_NANO = 10**9
_LIMIT = (2**63 - 1) * _NANO  # larger amounts are capped, as the API server does
_MAX_EXPONENT = 99

_NOT_A_QUANTITY = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount in billionths, and the notation it is written in."""

    nanos: int
    format: Format = "decimal"

    def whole(self) -> int:
        """The amount as an integer, rounded away from zero like Quantity.Value()."""
        return _away(self.nanos, _NANO)

    def __str__(self) -> str:
        """The canonical form: an integer with the largest suffix that keeps it exact."""
        if self.nanos == 0:
            return "0"
        if self.format == "binary" and abs(self.nanos) >= 1024 * _NANO:
            return _with_binary_suffix(self.whole())
        mantissa, exponent = self.nanos, -9
        while exponent < 18 and mantissa % 1000 == 0:
            mantissa //= 1000
            exponent += 3
        if self.format == "exponent" and exponent:
            return f"{mantissa}e{exponent}"
        return f"{mantissa}{_DECIMAL_TEXT[exponent]}"


def binary(amount: int) -> Quantity:
    """`amount` (bytes, a count) in binary notation: 150754820096 reads "143771Mi"."""
    return Quantity(amount * _NANO, "binary")


@lru_cache(maxsize=256)
def parse(text: str) -> Quantity:
    """The quantity in a text. Raises ValueError with the Go library's text.

    Finer than a billionth is rounded away from zero; beyond 2**63-1 is capped.
    """
    found = _SHAPE.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        raise ValueError(_NOT_A_QUANTITY)
    sign, integer, fraction, letters, digits = found.groups(default="")
    number = int(integer + fraction or "0") * _NANO
    below = 10 ** len(fraction)
    exponent = _EXPONENT.fullmatch(letters + digits)
    form: Format
    if exponent:
        form, power = "exponent", int(exponent[1])
        if abs(power) > _MAX_EXPONENT:
            raise ValueError("unable to parse quantity's suffix")
        scaled, divisor = (number * 10**power, below) if power >= 0 else (number, below * 10**-power)
    elif digits:
        raise ValueError("unable to parse quantity's suffix")
    elif letters in _DECIMAL:
        form, power = "decimal", _DECIMAL[letters]
        scaled, divisor = (number * 10**power, below) if power >= 0 else (number, below * 10**-power)
    elif letters in _BINARY:
        form, scaled, divisor = "binary", number * 1024 ** _BINARY[letters], below
    else:
        raise ValueError("unable to parse quantity's suffix")
    nanos = min(_away(scaled, divisor), _LIMIT)
    return Quantity(-nanos if sign == "-" else nanos, form)


def _away(number: int, divisor: int) -> int:
    """number / divisor, rounded away from zero."""
    return number // divisor if number < 0 else -(-number // divisor)


def _with_binary_suffix(number: int) -> str:
    power = 0
    while power < 6 and number % 1024 == 0:
        number //= 1024
        power += 1
    return f"{number}{_BINARY_TEXT[power]}"
