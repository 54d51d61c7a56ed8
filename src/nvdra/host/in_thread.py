"""Runs a call that may never return in a thread of its own, which never keeps the program from ending."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], *, name: str) -> T:
    """What the call returns or raises. The call goes on if the caller is cancelled."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def carry_out() -> None:
        try:
            result = call()
        except BaseException as error:  # a call's failure belongs to its caller
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    def tell(outcome: Callable[[Any], None], what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program is ending
            loop.call_soon_threadsafe(lambda: None if done.done() else outcome(what))

    threading.Thread(target=carry_out, name=name, daemon=True).start()
    return await done
