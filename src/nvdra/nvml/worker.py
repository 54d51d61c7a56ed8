"""Threads that run one call after the other. A hung call costs only its thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from nvdra.ports import Clock

T = TypeVar("T")


class Worker:
    """A daemon thread, started by its first call. It never delays the end of the process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending = 0

    @property
    def is_busy(self) -> bool:
        return self._pending > 0

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """The result of `work`, run in this thread after earlier work. Cancelling the future does not stop the work."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            self._pending -= 1
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
                future.exception()  # marks the error as retrieved: the caller may be gone

        def carry_out() -> None:
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop may have ended while the call hung
                loop.call_soon_threadsafe(settle, result, error)

        self._pending += 1
        self._waiting.put(carry_out)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()
        return future

    def retire(self) -> None:
        """Ends the thread after the work it was given."""
        self._waiting.put(None)

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()


class SessionBarrier:
    """Many calls at once, or one change of the session: the change waits for the calls, later calls for the change.

    A call counts as running until its thread returns, even if its caller is gone. A hung call blocks every change.
    when_quiet   called when the last one is out
    """

    def __init__(self, when_quiet: Callable[[], None]) -> None:
        self._when_quiet = when_quiet
        self._inside = 0
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self._is_open = asyncio.Event()
        self._is_open.set()

    @property
    def is_quiet(self) -> bool:
        return self._inside == 0

    async def call(self, worker: Worker, work: Callable[[], T]) -> asyncio.Future[T]:
        while not self._is_open.is_set():
            await self._is_open.wait()
        future = worker.call(work)
        self._inside += 1
        self._is_quiet.clear()
        future.add_done_callback(self._leave)
        return future

    def _leave(self, future: asyncio.Future[Any]) -> None:
        self._inside -= 1
        if self._inside == 0:
            self._is_quiet.set()
            self._when_quiet()

    @asynccontextmanager
    async def alone(self, clock: Clock, timeout_s: float) -> AsyncIterator[None]:
        """The body runs while no call runs. Raises TimeoutError if a call takes too long."""
        self._is_open.clear()
        try:
            async with clock.deadline(timeout_s):
                await self._is_quiet.wait()
            yield
        finally:
            self._is_open.set()


async def outcome(future: asyncio.Future[T], clock: Clock, timeout_s: float) -> T:
    """The result of the call, which is not cancelled at the timeout. Raises TimeoutError."""
    async with clock.deadline(timeout_s):
        await asyncio.wait((future,))
    return future.result()
