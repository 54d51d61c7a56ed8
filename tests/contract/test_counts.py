"""What claims cost, counted where it is paid: fsyncs by strace, API calls at the server, NVML calls in the library."""

from __future__ import annotations

import asyncio
import fcntl
import re
import socket
import urllib.request
from collections.abc import AsyncIterator

import pytest

from tests.contract.plugin_node import DRIVER, PluginNode, lines, plugin_node

SYNCS = "fsync,fdatasync,sync,syncfs,sync_file_range,msync"


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    async with plugin_node() as node:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            node.metrics_port = free.getsockname()[1]
        await node.start(http_endpoint=f"127.0.0.1:{node.metrics_port}")
        warm = await node.claim("gpu-7")
        await node.prepared(warm)
        await node.released(warm)
        node.kube.calls.clear()
        yield node


def synced(node: PluginNode, trace: object) -> list[str]:
    """The files that were synced, in order."""
    found = []
    for line in lines(trace, SYNCS.split(",")):  # type: ignore[arg-type]
        named = re.search(r"<(.+?)>", line)
        found.append(named[1] if named else line)
    return found


def is_checkpoint(node: PluginNode, path: str) -> bool:
    """A checkpoint on its way to its place."""
    return re.fullmatch(rf"{re.escape(str(node.plugin_dir))}/\.\d+", path) is not None


async def metric(node: PluginNode, name: str) -> float:
    url = f"http://127.0.0.1:{node.metrics_port}/metrics"
    text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    return float(text.partition(f"\n{name} ")[2].split("\n")[0])


@pytest.mark.parametrize("count", [1, 7])
async def test_claims_of_one_call_cost_one_sync(node: PluginNode, count: int) -> None:
    refs = [await node.claim(f"gpu-{i}") for i in range(count)]
    async with node.traced("-e", f"trace={SYNCS}") as trace:
        await node.prepared(*refs)
    found = synced(node, trace)
    assert [is_checkpoint(node, path) for path in found] == [True], found
    async with node.traced("-e", f"trace={SYNCS}") as trace:
        await node.prepared(*refs)  # asked again
    assert synced(node, trace) == []
    async with node.traced("-e", f"trace={SYNCS}") as trace:
        await node.released(*refs)
    found = synced(node, trace)
    assert [is_checkpoint(node, path) for path in found] == [True], found


async def test_calls_that_wait_while_a_batch_is_held_share_one_more_sync(node: PluginNode) -> None:
    inflight = f'nvidia_dra_requests_inflight{{driver="{DRIVER}",operation="prepare"}}'
    first, *rest = [await node.claim(f"gpu-{i}") for i in range(7)]

    async def are_in_flight(count: int) -> None:
        while await metric(node, inflight) != count:  # noqa: ASYNC110  another process counts
            await asyncio.sleep(0.01)

    async with node.traced("-e", f"trace={SYNCS}") as trace, asyncio.timeout(60):
        with (node.plugin_dir / "pu.lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the gate
            calls = [asyncio.create_task(node.prepared(first))]
            await are_in_flight(1)
            calls += [asyncio.create_task(node.prepared(ref)) for ref in rest]
            await are_in_flight(1 + len(rest))
        assert await asyncio.gather(*calls) == [[f"gpu-{i}"] for i in range(7)]
    found = synced(node, trace)
    assert [is_checkpoint(node, path) for path in found] == [True, True], found


async def test_a_prepare_asks_the_api_server_once_and_an_unprepare_never(node: PluginNode) -> None:
    refs = [await node.claim(f"gpu-{i}") for i in range(3)]
    node.kube.calls.clear()
    await node.prepared(*refs)
    assert dict(node.kube.calls) == {("get", "resourceclaims"): 3}
    await node.prepared(refs[0])
    assert dict(node.kube.calls) == {("get", "resourceclaims"): 4}
    await node.released(*refs)
    assert dict(node.kube.calls) == {("get", "resourceclaims"): 4}


async def test_no_claim_calls_into_nvml(node: PluginNode) -> None:
    node.root.count_calls()
    before = node.root.calls()
    refs = [await node.claim(f"gpu-{i}") for i in range(3)]
    await node.prepared(*refs)
    await node.prepared(refs[0])
    await node.released(*refs)
    after = node.root.calls()
    # The session of the start's scan is a lease, and ends by itself.
    assert {name for name in after if after[name] != before.get(name)} <= {"nvmlShutdown"}


async def test_one_thread_makes_every_durable_call(node: PluginNode) -> None:
    """What kills at the n-th call rely on: tracers count by thread."""
    durable = "rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat"
    refs = [await node.claim(f"gpu-{i}") for i in range(3)]
    async with node.traced("-e", f"trace={durable}") as trace:
        await node.prepared(*refs)
        await node.released(*refs)
    made = [line.split() for line in trace.read_text().splitlines() if "(" in line and not line.endswith("---")]
    assert len(made) == 3 + 2 + 2 + 3  # files, checkpoint; checkpoint, files
    assert len({thread for thread, *_ in made}) == 1
