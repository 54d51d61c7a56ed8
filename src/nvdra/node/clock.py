"""Time as the event loop counts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager


class LoopClock:
    """The `Clock` port on the running loop."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def deadline(self, seconds: float) -> AbstractAsyncContextManager[None]:
        return _deadline(seconds)


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds):
        yield
