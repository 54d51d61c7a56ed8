"""Two processes of the program on one node, as the pods of an update: both serve, one publishes."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator

import pytest

from nvdra.testing.kubelet import Kubelet
from tests.contract.plugin_node import DRIVER, NODES, POOL, SLICES, PluginNode, plugin_node, until

OLD, NEW = "11111111-aaaa", "22222222-bbbb"


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    """A node whose kubelet keeps two plugins of one driver."""
    async with plugin_node() as node:
        stored = json.loads(await node.kube.get(NODES, POOL))
        stored["status"] = {"nodeInfo": {"kubeletVersion": "v1.33.4"}}
        await node.kube.update(NODES, POOL, json.dumps(stored).encode(), subresource="status")
        yield node


def endpoint() -> str:
    """A free address for metrics, on a host that no outgoing connection takes its port from."""
    with socket.create_server(("127.77.0.1", 0)) as server:
        host, port = server.getsockname()
    return f"{host}:{port}"


async def is_registered(endpoint: str) -> bool:
    """What the process's own metric says."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=30) as page:
            text: str = page.read().decode()
        return text

    line = f'nvidia_dra_registered{{driver="{DRIVER}"}}'
    (value,) = [each for each in (await asyncio.to_thread(read)).splitlines() if each.startswith(line)]
    return float(value.removeprefix(line)) == 1.0


def slices(node: PluginNode) -> dict[str, str]:
    """The slices by UID, each with its version."""
    stored = node.kube.objects("resourceslices")
    return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in stored}


async def test_the_new_one_takes_over_and_nothing_is_lost_or_written_twice(node: PluginNode) -> None:
    pages = {uid: endpoint() for uid in (OLD, NEW)}
    async with Kubelet(str(node.registry)) as kubelet:
        old = await node.launch(pod_uid=OLD, http_endpoint=pages[OLD])
        await kubelet.registered(DRIVER)
        await until(lambda: node.kube.objects("resourceslices"), "slices")
        assert kubelet.plugins[DRIVER].endpoint == f"{node.plugin_dir}/dra-{OLD}.sock"
        assert await is_registered(pages[OLD])
        published = slices(node)
        ref = await node.claim("gpu-0")
        first = await kubelet.prepare(DRIVER, [ref])

        new = await node.launch(pod_uid=NEW, http_endpoint=pages[NEW])
        await kubelet.happened("registered", times=2)
        await until(lambda: "leaving publication to it" in node.log, "the old one to stand back")
        assert kubelet.plugins[DRIVER].endpoint == f"{node.plugin_dir}/dra-{NEW}.sock"
        assert (await is_registered(pages[OLD]), await is_registered(pages[NEW])) == (False, True)
        # Either answers from the one checkpoint, the same.
        assert await kubelet.prepare(DRIVER, [ref]) == first
        assert slices(node) == published
        # A slice that vanishes is made again by one of them, not by both.
        node.kube.calls.clear()
        for stored in node.kube.objects("resourceslices"):
            await node.kube.delete(SLICES, stored["metadata"]["name"])
        await until(lambda: node.kube.objects("resourceslices"), "the slices to be back")
        published = slices(node)

        old.send_signal(signal.SIGTERM)
        assert await old.wait() == 0
        await kubelet.happened("deregistered")
        assert await kubelet.unprepare(DRIVER, [ref]) == {ref.uid: ""}
        assert slices(node) == published
        assert node.kube.calls["create", "resourceslices"] == len(published)
        new.send_signal(signal.SIGTERM)
        assert await new.wait() == 0
    assert list(node.registry.iterdir()) == []
    assert list(node.plugin_dir.glob("*.sock")) == []


async def test_when_the_new_one_is_killed_the_old_one_publishes_again(node: PluginNode) -> None:
    async with Kubelet(str(node.registry)) as kubelet:
        old = await node.launch(pod_uid=OLD)
        await kubelet.registered(DRIVER)
        new = await node.launch(pod_uid=NEW)
        await until(lambda: "leaving publication to it" in node.log, "the old one to stand back")
        new.kill()
        await new.wait()
        await until(lambda: "The instance ahead is gone, taking over" in node.log, "the old one to come forward")
        await node.wipe_slices()
        await until(lambda: node.kube.objects("resourceslices"), "the slices to be back")
        old.send_signal(signal.SIGTERM)
        assert await old.wait() == 0
