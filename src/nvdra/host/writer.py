"""The writer: one thread that makes every durable call, in the order of the requests.

With one thread, tests can kill the program before its n-th rename, fsync or unlink: tracers count per thread.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

# Deferred calls are made after this idle time; at most so many of them may wait.
_LEISURE_S = 0.01
_MOST_PUT_OFF = 16


class Writer:
    """Runs calls in a thread, one after the other. The thread starts with the first call and never blocks an exit."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._leisure: collections.deque[Callable[[], object]] = collections.deque()
        self._thread: threading.Thread | None = None
        self._is_asleep = False  # waits for a call, however long that takes

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call`; return or raise what it does. It runs to its end even if the caller is cancelled."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def carry_out() -> None:
            try:
                result = call()
            except BaseException as error:  # a call's failure belongs to its caller; the thread goes on
                tell(done.set_exception, error)
            else:
                tell(done.set_result, result)

        def tell(outcome: Callable[[Any], None], what: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending
                loop.call_soon_threadsafe(lambda: None if done.done() else outcome(what))

        self._calls.put(carry_out)
        return await done

    def later(self, call: Callable[[], object]) -> None:
        """Run `call` when the thread has been idle for a moment, so that it delays no other call. It must not raise."""
        if self._thread is None:
            call()
        else:
            self._leisure.append(call)
            if self._is_asleep:
                self._calls.put(_look)

    async def drain(self) -> None:
        """Return once every call made so far is done."""
        if self._thread is not None:
            await self.run(lambda: None)

    def close(self) -> None:
        """End the thread after the waiting calls."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call()
            if len(self._leisure) > _MOST_PUT_OFF:
                self._leisure.popleft()()
        while self._leisure:
            self._leisure.popleft()()

    def _next(self) -> Callable[[], object] | None:
        while True:
            self._is_asleep = False
            with contextlib.suppress(queue.Empty):
                return self._calls.get(timeout=_LEISURE_S)
            self._is_asleep = True  # set before the check, so that a call deferred after the check wakes the thread
            if not self._leisure:
                return self._calls.get()
            self._leisure.popleft()()


def _look() -> None:
    """Do nothing: the call only wakes the thread."""
