"""grpc.health.v1 over TCP: SERVING while a new client can call both sockets, as kubelet does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nvdra import telemetry
from nvdra.kubelet.paths import SocketPaths
from nvdra.kubelet.plugin import method
from nvdra.kubelet.proto.grpc.health.v1 import health_pb2 as pb
from nvdra.kubelet.proto.pluginregistration.v1 import api_pb2 as registration_pb
from nvdra.kubelet.registration import GET_INFO, PROBE_METADATA
from nvdra.kubelet.transport import NETWORK_OPTIONS, Client, RpcError, Server

CHECK = "/grpc.health.v1.Health/Check"
SERVICES = ("", "liveness")
# The chart's probes wait 10 s. A socket that answers later than this is unhealthy.
TIMEOUT_S = 5.0


class HealthService:
    """The health check's server.

    port              more than 0: this one; 0: any free one. (Negative means off: do not start one then.)
    is_standing_by    healthy without sockets of its own: it waits for another instance's sockets
    is_awaited        unhealthy until kubelet has registered it: a healthy pod causes the other instance's stop
    """

    def __init__(
        self,
        *,
        paths: SocketPaths,
        port: int,
        host: str = "",
        is_standing_by: Callable[[], bool] = lambda: False,
        is_awaited: Callable[[], bool] = lambda: False,
    ) -> None:
        self.port = port
        self._paths = paths
        self._host = host or "[::]"
        self._is_standing_by = is_standing_by
        self._is_awaited = is_awaited
        self._server = Server({CHECK: self._check}, NETWORK_OPTIONS)
        self._asking: asyncio.Task[str] | None = None

    async def start(self) -> None:
        """Raises SocketPathError with the address in its text."""
        self.port = await self._server.start(f"{self._host}:{self.port}")
        telemetry.info(1, "Health service is up", port=self.port)

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _check(self, request: bytes) -> bytes:
        service = pb.HealthCheckRequest.FromString(request).service
        if service not in SERVICES:
            raise RpcError("NOT_FOUND", "unknown service")
        reason = "" if self._is_standing_by() else await self._shared_failure()
        is_serving = not reason and not self._is_awaited()
        if reason:
            telemetry.error("Health check failed", reason)
        elif is_serving:
            telemetry.info(7, "Health check succeeded", service=service)
        else:
            telemetry.info(1, "Not healthy until kubelet has registered this instance: another one still serves")
        status = pb.HealthCheckResponse.SERVING if is_serving else pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=status).SerializeToString()

    async def _shared_failure(self) -> str:
        """The result of `failure`, shared by all waiting checks, because each evaluation opens connections."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self.failure(), name="health check")
        # A client that disconnects does not cancel it for the others.
        return await asyncio.shield(self._asking)

    async def failure(self) -> str:
        """Why kubelet cannot be served; "" if it can."""
        registration = self._ask("registration", self._paths.registration, GET_INFO)
        dra = self._ask("DRA", self._paths.dra, method("v1beta1", "NodePrepareResources"))
        (info, wrong), (_, wrong_dra) = await asyncio.gather(registration, dra)
        if wrong or wrong_dra:
            return wrong or wrong_dra
        endpoint = registration_pb.PluginInfo.FromString(info).endpoint
        return "" if endpoint == self._paths.dra else f"kubelet is sent to {endpoint}, this instance serves elsewhere"

    async def _ask(self, what: str, path: str, rpc: str) -> tuple[bytes, str]:
        client = Client(f"unix:{path}")
        try:
            return await client.call(rpc, timeout_s=TIMEOUT_S, metadata=PROBE_METADATA), ""
        except RpcError as error:
            return b"", f"{what} socket {path}: {error}"
        finally:
            await client.close()
