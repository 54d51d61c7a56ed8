"""The DRA plugin that kubelet calls: both versions of one service on one socket, and its registration.

Device work belongs to claims, not to calls. When a caller times out or disconnects, the work goes on, and the next call
joins it. An error of one claim never ends the process.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from nvdra import telemetry
from nvdra.api import ClaimRef
from nvdra.kubelet import answers
from nvdra.kubelet.answers import Failure, PrepareAnswer, UnprepareAnswer, Version
from nvdra.kubelet.device_health import METHODS as HEALTH_METHODS
from nvdra.kubelet.device_health import SERVICES as HEALTH_SERVICES
from nvdra.kubelet.device_health import HealthFeed
from nvdra.kubelet.paths import SocketPaths
from nvdra.kubelet.registration import Registration, RetryPolicy
from nvdra.kubelet.sockets import Bound, Life, gone, hidden_beside, probe, sweep
from nvdra.kubelet.succession import MEET, Succession
from nvdra.kubelet.transport import Method, RpcError, Server

Prepare: TypeAlias = Callable[[Sequence[ClaimRef]], Awaitable[Mapping[str, PrepareAnswer]]]
Unprepare: TypeAlias = Callable[[Sequence[ClaimRef]], Awaitable[Mapping[str, UnprepareAnswer]]]

# Kubelet takes the first entry of the list that it knows.
VERSIONS: tuple[Version, ...] = ("v1", "v1beta1")


def method(version: Version, name: str) -> str:
    return f"/k8s.io.kubelet.pkg.apis.dra.{version}.DRAPlugin/{name}"


class Plugin:
    """One driver as kubelet sees it.

    prepare, unprepare   answer the claims of one call by UID. A call has at least one claim and none twice. They are
                         cancelled when the caller disconnects; the work that they started goes on
    on_registered        after each registration: kubelet may have been restarted and have wiped our slices
    health               of the driver's devices; kubelet is told of it only if it is served
    on_change            when `is_registered` or `is_current` changes for any other reason
    """

    def __init__(
        self,
        *,
        driver: str,
        paths: SocketPaths,
        prepare: Prepare,
        unprepare: Unprepare,
        on_registered: Callable[[], None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
        retry_policy: RetryPolicy | None = None,
        health: HealthFeed | None = None,
    ) -> None:
        self._health = health or HealthFeed()
        self.paths = paths
        self.standing_by_for = ""  # the socket of a live instance that this one waits for
        self._driver = driver
        self._prepare = prepare
        self._unprepare = unprepare
        self._on_registered = on_registered
        self._on_change = on_change
        self._numbers = itertools.count(1)
        self._calls: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        self._bound: Bound | None = None
        self._server: Server | None = None
        self._succession = Succession(
            driver=driver,
            registrar_dir=os.path.dirname(paths.registration),
            registration=paths.registration,
            on_change=on_change,
        )
        self.registration = Registration(
            driver=driver,
            path=paths.registration,
            endpoint=paths.dra,
            versions=[
                *(f"{version}.DRAPlugin" for version in VERSIONS),
                *(HEALTH_SERVICES if self._health.is_served else ()),
            ],
            on_registered=self._registered,
            on_refused=on_change,
            retry_policy=retry_policy,
            also={MEET: self._succession.answer},
        )

    @property
    def is_serving(self) -> bool:
        return self._bound is not None

    @property
    def is_current(self) -> bool:
        """Whether kubelet calls this instance or will call it next. The current instance publishes the devices."""
        return self._succession.is_current and not self._is_stopping

    @property
    def is_registered(self) -> bool:
        """Whether kubelet has registered this instance, and no other one since."""
        return self.registration.is_registered and self.is_current

    @property
    def is_awaited(self) -> bool:
        """Whether another instance serves here and must go on until kubelet has registered this one."""
        return self._succession.is_awaited

    async def start(self) -> None:
        """Serve, then register. While another instance serves the sockets, wait until it closes them.

        Raises SocketPathError when a socket cannot be bound; no socket of ours remains then.
        """
        os.makedirs(os.path.dirname(self.paths.dra), mode=0o750, exist_ok=True)
        await self._stand_by()
        self._clear_leftovers()
        try:
            await self._serve()
            self._succession.start()
            await self.registration.start()
        except BaseException:
            await self.stop(grace_s=0)
            raise

    async def stop(self, *, grace_s: float = 30.0) -> None:
        """Shut down without losing a call: deregister, refuse new calls, finish running ones, close."""
        ends = time.monotonic() + grace_s
        if not self.is_current:
            # Kubelet already calls the other instance, and cuts off calls here once the registration is gone.
            await self._idle(ends)
        was_current, self._is_stopping = self.is_current, True
        # Stop its server too: a standing-by instance waits for that, and running calls do not need it.
        await self.registration.stop()
        if was_current:
            self._on_change()
        self._health.end()
        if self._server is not None:
            await self._server.stop(max(0.0, ends - time.monotonic()))
            self._server = None
        if self._bound is not None:
            self._bound.remove()
            self._bound = None
        await self._succession.stop()

    async def _idle(self, ends: float) -> None:
        left_s = ends - time.monotonic()
        if self._calls and left_s > 0:
            await asyncio.wait(self._calls, timeout=left_s)

    def _registered(self) -> None:
        self._succession.registered(self.registration.registered_ns)
        self._on_registered()

    async def _stand_by(self) -> None:
        for path in (self.paths.registration, self.paths.dra):
            if probe(path) is Life.LIVE:
                self.standing_by_for = path
                pod = await self._succession.pod_at(self.paths.registration)
                telemetry.info(0, f"standing by for pod {pod or 'unknown'}, which serves here", path=path)
                await gone(path)
        if self.standing_by_for:
            telemetry.info(0, "The other instance is gone, taking over")
        self.standing_by_for = ""

    def _clear_leftovers(self) -> None:
        """Remove sockets of killed instances, which kubelet would keep dialling."""
        registrar, plugin_dir = os.path.dirname(self.paths.registration), os.path.dirname(self.paths.dra)
        for path in (
            *sweep(registrar, f"{self._driver}-*reg.sock"),
            *sweep(registrar, f".{self._driver}-*"),
            *sweep(plugin_dir, "dra*.sock"),
            *sweep(plugin_dir, ".s-*"),
        ):
            telemetry.info(1, "Removed the socket of an instance that is gone", path=path)

    async def _serve(self) -> None:
        calls: dict[str, Method] = {}
        for version in VERSIONS:
            for name, call in (
                ("NodePrepareResources", self._node_prepare),
                ("NodeUnprepareResources", self._node_unprepare),
            ):
                path = method(version, name)
                calls[path] = partial(call, version, path)
        self._server = Server(calls, streams=dict.fromkeys(HEALTH_METHODS, self._health.watch))
        hidden = hidden_beside(self.paths.dra, self._driver)
        await self._server.start(f"unix:{hidden}")
        self._bound = Bound.publish(hidden, self.paths.dra)
        telemetry.info(1, "DRA socket is up", path=self.paths.dra)

    async def _node_prepare(self, version: Version, path: str, request: bytes) -> bytes:
        refs = self._claims(path, request)
        if not refs:
            return b""
        return answers.prepared(version, refs, await self._answered(path, refs, self._prepare))

    async def _node_unprepare(self, _version: Version, path: str, request: bytes) -> bytes:
        refs = self._claims(path, request)
        if not refs:
            return b""
        return answers.unprepared(refs, await self._answered(path, refs, self._unprepare))

    def _claims(self, path: str, request: bytes) -> tuple[ClaimRef, ...]:
        if self._is_stopping:
            raise RpcError("UNAVAILABLE", f"{self._driver} is shutting down")
        try:
            refs = answers.claims_of(request)
        except DecodeError as error:
            raise RpcError("INVALID_ARGUMENT", f"the request cannot be read: {error}") from None
        if not refs:
            # The liveness probe calls without claims; the call must cost nothing and change nothing.
            telemetry.info(7, "Call without claims", method=path)
        return refs

    async def _answered(self, path: str, refs: Sequence[ClaimRef], work: Callable[..., Any]) -> Mapping[str, Any]:
        """The result of `work` for a call. The call may be cancelled; operations that `work` started go on."""
        number = next(self._numbers)
        is_logged = telemetry.enabled(6)
        if is_logged:
            telemetry.info(6, "Request", method=path, requestID=number, claims=[str(ref) for ref in refs])
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        try:
            outcome = await _guarded(work, refs)
        except asyncio.CancelledError:
            telemetry.info(1, "Kubelet stopped waiting; the work goes on", method=path, requestID=number)
            raise
        finally:
            self._calls.discard(call)
        if is_logged:
            failed = {uid: a.error for uid, a in outcome.items() if a is not None and not isinstance(a, tuple)}
            telemetry.info(6, "Response", method=path, requestID=number, failed=failed)
        return outcome


async def _guarded(work: Callable[..., Any], refs: Sequence[ClaimRef]) -> Mapping[str, Any]:
    """The result of `work`; an unexpected error becomes a failure of each of its claims."""
    try:
        outcome: Mapping[str, Any] = await work(refs)
    except Exception as error:
        telemetry.error("Claims failed unexpectedly", error, kind=type(error).__name__, claims=[str(r) for r in refs])
        failure = Failure(f"internal error: {type(error).__name__}: {error}")
        return {ref.uid: failure for ref in refs}
    return outcome
