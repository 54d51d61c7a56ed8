"""Parses Retry-After by RFC 9110: seconds or a date."""

from __future__ import annotations

import math
import time

# The floor prevents a busy loop; the cap limits the wait to a useful time.
FLOOR_S = 0.25
CAP_S = 60.0


def retry_after_s(header: str | None) -> float | None:
    """The wait in seconds, from FLOOR_S to CAP_S; None if the header is absent or neither a number nor a date."""
    if not header:
        return None
    if header.isascii() and header.isdigit():
        # A longer text is no number of seconds, and Python refuses to parse thousands of digits.
        return bounded(float(header[:20]) if len(header) <= 20 else CAP_S)
    from email.utils import parsedate_to_datetime  # only for a form that the API server does not use

    try:
        return bounded(parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def bounded(seconds: float) -> float:
    """`seconds`, limited to the floor and the cap; the floor for NaN."""
    return FLOOR_S if math.isnan(seconds) else min(max(seconds, FLOOR_S), CAP_S)
