"""The one way in which tests wait for what other threads and processes do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TIMEOUT_S = 60.0


async def until(condition: Callable[[], object], what: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
    """Return once the condition holds. Raises AssertionError that names `what` was waited for in vain."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110  no event of this loop tells
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what or condition}") from None
