"""Stop signals, caught from the first instruction on, before an event loop exists."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


class Stop:
    """Catches the stop signals until the process has ended. Before `on_loop` is called one ends it with status 0.

    The handlers belong to the process, not to the loop: a loop that closes would give its signals their default
    action back, and a second signal in the last milliseconds would end a clean shutdown with status -15. The
    interpreter does the same at its very end to every handler but "ignore".
    """

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadline: threading.Timer | None = None
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._loop is None:
            os._exit(0)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.ask)

    def on_loop(self, within_s: float | None = None, at_deadline: Callable[[], object] = lambda: None) -> None:
        """From now on a signal sets an event of the running loop.

        within_s     time limit of the shutdown
        at_deadline  called after that limit in a thread of its own, even if the loop is blocked
        """
        self._event = asyncio.Event()
        if within_s is not None:
            self._deadline = threading.Timer(within_s, at_deadline)
            self._deadline.daemon = True
        self._loop = asyncio.get_running_loop()
        atexit.register(_ignore)

    def ask(self) -> None:
        """Request the stop; called by the program itself or for a signal."""
        assert self._event is not None
        if not self._event.is_set() and self._deadline is not None:
            self._deadline.start()
        self._event.set()

    async def unless(self, work: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
        """Await the work, or cancel it as soon as a stop is requested."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.create_task(self.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()

    async def wait(self) -> None:
        assert self._event is not None
        await self._event.wait()


def _ignore() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
