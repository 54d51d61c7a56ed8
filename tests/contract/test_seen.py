"""What users see of claims, by the program itself: status.devices, Events, the info metric, the guard, profiles."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nvdra.kubelet.proto.pprof import profile_pb2
from nvdra.testing.pod_resources import PodResourcesServer
from tests.contract.plugin_node import CLAIMS, PluginNode, lines, plugin_node, until


@asynccontextmanager
async def started(portrait: str = "h100x8", **flags: str) -> AsyncIterator[PluginNode]:
    async with plugin_node(portrait) as node:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            node.metrics_port = free.getsockname()[1]
        await node.start(http_endpoint=f"127.0.0.1:{node.metrics_port}", **flags)
        yield node


async def page(node: PluginNode, path: str) -> bytes:
    def read() -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics_port}{path}", timeout=60) as answer:
            content: bytes = answer.read()
            return content

    return await asyncio.to_thread(read)


def status_devices(node: PluginNode, name: str) -> list[dict[str, Any]]:
    (claim,) = [each for each in node.kube.objects("resourceclaims") if each["metadata"]["name"] == name]
    devices: list[dict[str, Any]] = claim["status"].get("devices", [])
    return devices


def uuid_of(node: PluginNode, device: str) -> str:
    (found,) = [
        each["attributes"]["uuid"]["string"]
        for stored in node.kube.objects("resourceslices")
        for each in stored["spec"]["devices"]
        if each["name"] == device
    ]
    return str(found)


def taints(node: PluginNode) -> dict[str, list[str]]:
    return {
        device["name"]: [taint["key"] for taint in device["taints"]]
        for stored in node.kube.objects("resourceslices")
        for device in stored["spec"]["devices"]
        if device.get("taints")
    }


# ── status.devices ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_claim_says_which_hardware_it_has_and_prepare_does_not_wait_for_it() -> None:
    async with started(claim_status="true") as node:
        node.kube.calls.clear()
        claim = await node.claim("gpu-3")
        before = dict(node.kube.calls)
        # The API server takes no status: the claim is prepared with its one GET all the same.
        node.kube.fail(500, verb="patch", plural="resourceclaims")
        assert await node.prepared(claim) == ["gpu-3"]
        assert node.kube.calls["get", "resourceclaims"] - before.get(("get", "resourceclaims"), 0) == 1
        await until(lambda: status_devices(node, claim.name), "status.devices")
        (device,) = status_devices(node, claim.name)
        assert device == {
            "driver": "gpu.nvidia.com",
            "pool": "node-a",
            "device": "gpu-3",
            "data": {"uuid": uuid_of(node, "gpu-3"), "pciBusID": "0000:61:00.0", "minor": 3},
        }
        # The checkpoint compares allocations, not status: asked again, nothing is done anew.
        files = node.files()
        assert await node.prepared(claim) == ["gpu-3"]
        assert node.files() == files


async def test_by_default_nothing_is_written_into_claims() -> None:
    async with started() as node:
        claim = await node.claim("gpu-3")
        await node.prepared(claim)
        await node.released(claim)
        assert status_devices(node, claim.name) == []
        assert not node.kube.calls["patch", "resourceclaims"]
        assert node.kube.objects("events") == []


async def test_with_all_of_it_on_a_prepare_costs_what_it_costs_without(kubelet: Any, tmp_path: Path) -> None:
    flags = {"coexistence_guard": "enforce", "pod_resources_socket": str(tmp_path / "kubelet.sock")}
    flags |= dict.fromkeys(("claim_status", "claim_events", "topology_attributes"), "true")
    async with kubelet() as pods, started(**flags) as node:
        warm = await node.claim("gpu-7")
        await node.prepared(warm)
        await node.released(warm)
        refs = [await node.claim(f"gpu-{number}") for number in range(4)]
        node.root.count_calls()
        before, asked = node.root.calls(), node.kube.calls["get", "resourceclaims"]
        async with node.traced("-e", "trace=fsync,fdatasync") as trace:
            await node.prepared(*refs)
        assert node.kube.calls["get", "resourceclaims"] - asked == len(refs)
        assert len(lines(trace, ("fsync", "fdatasync"))) == 1
        changed = {name for name, count in node.root.calls().items() if count != before.get(name)}
        assert changed <= {"nvmlShutdown"}
        assert pods.calls >= 1


# ── Events ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refusal_is_one_event_however_often_kubelet_asks() -> None:
    async with started(claim_events="true") as node:
        holder, second = await node.claim("gpu-1"), await node.claim("gpu-1")
        await node.prepared(holder)
        told = [await node.refused(second) for _ in range(3)]
        await until(lambda: node.kube.objects("events"), "an Event")
        (event,) = node.kube.objects("events")
        assert event["involvedObject"]["uid"] == second.uid
        assert (event["reason"], event["type"], event["message"]) == ("PrepareFailed", "Warning", told[0])


async def test_a_repaired_cdi_file_is_an_event() -> None:
    async with started(claim_events="true") as node:
        claim = await node.claim("gpu-1")
        await node.prepared(claim)
        node.cdi_path(claim).unlink()
        await node.prepared(claim)
        await until(lambda: node.kube.objects("events"), "an Event")
        assert [event["reason"] for event in node.kube.objects("events")] == ["CDIFileRepaired"]


# ── the info metric ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_info_metric_joins_claim_pod_and_gpu() -> None:
    async with started() as node:
        claim = await node.claim("gpu-2", name="train")
        stored = json.loads(await node.kube.get(CLAIMS, "train", "ns"))
        stored["status"]["reservedFor"] = [{"resource": "pods", "name": "train-0", "uid": "u"}]
        await node.kube.update(CLAIMS, "train", json.dumps(stored).encode(), "ns", subresource="status")
        await node.prepared(claim)
        wanted = (
            'nvdra_claim_device_info{claim="train",device="gpu-2",minor="2",namespace="ns",pci="0000:52:00.0",'
            f'pod="train-0",uuid="{uuid_of(node, "gpu-2")}"}} 1.0'
        )
        series = await _series(node, lambda found: found)
        assert [_sorted_labels(line) for line in series] == [wanted]
        await node.released(claim)
        assert await _series(node, lambda found: not found) == []


async def _series(node: PluginNode, is_wanted: Callable[[list[str]], object]) -> list[str]:
    """The metric's lines once they are as wanted: the gauges follow the checkpoint after some milliseconds."""
    async with asyncio.timeout(60):
        while True:
            text = (await page(node, "/metrics")).decode()
            found = [line for line in text.splitlines() if line.startswith("nvdra_claim_device_info{")]
            if is_wanted(found):
                return found


