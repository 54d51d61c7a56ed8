"""Errors of NVML as a whole. Each says what a program can do about it."""

from __future__ import annotations

import asyncio
from typing import Any


class DriverAbsent(Exception):
    """No usable driver: none is loaded, the library is missing, or it refuses. A later try may succeed.

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
    """A hung call blocks the request.

    call   done once it returns; None if the hung call belongs to another request
    """

    def __init__(
        self, function: str, waited_s: float, consequence: str, call: asyncio.Future[Any] | None = None
    ) -> None:
        super().__init__(f"{function} has not answered for {waited_s:.0f} s: {consequence}")
        self.function = function
        self.waited_s = waited_s
        self.call = call


class NvmlInUse(Exception):
    """NVML cannot be closed, because it was asked to stay open."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__(f"NVML is held open for {', '.join(reasons)}")
        self.reasons = reasons
