"""FakeKube's doors for tests, and its server as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from nvdra.kube import HttpKube, access
from nvdra.ports import ApiError, Resource
from nvdra.testing.clock import VirtualClock
from nvdra.testing.kube import FakeKube

NODES = Resource("", "v1", "nodes", namespaced=False)
PODS = Resource("", "v1", "pods", namespaced=True)
SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)


async def add_node(kube: FakeKube, name: str = "a", **metadata: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(
        await kube.create(NODES, json.dumps({"metadata": {"name": name, **metadata}}).encode())
    )
    return made


async def test_faults_fit_a_verb_a_kind_and_a_number_of_calls() -> None:
    kube = FakeKube()
    await add_node(kube)
    kube.fail(500, times=2, verb="get", plural="nodes")
    await kube.list(NODES)
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            await kube.get(NODES, "a")
        assert (caught.value.status, caught.value.reason) == (500, "InternalError")
    await kube.get(NODES, "a")
    assert kube.calls["get", "nodes"] == 3


async def test_delay_passes_on_the_clock_given() -> None:
    clock = VirtualClock()
    kube = FakeKube(clock=clock)
    await add_node(kube)
    kube.delay_s = 5
    call = asyncio.create_task(kube.get(NODES, "a"))
    await clock.advance(4.9)
    assert not call.done()
    await clock.advance(0.2)
    assert b'"a"' in call.result()


async def test_going_away_breaks_running_watches() -> None:
    kube = FakeKube()
    watch = asyncio.ensure_future(anext(kube.watch(NODES, resource_version="1")))
    await asyncio.sleep(0)
    kube.go_away()
    with pytest.raises(ApiError) as caught:
        await watch
    assert caught.value.status == 0


async def test_history_is_as_long_as_asked_for() -> None:
    kube = FakeKube(keep_events=2)
    start = (await kube.list(NODES)).resource_version
    for name in "ab":
        await add_node(kube, name)
    assert (await anext(kube.watch(NODES, resource_version=start))).type == "ADDED"
    await add_node(kube, "c")
    with pytest.raises(ApiError) as caught:
        await anext(kube.watch(NODES, resource_version=start))
    assert caught.value.status == 410


async def test_an_object_that_leaves_a_selection_is_deleted_for_its_watch() -> None:
    kube = FakeKube()
    node = await add_node(kube, labels={"pick": "me"})
    events = kube.watch(NODES, resource_version="1", label_selector="pick=me")
    assert (await anext(events)).type == "ADDED"
    node["metadata"]["labels"] = {}
    await kube.update(NODES, "a", json.dumps(node).encode())
    assert (await anext(events)).type == "DELETED"


async def test_garbage_is_what_has_no_owner_left() -> None:
    kube = FakeKube()
    owner = await add_node(kube)
    for name, uids in (("kept", [owner["metadata"]["uid"], "gone"]), ("lost", ["gone"]), ("free", [])):
        references = [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid} for uid in uids]
        body = {"metadata": {"name": name, "ownerReferences": references}}
        await kube.create(PODS, json.dumps(body).encode(), "default")
    kube.collect_garbage()
    assert [pod["metadata"]["name"] for pod in kube.objects("pods")] == ["free", "kept"]


async def test_kubelets_wipe_takes_only_the_slices_of_its_node() -> None:
    kube = FakeKube()
    for node in ("a", "b"):
        pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": "gpu.nvidia.com", "nodeName": node, "pool": pool}
        await kube.create(SLICES, json.dumps({"metadata": {"name": node}, "spec": spec}).encode())
    await kube.delete_all(SLICES, field_selector="spec.nodeName=a")
    assert [each["metadata"]["name"] for each in kube.objects("resourceslices")] == ["b"]


async def test_slices_can_be_selected_by_pool_since_1_37_only() -> None:
    selector = "spec.pool.name=a"
    await FakeKube().list(SLICES, field_selector=selector)
    with pytest.raises(ApiError) as caught:
        await FakeKube(server_version="v1.36.1").list(SLICES, field_selector=selector)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "unrecognized"),
        (b"{}", "name or generateName is required"),
        (b'{"kind":"Pod","metadata":{"name":"a"}}', "is None Pod, not v1 Node"),
        (b'{"apiVersion":"v2","metadata":{"name":"a"}}', "not v1 Node"),
    ],
)
async def test_what_is_no_object_of_the_kind_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(ApiError, match=text):
        await FakeKube().create(NODES, body)


async def test_the_server_is_a_process_with_a_kubeconfig_and_doors(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    arguments = ["--node", "node-a", "--token", "secret", "--versions", "v1beta1", "--server-version", "v1.32.2"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "nvdra.testing.api_server", "--kubeconfig", str(kubeconfig), *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()

    def door(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{url}/testing/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": "Bearer secret"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    try:
        async with HttpKube(access(str(kubeconfig), {})) as kube:
            assert await kube.discover("resource.k8s.io") == ("v1beta1",)
            assert await kube.server_version() == "v1.32.2"
            assert json.loads(await kube.get(NODES, "node-a"))["metadata"]["name"] == "node-a"
            assert await asyncio.to_thread(door, "GET", "calls") == {
                "discover resource.k8s.io": 1,
                "version": 1,
                "get nodes": 1,
            }
            await asyncio.to_thread(door, "POST", "faults", {"status": 503, "verb": "get"})
            with pytest.raises(ApiError, match="503"):
                await kube.get(NODES, "node-a")
            await asyncio.to_thread(door, "POST", "faults", {"away": True})
            with pytest.raises(ApiError) as caught:
                await kube.get(NODES, "node-a")
            assert caught.value.status == 0
            await asyncio.to_thread(door, "DELETE", "faults")
            await kube.get(NODES, "node-a")
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
