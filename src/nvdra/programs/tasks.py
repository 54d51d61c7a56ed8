"""A program's tasks in the background: each is a part of it, and without one of them it is not itself any more."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Coroutine
from typing import Any

from nvdra import telemetry
from nvdra.programs.stop import Stop


class Tasks:
    """Runs parts until they are cancelled.

    failed   a part ended by itself: the program stops, to be started again
    """

    def __init__(self, stop: Stop) -> None:
        self.failed = False
        self._stop = stop
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None], *, may_end: bool = False) -> None:
        """Run a part. may_end: it has an end of its own; only an error in it ends the program."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if done.cancelled() or (may_end and done.exception() is None):
                return
            # A part that died would leave a plugin that looks alive.
            error = done.exception()
            cause = "it should never end" if error is None else "; ".join(map(_told, _causes(error)))
            telemetry.error(f"The {name} task ended, so the program stops", cause)
            self.failed = True
            self._stop.ask()

        task.add_done_callback(ended)

    async def cancel(self) -> None:
        """End all parts."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _causes(error: BaseException) -> list[BaseException]:
    """What went wrong in the parts of a part, whose group says nothing of it."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for each in error.exceptions for cause in _causes(each)]
    return [error]


def _told(error: BaseException) -> str:
    """The error, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {error}"
