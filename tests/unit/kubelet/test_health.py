"""The health check, asked over TCP as kubelet's probe does."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from nvdra.kubelet import HealthService, Plugin, SocketPathError, SocketPaths
from nvdra.kubelet.proto.grpc.health.v1 import health_pb2 as pb
from tests.unit.kubelet.doors import Driver


@pytest.fixture
async def health(paths: SocketPaths) -> AsyncIterator[HealthService]:
    service = HealthService(paths=paths, port=0, host="127.0.0.1")
    await service.start()
    yield service
    await service.stop()


async def check(service: HealthService, name: str) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        call = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=pb.HealthCheckRequest.SerializeToString,
            response_deserializer=pb.HealthCheckResponse.FromString,
        )
        answer = await call(pb.HealthCheckRequest(service=name), timeout=30)
        return int(answer.status)


@pytest.mark.parametrize("name", ["", "liveness"])
async def test_serving_while_both_sockets_answer(
    health: HealthService, plugin: Plugin, driver: Driver, name: str
) -> None:
    assert await check(health, name) == pb.HealthCheckResponse.SERVING
    assert driver.prepared == []


async def test_checks_at_once_are_answered_by_one_look(paths: SocketPaths) -> None:
    looks = 0

    class Counted(HealthService):
        async def failure(self) -> str:
            nonlocal looks
            looks += 1
            await enough.wait()
            return ""

    enough = asyncio.Event()
    service = Counted(paths=paths, port=0, host="127.0.0.1")
    await service.start()
    checks = [asyncio.create_task(check(service, "")) for _ in range(8)]
    await asyncio.wait(checks, timeout=0.5)
    enough.set()
    assert await asyncio.gather(*checks) == [pb.HealthCheckResponse.SERVING] * 8
    assert looks == 1
    assert await check(service, "") == pb.HealthCheckResponse.SERVING
    assert looks == 2
    await service.stop()


async def test_other_services_are_unknown(health: HealthService, plugin: Plugin) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await check(health, "readiness")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "unknown service"


async def test_watch_is_not_served(health: HealthService) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{health.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=30):
                pass
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_not_serving_before_the_start_and_after_the_stop(health: HealthService, plugin: Plugin) -> None:
    await plugin.stop()
    assert await check(health, "liveness") == pb.HealthCheckResponse.NOT_SERVING
    assert "registration socket" in await health.failure()


@pytest.mark.parametrize("which", ["registration", "dra"])
async def test_one_socket_gone_is_enough(health: HealthService, plugin: Plugin, paths: SocketPaths, which: str) -> None:
    path = getattr(paths, which)
    os.rename(path, f"{path}.away")
    assert await check(health, "") == pb.HealthCheckResponse.NOT_SERVING
    assert await health.failure() != ""
    # Back at once when the socket is: no connection's back-off stands between.
    os.rename(f"{path}.away", path)
    assert await check(health, "") == pb.HealthCheckResponse.SERVING


async def test_standing_by_is_healthy(paths: SocketPaths) -> None:
    service = HealthService(paths=paths, port=0, host="127.0.0.1", is_standing_by=lambda: True)
    await service.start()
    assert await check(service, "liveness") == pb.HealthCheckResponse.SERVING
    await service.stop()


async def test_a_taken_port_is_named(paths: SocketPaths) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SocketPathError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await HealthService(paths=paths, port=port, host="127.0.0.1").start()
