"""The plugin as a process of its own with device health: events of the mock's GPUs become taints, and end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.plugin_node import PluginNode, plugin_node, until

GATES = {"feature_gates": "NVMLDeviceHealthCheck=true"}
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
