"""Clients of the metrics and health ports that only hold connections: claims are prepared all the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest

from nvdra.kubelet.proto.grpc.health.v1 import health_pb2 as pb
from tests.contract.plugin_node import PluginNode, plugin_node, until

IDLE = 1000
# Half of what the idle clients hold: without limits on the listeners, they take every descriptor.
HARD = 512


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """Room in this process for the clients' ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096) if hard != resource.RLIM_INFINITY else 4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def idle_clients(port: int, said: bytes) -> Iterator[list[socket.socket]]:
    """Connections that say this much and then nothing; those that are refused do not count."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(IDLE):
            with contextlib.suppress(OSError):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
                made.append(client)
                client.send(said)
        yield made


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    with many_descriptors():
        async with plugin_node() as node:
            # The soft limit of an init system, the hard limit of a strict one.
            command = f'set -e; ulimit -S -n 64; ulimit -H -n {HARD}; exec "$@"'
            await node.start(
                "sh", "-c", command, "sh", http_endpoint=f"127.0.0.1:{free_port()}", healthcheck_port=str(free_port())
            )
            yield node
            assert await node.stop() == 0
            assert "Traceback" not in node.log


def port_of(node: PluginNode, event: str) -> int:
    (line,) = [line for line in node.log.splitlines() if event in line]
    return int(line.partition("port=")[2].split()[0])


def descriptors(node: PluginNode) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))


def limits(pid: int) -> list[str]:
    (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line]
    return line.split()[3:5]


async def is_healthy(port: int) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)) as to:
        call = to.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=pb.HealthCheckRequest.SerializeToString,
            response_deserializer=pb.HealthCheckResponse.FromString,
        )
        try:
            answer = await call(pb.HealthCheckRequest(), timeout=10)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == pb.HealthCheckResponse.SERVING)


def scrape(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


async def healthy(port: int) -> None:
    async with asyncio.timeout(60):
        while not await is_healthy(port):  # noqa: ASYNC110  what is waited for happens in another process
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "said", [b"", b"GET /met", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ids=["nothing", "HTTP/1", "HTTP/2"]
)
@pytest.mark.parametrize("listener", ["Serving metrics", "Health service is up"])
async def test_idle_clients_leave_descriptors_for_claims(node: PluginNode, listener: str, said: bytes) -> None:
    refs = [await node.claim(f"gpu-{index}") for index in range(8)]
    before = descriptors(node)
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, idle_clients(port_of(node, listener), said))
        for _ in range(5):
            assert len(await node.prepared(*refs)) == 8
            await node.released(*refs)
        assert descriptors(node) < before + 100
        assert (await asyncio.to_thread(scrape, port_of(node, "Serving metrics"))).startswith(b"HTTP/1.0 200")
        await healthy(port_of(node, "Health service is up"))
    await until(lambda: descriptors(node) < before + 20, "the idle clients' descriptors")


async def test_the_limit_of_open_files_is_raised_at_the_start(node: PluginNode) -> None:
    assert limits(node.pid) == [str(HARD), str(HARD)]