def _sorted_labels(line: str) -> str:
    name, _, rest = line.partition("{")
    labels, _, value = rest.partition("}")
    return f"{name}{{{','.join(sorted(labels.split(',')))}}}{value}"


# ── the coexistence guard ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def kubelet(tmp_path: Path) -> Callable[[], AbstractAsyncContextManager[PodResourcesServer]]:
    @asynccontextmanager
    async def serving() -> AsyncIterator[PodResourcesServer]:
        server = PodResourcesServer(str(tmp_path / "kubelet.sock"))
        await server.start()
        try:
            yield server
        finally:
            await server.stop()

    return serving


async def test_a_gpu_of_a_device_plugin_is_tainted_and_refused_until_it_is_freed(kubelet: Any, tmp_path: Path) -> None:
    flags = {"coexistence_guard": "enforce", "pod_resources_socket": str(tmp_path / "kubelet.sock")}
    async with kubelet() as pods, started("h200x2", claim_events="true", **flags) as node:
        pods.give(uuid_of(node, "gpu-1"))
        claim = await node.claim("gpu-1")
        text = await node.refused(claim)
        assert "gpu-1 is in use by pod ns/other (container main, nvidia.com/gpu GPU-" in text
        await until(lambda: taints(node) == {"gpu-1": ["gpu.nvidia.com/device-plugin"]}, "the taint")
        await until(lambda: node.kube.objects("events"), "an Event")
        assert await node.prepared(await node.claim("gpu-0")) == ["gpu-0"]
        pods.given.clear()
        assert await node.prepared(claim) == ["gpu-1"]
        await until(lambda: not taints(node), "the taint's end")


