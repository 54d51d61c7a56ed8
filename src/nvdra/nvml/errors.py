"""Why there is no NVML to talk to. Each says what a program can do about it."""

from __future__ import annotations

import asyncio
from typing import Any


class DriverAbsent(Exception):
    """No usable driver now: none loaded, no library, or one that refuses. A later try may find one.

    reason   what was found, in words
    code     NVML's, None if NVML was not reached
    """

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class DriverChanged(Exception):
    """The driver was replaced while this process had its library loaded: only a fresh process can use the new one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NvmlHung(Exception):
    """A call into NVML has not come back, and what was asked for cannot be had without it.

    call   done once it comes back; None if it was another's call that was not waited for
    """

    def __init__(
        self, function: str, waited_s: float, consequence: str, call: asyncio.Future[Any] | None = None
    ) -> None:
        super().__init__(f"{function} has not answered for {waited_s:.0f} s: {consequence}")
        self.function = function
        self.waited_s = waited_s
        self.call = call


class NvmlInUse(Exception):
    """NVML cannot be closed: somebody needs it to stay open."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__(f"NVML is held open for {', '.join(reasons)}")
        self.reasons = reasons
