"""Virtual time: sleepers wake when a test says so, in order, at exactly their moments."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

# Turns of the event loop after which everything that can run without time passing has run.
_TURNS = 100


class VirtualClock:
    """The `Clock` port on time that passes only in `advance`."""

    def __init__(self, now: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._now = now
        self._wall_ahead = wall - now
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_ahead

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        await woken

    def deadline(self, seconds: float) -> AbstractAsyncContextManager[None]:
        return self._deadline(seconds)

    @asynccontextmanager
    async def _deadline(self, seconds: float) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as timeout:
            alarm = asyncio.create_task(self._ring(seconds, timeout))
            try:
                yield
            finally:
                alarm.cancel()

    async def _ring(self, seconds: float, timeout: asyncio.Timeout) -> None:
        await self.sleep(seconds)
        timeout.reschedule(asyncio.get_running_loop().time())

    async def settle(self) -> None:
        """Let everything run that can without time passing."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    @property
    def next_wake_s(self) -> float | None:
        """Seconds until the next sleeper wakes; None if nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)  # cancelled
        return max(self._sleepers[0][0] - self._now, 0.0) if self._sleepers else None

    async def advance(self, seconds: float) -> None:
        """Let time pass: each sleeper wakes at its moment, and all it sets off happens before the next one."""
        ends = self._now + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= ends:
            self._now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
                await self.settle()
        self._now = ends
