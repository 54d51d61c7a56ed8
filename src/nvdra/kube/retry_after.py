"""Retry-After as RFC 9110 has it: seconds or a date."""

from __future__ import annotations

import math
import time

# A server that says "at once" must not be asked in a loop, and one that says "next year" must be asked again.
FLOOR_S = 0.25
CAP_S = 60.0


def retry_after_s(header: str | None) -> float | None:
    """How long to wait, from FLOOR_S to CAP_S; None where the header is absent or neither a number nor a date."""
    if not header:
        return None
    if header.isascii() and header.isdigit():
        # Nothing that long is a number of seconds, and Python refuses to read thousands of digits.
        return bounded(float(header[:20]) if len(header) <= 20 else CAP_S)
    from email.utils import parsedate_to_datetime  # only for a form that the API server does not use

    try:
        return bounded(parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def bounded(seconds: float) -> float:
    """`seconds` between the floor and the cap; the floor for what is no number."""
    return FLOOR_S if math.isnan(seconds) else min(max(seconds, FLOOR_S), CAP_S)
