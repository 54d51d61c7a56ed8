"""The wish to stop: signals from the first instruction on, before there is an event loop to hand them to."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


class Stop:
    """Catches the stop signals. Until `on_loop` is called there is nothing to wind down: the process ends with 0."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        self._deadline: threading.Timer | None = None
        for number in SIGNALS:
            signal.signal(number, self._before_loop)

    def _before_loop(self, _number: int, _frame: FrameType | None) -> None:
        os._exit(0)

    def on_loop(self, within_s: float | None = None, at_deadline: Callable[[], object] = lambda: None) -> None:
        """From here on a signal sets an event of the running loop.

        within_s     how long winding down may take
        at_deadline  called after that in a thread of its own, whatever the loop is stuck in
        """
        self._event = asyncio.Event()
        if within_s is not None:
            self._deadline = threading.Timer(within_s, at_deadline)
            self._deadline.daemon = True
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.ask)

    def ask(self) -> None:
        """The program itself wants to stop, or a signal says so."""
        assert self._event is not None
        if not self._event.is_set() and self._deadline is not None:
            self._deadline.start()
        self._event.set()

    async def unless(self, work: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
        """Do the work, or leave it as soon as the wish to stop comes."""
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
