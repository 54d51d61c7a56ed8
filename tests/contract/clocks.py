"""Time for tests of what waits for threads: the real one, and one that stands until it is moved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tests.waiting import until as until


class LoopClock:
    """Real time."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def deadline(self, seconds: float) -> AbstractAsyncContextManager[None]:
        return _timeout(seconds)


@asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds):
        yield


class StandingClock:
    """Time that passes only in `pass_by`."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self._now + seconds, future)
        self._waiting.append(entry)
        try:
            await future
        finally:
            self._waiting.remove(entry)

    @asynccontextmanager
    async def deadline(self, seconds: float) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as timeout:
            alarm = asyncio.create_task(self._ring(seconds, timeout))
            try:
                yield
            finally:
                alarm.cancel()

    async def _ring(self, seconds: float, timeout: asyncio.Timeout) -> None:
        await self.sleep(seconds)
        timeout.reschedule(asyncio.get_running_loop().time())

    @property
    def waiting(self) -> int:
        """How many sleep or have a deadline ahead."""
        return len(self._waiting)

    async def pass_by(self, seconds: float) -> None:
        """Lets time pass, and whoever waited for it go on; tasks that are about to wait do so first."""
        for _ in range(10):
            await asyncio.sleep(0)
        self._now += seconds
        for due, future in tuple(self._waiting):
            if due <= self._now and not future.done():
                future.set_result(None)
        for _ in range(10):
            await asyncio.sleep(0)