async def test_warning_prepares_all_the_same_and_says_so(kubelet: Any, tmp_path: Path) -> None:
    flags = {"coexistence_guard": "warn", "pod_resources_socket": str(tmp_path / "kubelet.sock")}
    async with kubelet() as pods, started("h200x2", claim_events="true", **flags) as node:
        pods.give(uuid_of(node, "gpu-1"))
        claim = await node.claim("gpu-1")
        assert await node.prepared(claim) == ["gpu-1"]
        await until(lambda: node.kube.objects("events"), "an Event")
        assert [event["reason"] for event in node.kube.objects("events")] == ["DeviceInUseTwice"]
        assert taints(node) == {}


@pytest.mark.parametrize("is_there", [False, True])
async def test_pod_resources_absent_or_hanging_keeps_no_claim_from_its_gpu(
    kubelet: Any, tmp_path: Path, is_there: bool
) -> None:
    flags = {"coexistence_guard": "enforce", "pod_resources_socket": str(tmp_path / "kubelet.sock")}
    async with kubelet() as pods:
        pods.hangs = True
        if not is_there:
            (tmp_path / "kubelet.sock").unlink()
        async with started("h200x2", **flags) as node:
            assert await node.prepared(await node.claim("gpu-0")) == ["gpu-0"]
            assert await node.prepared(await node.claim("gpu-1")) == ["gpu-1"]
            assert "kubelet does not tell what device plugins gave out" in node.log


# ── profiles ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_profiles_and_stacks_are_served_below_their_path(tmp_path: Path) -> None:
    async with started("h200x2", pprof_path="/debug/pprof") as node:
        assert b"/debug/pprof/profile?seconds=30" in await page(node, "/debug/pprof")
        assert (await page(node, "/debug/pprof/cmdline")).split(b"\0")[1].endswith(b"gpu-kubelet-plugin")
        threads = (await page(node, "/debug/pprof/threads")).decode()
        assert "Thread MainThread:" in threads
        assert "Task publication waiting:" in threads
        answer = await page(node, "/debug/pprof/profile?seconds=0.3")
        profile = profile_pb2.Profile.FromString(gzip.decompress(answer))
        names = {profile.string_table[each.type] for each in profile.sample_type}
        assert names == {"samples", "cpu"}
        assert profile.sample
        folded = (await page(node, "/debug/pprof/profile?seconds=0.3&format=folded")).decode()
        assert all(re.fullmatch(r".+ \d+", line) for line in folded.splitlines())
        assert (await page(node, "/debug/pprof/heap?seconds=0.1")).startswith(b"allocated within 0.1 s")
        if go := shutil.which("go"):
            file = tmp_path / "profile"
            file.write_bytes(answer)
            command = [go, "tool", "pprof", "-raw", str(file)]
            told = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
            assert b"samples/count cpu/nanoseconds" in told.stdout, told.stderr


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/debug/pprof/profile?seconds=0", 400),
        ("/debug/pprof/profile?seconds=odd", 400),
        ("/debug/pprof/profile?seconds=1e9", 400),
        ("/debug/pprof/profile?format=odd&seconds=1", 400),
        ("/debug/pprof/symbol", 404),
        ("/debug/pprofile", 404),
    ],
)
async def test_an_odd_question_is_answered_in_words(path: str, status: int) -> None:
    async with started("h200x2", pprof_path="debug/pprof/", metrics_path="") as node:
        with pytest.raises(urllib.error.HTTPError) as refused:
            await page(node, path)
        assert refused.value.code == status
        assert b"Traceback" not in refused.value.read()


async def test_by_default_no_profile_is_served() -> None:
    async with started("h200x2") as node:
        with pytest.raises(urllib.error.HTTPError):
            await page(node, "/debug/pprof")
