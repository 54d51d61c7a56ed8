"""The plugin as a process of its own beside Fabric Manager: the stand-in library, its partitions, its restarts."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nvdra_mock_nvml import MockFabric, lay_fabric

from tests.contract.plugin_node import PluginNode, plugin_node, until

GATES = {"feature_gates": "FabricManagerPartitioning=true"}
ALL, LEFT, RIGHT, FIRST_PAIR = 0, 1, 2, 3


@pytest.fixture(params=["h100x8", "gpus16"])
async def node(request: pytest.FixtureRequest) -> AsyncIterator[PluginNode]:
    async with plugin_node(request.param) as made:
        yield made


@pytest.fixture
def fabric(node: PluginNode) -> MockFabric:
    return lay_fabric(node.root)


def published(node: PluginNode) -> dict[str, dict[str, Any]]:
    slices = node.kube.objects("resourceslices")
    return {device["name"]: device["attributes"] for each in slices for device in each["spec"]["devices"]}


def members(node: PluginNode, partition: int) -> list[str]:
    """The GPUs that say that they are in a partition, as a scheduler with a constraint on the attribute sees them."""
    return sorted(
        name
        for name, values in published(node).items()
        if any(key.startswith("partition") and value == {"int": partition} for key, value in values.items())
    )


async def has_attributes(node: PluginNode) -> None:
    await until(lambda: any("gpuModuleID" in values and "partition1" in values for values in published(node).values()))


async def test_a_claim_of_a_partition_activates_it_over_one_connection(node: PluginNode, fabric: MockFabric) -> None:
    await node.start(**GATES)
    await has_attributes(node)
    half = len(node.root.portrait.gpus) // 2
    left = members(node, LEFT)
    assert len(left) == half
    ref = await node.claim(*left)
    await node.prepared(ref)
    assert fabric.active() == {LEFT}
    other = await node.claim(*members(node, RIGHT)[:3])
    assert "does not match any FM partition" in await node.refused(other)
    await node.released(ref)
    assert fabric.active() == set()
    assert fabric.calls()["fmConnect"] == 1
    await node.stop()
    assert fabric.calls()["fmDisconnect"] == 1


async def test_the_plugin_waits_for_fabric_manager_and_outlives_it(node: PluginNode) -> None:
    fabric = lay_fabric(node.root, is_running=False)
    await node.start(**GATES)
    await until(lambda: "claims of GPUs wait for it" in node.log)
    assert all("partition1" not in values for values in published(node).values())
    ref = await node.claim("gpu-8" if node.root.portrait.name == "gpus16" else "gpu-0")
    assert "Fabric Manager is not ready: fmConnect to " in await node.refused(ref)
    fabric.start()
    await has_attributes(node)
    await node.prepared(ref)
    assert len(fabric.active()) == 1
    fabric.start()  # again: nothing is active any more, and the plugin's connection has ended
    await node.released(ref)
    await node.prepared(ref)
    assert len(fabric.active()) == 1
    await node.stop(signal.SIGKILL)
    await node.start(**GATES)
    await until(lambda: node.log.count("Read the fabric partitions") == 2)
    await node.released(ref)
    assert fabric.active() == set()


async def test_without_a_fabric_the_gate_changes_nothing(node: PluginNode) -> None:
    await node.start(**GATES)
    await until(lambda: "no NVSwitch fabric" in node.log)
    ref = await node.claim(sorted(published(node))[0])
    await node.prepared(ref)
    assert all(not key.startswith("partition") for values in published(node).values() for key in values)
    await node.released(ref)
