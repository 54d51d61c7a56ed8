"""Where `asyncio.to_thread` runs in tests on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class InlineExecutor(ThreadPoolExecutor):
    """Runs each call at once, on the loop's own thread: whatever rests then rests until time passes.

    A loop takes only a ThreadPoolExecutor as its default one; no thread of it is ever started.
    """

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
