"""A queue of keys: each key is in it once, and is worked on by one worker at a time.

Why it is our own: docs/decisions/0013.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from nvdra.ports import Clock

BACKOFF_FIRST_S = 0.05
BACKOFF_LIMIT_S = 30.0


def backoff_s(failures: int, jitter: float) -> float:
    """The pause after this many failures in a row: doubled each time, half of it random, at most BACKOFF_LIMIT_S."""
    return float(min(BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 20))) * (0.5 + jitter / 2)


class WorkQueue:
    """Hands keys to `handle`.

    handle       works on a key; it may raise, and is called for the key again after a pause
    on_failure   called with the key, the error, and the number of failures in a row
    """

    def __init__(
        self,
        clock: Clock,
        handle: Callable[[str], Awaitable[None]],
        *,
        on_failure: Callable[[str, Exception, int], None],
        workers: int = 4,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._handle = handle
        self._on_failure = on_failure
        self._workers = workers
        self._jitter = jitter
        self._due: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self._woken = asyncio.Event()

    @property
    def depth(self) -> int:
        """Keys that wait for a worker or for their time."""
        return len(self._due)

    def add(self, key: str, after_s: float = 0.0) -> None:
        """Work on the key after this time, or earlier if it is due earlier. A key being worked on is due again."""
        due = self._clock.now() + after_s
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._woken.set()

    async def run(self) -> None:
        """Never returns; cancel it, and it waits for the workers' end."""
        try:
            while True:
                self._woken.clear()
                self._start_due()
                await self._wait()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _start_due(self) -> None:
        now = self._clock.now()
        for key in sorted(self._due, key=self._due.__getitem__):
            if len(self._running) >= self._workers or self._due[key] > now:
                return
            if key not in self._running:
                del self._due[key]
                self._running[key] = asyncio.create_task(self._work(key), name=f"worker {key}")

    async def _wait(self) -> None:
        """Return when a key may be started: one was added, one became due, or a worker is free."""
        waiting = [due for key, due in self._due.items() if key not in self._running]
        if not waiting or len(self._running) >= self._workers:
            await self._woken.wait()
            return
        try:
            async with self._clock.deadline(max(min(waiting) - self._clock.now(), 0.0)):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _work(self, key: str) -> None:
        try:
            await self._handle(key)
        except Exception as error:  # whatever it is, it is this key's
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            self.add(key, backoff_s(failures, self._jitter()))
            self._on_failure(key, error, failures)
        else:
            self._failures.pop(key, None)
        finally:
            del self._running[key]
            self._woken.set()
