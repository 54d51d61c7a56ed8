"""A program's background tasks. The program needs all of them: if one fails, it stops."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Coroutine
from typing import Any

from nvdra import telemetry
from nvdra.programs.stop import Stop


class Tasks:
    """Runs background tasks until they are cancelled.

    failed   set if a task ended by itself: the program then stops, and kubelet starts its container again
    """

    def __init__(self, stop: Stop) -> None:
        self.failed = False
        self._stop = stop
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None], *, may_end: bool = False) -> None:
        """Start a task. may_end: the task may return; only an error in it stops the program."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if done.cancelled() or (may_end and done.exception() is None):
                return
            # Without the task the plugin would only seem to work.
            error = done.exception()
            cause = "it should never end" if error is None else "; ".join(map(_told, _causes(error)))
            telemetry.error(f"The {name} task ended, so the program stops", cause)
            self.failed = True
            self._stop.ask()

        task.add_done_callback(ended)

    async def cancel(self) -> None:
        """Cancel all tasks, and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _causes(error: BaseException) -> list[BaseException]:
    """The errors inside a task's exception group, whose own text does not contain them."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for each in error.exceptions for cause in _causes(each)]
    return [error]


def _told(error: BaseException) -> str:
    """The error and the place where it was raised, as text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {error}"
