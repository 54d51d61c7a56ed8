"""Device health for kubelet (KEP-4680): a stream that shows up in pod status.

Two versions of one service, whose messages are equal on the wire; older kubelets skip the fields that they do not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nvdra.kubelet.proto.dra_health.v1 import api_pb2 as pb

# kubelet takes the newest version that it knows, whatever the order.
SERVICES = ("v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth")
METHODS = tuple(f"/{service}/NodeWatchResources" for service in SERVICES)

# After this time without a report kubelet calls a device Unknown; a full report is sent three times as often.
TIMEOUT_S = 30
REPORT_S = TIMEOUT_S / 3
_MESSAGE_LIMIT = 1024  # bytes; kubelet cuts longer ones

_STATUS = {"unknown": pb.UNKNOWN, "healthy": pb.HEALTHY, "unhealthy": pb.UNHEALTHY}


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """The health of one device of a pool, and why."""

    pool: str
    device: str
    status: Literal["unknown", "healthy", "unhealthy"]
    message: str = ""


class HealthFeed:
    """The devices' health, for any number of streams.

    is_served   whether kubelet is told that the service is here. If not, a stream stays open and silent: kubelets up
                to 1.36.0 ask in any case, and ask again every five seconds after an error
    """

    def __init__(self) -> None:
        self.is_served = False
        self._report: bytes | None = None
        self._changed = asyncio.Event()
        self._is_ended = False

    def report(self, devices: Sequence[DeviceHealth], now_s: float) -> None:
        """All devices as they are now; `now_s` in seconds since 1970."""
        self._report = _encoded(devices, now_s)
        self._wake()

    def end(self) -> None:
        """End every stream: the plugin stops."""
        self._is_ended = True
        self._wake()

    async def watch(self, _request: bytes) -> AsyncIterator[bytes]:
        """A full report at once, after each change, and every ten seconds."""
        while not self._is_ended:
            changed, report = self._changed, self._report
            if report is not None:
                yield report
            try:
                async with asyncio.timeout(None if report is None else REPORT_S):
                    await changed.wait()
            except TimeoutError:
                pass

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _encoded(devices: Sequence[DeviceHealth], now_s: float) -> bytes:
    return pb.NodeWatchResourcesResponse(
        devices=[
            pb.DeviceHealth(
                device=pb.DeviceIdentifier(pool_name=each.pool, device_name=each.device),
                health=_STATUS[each.status],
                last_updated_time=int(now_s),
                health_check_timeout_seconds=TIMEOUT_S,
                message=each.message.encode()[:_MESSAGE_LIMIT].decode(errors="ignore"),
            )
            for each in devices
        ]
    ).SerializeToString()
