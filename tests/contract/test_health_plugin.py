"""The plugin as a process of its own with device health: events of the mock's GPUs become taints, and end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nvdra.kubelet.device_health import METHODS
from nvdra.kubelet.proto.dra_health.v1 import api_pb2 as pb
from nvdra.kubelet.proto.pluginregistration.v1.api_pb2 import PluginInfo
from nvdra.kubelet.registration import GET_INFO
from nvdra.kubelet.transport import Client, RpcError
from nvdra.ports import Resource
from nvdra.testing.objects import Kind
from tests.contract.plugin_node import PluginNode, plugin_node, until

GATES = {"feature_gates": "NVMLDeviceHealthCheck=true"}
NVDRA = str(Path(sys.executable).with_name("nvdra"))
XID = "gpu.nvidia.com/xid"


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    async with plugin_node("h100x8", gpus=(0, 1)) as made:
        yield made


def taints(node: PluginNode) -> dict[str, list[tuple[str, str, str]]]:
    """Devices with taints, as published."""
    return {
        device["name"]: [(taint["key"], taint.get("value", ""), taint["effect"]) for taint in device["taints"]]
        for stored in node.kube.objects("resourceslices")
        for device in stored["spec"].get("devices", ())
        if device.get("taints")
    }


async def monitored(node: PluginNode) -> None:
    """Wait until events are received: NVML was asked to send them."""
    await until(lambda: node.root.calls().get("nvmlEventSetWait_v2"), "a wait for events")


def writes(node: PluginNode) -> int:
    return node.kube.calls["update", "resourceslices"] + node.kube.calls["create", "resourceslices"]


async def waited_again(node: PluginNode) -> None:
    """Wait until a wait for events began after now, and has registered what it waits for."""
    waits = node.root.calls()["nvmlEventSetWait_v2"]
    await until(lambda: node.root.calls()["nvmlEventSetWait_v2"] > waits + 1, "events to be waited for again")


async def started(node: PluginNode, **flags: str) -> None:
    node.root.count_calls()
    await node.start(**{**GATES, **flags})
    await monitored(node)


async def test_an_xid_becomes_a_taint_of_its_gpu_alone(node: PluginNode) -> None:
    await started(node)
    node.root.fire_event(1, "xid", 79)
    await until(lambda: taints(node), "a taint")
    assert taints(node) == {"gpu-1": [(XID, "79", "NoSchedule")]}


async def test_the_xid_of_a_program_is_published_without_effect(node: PluginNode) -> None:
    await started(node, additional_xids_to_ignore="94, x,")
    node.root.fire_event(0, "xid", 31)
    node.root.fire_event(1, "xid", 94)
    both = {"gpu-0": [(XID, "31", "None")], "gpu-1": [(XID, "94", "None")]}
    await until(lambda: taints(node) == both, "two taints without effect")


async def test_a_taint_is_published_within_a_tenth_of_a_second(node: PluginNode) -> None:
    await started(node)
    took = []
    for minor, xid in ((0, 48), (1, 79)):
        await asyncio.sleep(1.2)  # further events within a second are published together
        began = time.monotonic()
        node.root.fire_event(minor, "xid", xid)
        await until(lambda name=f"gpu-{minor}": name in taints(node), "a taint")
        took.append(time.monotonic() - began)
    assert min(took) < 0.1, took


async def test_a_burst_of_a_hundred_events_is_published_twice_at_most(node: PluginNode) -> None:
    await started(node)
    before = writes(node)
    for number in range(100):
        node.root.fire_event(number % 2, "xid", 48 + number // 2)
    last = {f"gpu-{minor}": [(XID, "97", "NoSchedule")] for minor in (0, 1)}
    await until(lambda: taints(node) == last, "the last of a hundred events")
    assert writes(node) - before <= 2


async def test_a_taint_outlives_the_plugin(node: PluginNode) -> None:
    await started(node)
    node.root.fire_event(1, "xid", 79)
    await until(lambda: taints(node), "a taint")
    await node.stop(signal.SIGKILL)
    await node.wipe_slices()
    await node.start(**GATES)
    await until(lambda: taints(node) == {"gpu-1": [(XID, "79", "NoSchedule")]}, "the taint")


async def test_only_the_lost_gpu_is_tainted(node: PluginNode) -> None:
    await started(node)
    node.root.set_faults(
        [{"minor": 1, "lost": True}, {"function": "nvmlEventSetWait_v2", "code": "GPU_IS_LOST", "times": 1}]
    )
    await until(lambda: taints(node), "a taint")
    assert taints(node) == {"gpu-1": [("gpu.nvidia.com/gpu-lost", "", "NoSchedule")]}
    await waited_again(node)
    node.root.fire_event(0, "xid", 48)
    await until(lambda: "gpu-0" in taints(node), "the other GPU to be watched still")


async def test_a_gpu_that_waits_for_a_reset_is_not_held(node: PluginNode) -> None:
    await started(node)
    node.root.set_recovery_action(1, 1)
    node.root.fire_event(1, "xid", 79)  # what is needed is read within some seconds
    both = [("gpu.nvidia.com/recovery-action", "gpu-reset", "NoSchedule"), (XID, "79", "NoSchedule")]
    await until(lambda: taints(node) == {"gpu-1": both}, "what NVML says is needed")
    nodes = node.root.root / "dev"
    await until(lambda: nodes / "nvidia1" not in held(node) and nodes / "nvidia0" in held(node), "the GPU to be let go")


def held(node: PluginNode) -> set[Path]:
    """Files that the program has open."""
    found = set()
    for descriptor in Path(f"/proc/{node.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(descriptor.readlink())
    return found


async def test_a_driver_replaced_while_events_are_waited_for_is_taken_up(node: PluginNode) -> None:
    await started(node)
    sessions = node.root.calls()["nvmlEventSetCreate"]
    node.root = node.root.replace_driver("590.10.01")
    await until(lambda: "The driver was replaced, starting anew" in node.log, "the plugin to notice")
    await until(lambda: node.root.calls()["nvmlEventSetCreate"] > sessions, "a session with the new driver")
    await waited_again(node)
    node.root.fire_event(0, "xid", 48)
    await until(lambda: taints(node) == {"gpu-0": [(XID, "48", "NoSchedule")]}, "an event of the new driver")


async def test_refused_and_slow_writes_delay_the_taint_and_lose_nothing(node: PluginNode) -> None:
    await started(node)
    node.kube.fail(500, times=3, verb="update", plural="resourceslices")
    node.root.fire_event(0, "xid", 48)
    await until(lambda: taints(node) == {"gpu-0": [(XID, "48", "NoSchedule")]}, "the taint")
    node.kube.delay_s = 0.3
    node.root.fire_event(1, "xid", 79)
    await until(lambda: "gpu-1" in taints(node), "the other taint")


async def test_an_administrator_s_rule_stands_beside_the_taint(node: PluginNode) -> None:
    node.kube.kinds["resource.k8s.io", "devicetaintrules"] = Kind(
        "resource.k8s.io", "devicetaintrules", "DeviceTaintRule", False
    )
    rules = Resource("resource.k8s.io", "v1", "devicetaintrules", namespaced=False)
    spec = {"deviceSelector": {"device": "gpu-0"}, "taint": {"key": "repair", "effect": "NoExecute"}}
    made = await node.kube.create(rules, json.dumps({"metadata": {"name": "repair"}, "spec": spec}).encode())
    await started(node)
    node.root.fire_event(0, "xid", 48)
    await until(lambda: taints(node) == {"gpu-0": [(XID, "48", "NoSchedule")]}, "the taint")
    assert await node.kube.get(rules, "repair") == made


# ── partitions ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_partitions_are_made_while_health_is_watched_and_the_one_hit_is_tainted(node: PluginNode) -> None:
    await started(node, feature_gates="NVMLDeviceHealthCheck=true,DynamicMIG=true")
    ref = await node.claim("gpu-0-mig-1g10gb-19-0")
    assert await node.prepared(ref) == ["gpu-0-mig-1g10gb-19-0"]
    (gi,) = node.root.gpu_instances(0)
    await waited_again(node)
    node.root.fire_event(0, "xid", 48, gi=gi, ci=0)
    await until(lambda: taints(node) == {"gpu-0-mig-1g10gb-19-0": [(XID, "48", "NoSchedule")]}, "the taint")
    node.root.fire_event(1, "xid", 79)
    await until(lambda: len(taints(node)) > 2, "the taints of another whole GPU")
    assert {name.partition("-mig")[0] for name in taints(node)} == {"gpu-0", "gpu-1"}
    await node.released(ref)
    assert not node.root.gpu_instances(0)


async def test_events_missed_while_mig_mode_changes_show_in_the_recovery_action(node: PluginNode) -> None:
    await started(node, feature_gates="NVMLDeviceHealthCheck=true,DynamicMIG=true")
    node.root.set_recovery_action(1, 2)
    await node.prepared(await node.claim("gpu-0-mig-1g10gb-19-0"))
    await until(lambda: "gpu-1" in taints(node), "what was missed")
    assert taints(node)["gpu-1"] == [("gpu.nvidia.com/recovery-action", "node-reboot", "NoSchedule")]


# ── kubelet ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", METHODS)
async def test_kubelet_is_told_the_health_of_every_device_at_once(node: PluginNode, method: str) -> None:
    await started(node)
    client = Client(f"unix:{node.plugin_dir}/dra.sock")
    try:
        reports = client.stream(method, timeout_s=30)
        assert {d.device.device_name: d.health for d in (await report(reports)).devices} == {"gpu-0": 1, "gpu-1": 1}
        node.root.fire_event(1, "xid", 79)
        while (told := (await report(reports)).devices)[1].health != pb.UNHEALTHY:
            pass
        assert [(d.device.pool_name, d.device.device_name, d.health) for d in told] == [
            ("node-a", "gpu-0", pb.HEALTHY),
            ("node-a", "gpu-1", pb.UNHEALTHY),
        ]
        assert told[1].message == "XID 79: a GPU error"
        assert told[1].health_check_timeout_seconds == 30
        assert abs(told[1].last_updated_time - time.time()) < 60
        assert await node.stop() == 0, "an open stream does not delay the end"
    finally:
        await client.close()


async def report(reports: AsyncIterator[bytes]) -> pb.NodeWatchResourcesResponse:
    return pb.NodeWatchResourcesResponse.FromString(await anext(reports))


@pytest.mark.parametrize("is_on", [True, False])
async def test_the_service_is_advertised_only_with_the_gate(node: PluginNode, is_on: bool) -> None:
    await node.start(**(GATES if is_on else {}))
    (registration,) = node.registry.glob("*-reg.sock")
    client = Client(f"unix:{registration}")
    try:
        told = PluginInfo.FromString(await client.call(GET_INFO, timeout_s=10))
    finally:
        await client.close()
    health = ["v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"] if is_on else []
    assert told.supported_versions == ["v1.DRAPlugin", "v1beta1.DRAPlugin", *health]


async def test_without_the_gate_a_stream_is_open_and_silent(node: PluginNode) -> None:
    await node.start()
    client = Client(f"unix:{node.plugin_dir}/dra.sock")
    try:
        with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
            await anext(client.stream(METHODS[1], timeout_s=1))
    finally:
        await client.close()
    assert "nvmlEventSetCreate" not in node.root.calls()


# ── nvdra health ───────────────────────────────────────────────────────────────────────────────────────────────


async def nvdra(node: PluginNode, *arguments: str) -> tuple[int, str]:
    """Exit status and output of `nvdra health …`."""
    process = await asyncio.create_subprocess_exec(
        NVDRA,
        "health",
        *arguments,
        f"--kubelet-plugins-directory-path={node.plugin_dir.parent}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_faults_are_shown_and_cleared_by_command(node: PluginNode) -> None:
    await started(node)
    assert (node.plugin_dir / "health.sock").stat().st_mode & 0o777 == 0o600
    assert await nvdra(node, "show") == (0, "no GPU has a fault\n")
    node.root.fire_event(1, "xid", 79)
    await until(lambda: taints(node), "a taint")
    status, shown = await nvdra(node, "show")
    assert (status, shown.startswith("gpu-1: XID 79: a GPU error (NoSchedule, last seen ")) == (0, True)
    status, refused = await nvdra(node, "clear", "gpu-0")
    assert (status, refused) == (1, "Error: device gpu-0 has no fault\n")
    status, cleared = await nvdra(node, "clear", "gpu-1")
    assert (status, cleared) == (0, f"{XID}=79:NoSchedule of GPU 0000:43:00.0\n")
    await until(lambda: not taints(node), "the taint to go")


async def test_a_paused_plugin_holds_no_gpu_until_it_is_resumed(node: PluginNode) -> None:
    await started(node)
    device = node.root.root / "dev/nvidia0"
    assert device in held(node)
    assert (await nvdra(node, "pause"))[0] == 0
    await until(lambda: device not in held(node), "the GPUs to be let go")
    await until(lambda: len(taints(node)) == 2, "both GPUs to be unmonitored")
    assert (await nvdra(node, "resume"))[0] == 0
    await until(lambda: device in held(node) and not taints(node), "the GPUs to be watched again")


async def test_the_command_says_what_is_missing_where_no_plugin_answers(node: PluginNode) -> None:
    status, text = await nvdra(node, "show")
    assert status == 1
    assert "health.sock" in text
    assert "NVMLDeviceHealthCheck" in text
    assert "Traceback" not in text


async def test_what_is_no_command_is_answered_and_nothing_else_happens(node: PluginNode) -> None:
    await started(node)
    for line in (b"{}\n", b"\xff\n", b'{"do": "format"}\n', b"[1]\n", b"\n", b"x" * 10_000 + b"\n"):
        reader, writer = await asyncio.open_unix_connection(str(node.plugin_dir / "health.sock"))
        writer.write(line)
        answer = await asyncio.wait_for(reader.readline(), 10)
        assert not answer or "error" in json.loads(answer)
        writer.close()
    assert (await nvdra(node, "show"))[0] == 0
