"""Registration with kubelet: GetInfo and NotifyRegistrationStatus on a socket in kubelet's registry.

Kubelet gives GetInfo one second and then backs off for up to two minutes, so threads of its own answer it with
bytes made in advance: a busy event loop does not delay the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nvdra import telemetry
from nvdra.kubelet.proto.pluginregistration.v1 import api_pb2 as pb
from nvdra.kubelet.sockets import Bound, hidden_beside
from nvdra.kubelet.transport import Metadata, RpcError, ThreadMethod, ThreadServer

GET_INFO = "/pluginregistration.Registration/GetInfo"
NOTIFY = "/pluginregistration.Registration/NotifyRegistrationStatus"
# Our own health check calls GetInfo too. This metadata distinguishes it from kubelet.
PROBE_METADATA: Metadata = {"nvdra-probe": "1"}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Times without a successful registration after which the socket is announced again.

    answer_s      after GetInfo, for NotifyRegistrationStatus (kubelet itself allows 5 s for the call)
    again_s       after a refusal; doubles with each one in a row
    at_most_s     upper limit of the doubling
    """

    answer_s: float = 15.0
    repeat_s: float = 5.0
    at_most_s: float = 120.0


class Registration:
    """The registration socket and its state.

    registered_ns   time of the last success, by CLOCK_MONOTONIC; 0: never
    on_registered   called on the loop after every success; a second one means that kubelet was restarted
    on_refused      called on the loop after every refusal
    also            further methods for the same socket, by full path
    """

    def __init__(
        self,
        *,
        driver: str,
        path: str,
        endpoint: str,
        versions: Sequence[str],
        on_registered: Callable[[], None],
        on_refused: Callable[[], None],
        retry_policy: RetryPolicy | None = None,
        also: Mapping[str, ThreadMethod] | None = None,
    ) -> None:
        self.path = path
        self.is_registered = False
        self.registered_ns = 0
        self._driver = driver
        self._info = pb.PluginInfo(
            type="DRAPlugin", name=driver, endpoint=endpoint, supported_versions=versions
        ).SerializeToString(deterministic=True)
        self._on_registered = on_registered
        self._on_refused = on_refused
        self._retry_policy = retry_policy or RetryPolicy()
        self._also = dict(also or {})
        self._pause_s = self._retry_policy.repeat_s
        self._server: ThreadServer | None = None
        self._bound: Bound | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Serve under a hidden name, then rename the socket so that kubelet sees it. Raises SocketPathError."""
        self._loop = asyncio.get_running_loop()
        self._server = ThreadServer({GET_INFO: self._get_info, NOTIFY: self._notify, **self._also})
        hidden = hidden_beside(self.path, self._driver)
        self._server.start(f"unix:{hidden}")
        self._bound = Bound.publish(hidden, self.path)
        telemetry.info(1, "Registration socket is up", path=self.path)

    def withdraw(self) -> None:
        """Remove the socket's name, so that kubelet deregisters this instance. A successor's socket stays."""
        self.is_registered = False
        if self._timer is not None:
            self._timer.cancel()
        if self._bound is not None and not self._bound.remove():
            telemetry.info(1, "Registration socket is another instance's by now, left alone", path=self.path)
        self._bound = None

    async def stop(self) -> None:
        """Close the server; `withdraw` comes first."""
        self.withdraw()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
            self._server = None

    # On the server's threads.

    def _get_info(self, _request: bytes, metadata: Metadata) -> bytes:
        if not any(metadata.get(key) == value for key, value in PROBE_METADATA.items()):
            self._tell(self._asked)
        return self._info

    def _notify(self, request: bytes, _metadata: Metadata) -> bytes:
        status = pb.RegistrationStatus.FromString(request)
        if status.plugin_registered:
            self.registered_ns = time.monotonic_ns()
        self._tell(self._told, status.plugin_registered, status.error)
        if not status.plugin_registered:
            # The Go driver's answer; it changes nothing in kubelet.
            raise RpcError("UNKNOWN", f"failed registration process: {status.error}")
        return b""

    def _tell(self, what: Callable[..., None], *args: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no one needs the event
                self._loop.call_soon_threadsafe(what, *args)

    # On the loop.

    def _asked(self) -> None:
        telemetry.info(6, "GetInfo", endpoint=self.path)
        self._announce_after(self._retry_policy.answer_s, "kubelet asked for this driver but did not register it")

    def _told(self, is_registered: bool, error: str) -> None:
        self.is_registered = is_registered
        if is_registered:
            telemetry.info(1, "Registered with kubelet", driver=self._driver)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._pause_s = self._retry_policy.repeat_s
            self._on_registered()
            return
        telemetry.error("Kubelet refused the registration", error, driver=self._driver)
        self._announce_after(self._pause_s, "kubelet refused the registration")
        self._pause_s = min(self._pause_s * 2, self._retry_policy.at_most_s)
        self._on_refused()

    def _announce_after(self, seconds: float, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and self._bound is not None:
            self._timer = self._loop.call_later(seconds, self._announce, why)

    def _announce(self, why: str) -> None:
        """Announce the socket again, because kubelet up to 1.35 never retries by itself."""
        self._timer = None
        if self._bound is None:
            return
        try:
            done = self._bound.announce_again(hidden_beside(self.path, self._driver))
        except OSError as error:
            telemetry.error("Cannot announce the registration socket again", error, path=self.path)
            self._announce_after(self._retry_policy.at_most_s, why)
            return
        if done:
            telemetry.warning("Announcing the registration socket again", reason=why, path=self.path)
