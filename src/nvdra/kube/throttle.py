"""A token bucket in front of the API server, as `--kube-api-qps` and `--kube-api-burst` ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class Throttle:
    """At most `burst` calls at once and `qps` a second after that; first come, first served.

    qps   0 or less: no limit
    """

    def __init__(
        self, qps: float, burst: int, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._qps = qps
        self._burst = float(max(burst, 1))
        self._now = now
        self._sleep = sleep
        self._tokens = self._burst
        self._filled_at = now()

    async def admit(self) -> None:
        """Return when the call may be sent."""
        if self._qps <= 0:
            return
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._qps)
        self._filled_at = now
        # The count may become negative: this debt makes later calls queue behind this one.
        self._tokens -= 1
        if self._tokens < 0:
            try:
                await self._sleep(-self._tokens / self._qps)
            except BaseException:
                self._tokens += 1
                raise
