"""Topology from a whole mock node to the slices: two H200 as measured, eight H100 of a board."""

from __future__ import annotations

from typing import Any

from tests.contract.plugin_node import PluginNode, plugin_node

NAMES = {"nvlinkDomain", "nvlinkCount", "pcieSwitch", "cpuSocket"}


def attributes(node: PluginNode) -> dict[str, dict[str, Any]]:
    return {
        device["name"]: {name: next(iter(value.values())) for name, value in device["attributes"].items()}
        for stored in node.kube.objects("resourceslices")
        for device in stored["spec"].get("devices") or ()
    }


async def test_two_measured_h200_are_one_nvlink_domain() -> None:
    async with plugin_node("h200x2") as node:
        await node.start(topology_attributes="true")
        found = attributes(node)
    assert [found[name]["nvlinkCount"] for name in sorted(found)] == [18, 18]
    assert {each["nvlinkDomain"] for each in found.values()} == {"0000:00:06.0"}
    # sysfs says -1; NVML and the one socket of the machine say where it is all the same.
    assert {(each["resource.kubernetes.io/numaNode"], each["cpuSocket"]) for each in found.values()} == {(0, 0)}


async def test_a_board_of_eight_is_one_domain_on_two_sockets() -> None:
    async with plugin_node("h100x8") as node:
        await node.start(topology_attributes="true")
        found = attributes(node)
    assert len({each["nvlinkDomain"] for each in found.values()}) == 1
    assert sorted(each["cpuSocket"] for each in found.values()) == [0] * 4 + [1] * 4
    assert found["gpu-0"]["pcieSwitch"] == "0000:16:00.0"
    assert len({each["pcieSwitch"] for each in found.values()}) == 8


async def test_by_default_no_device_says_where_it_lies() -> None:
    async with plugin_node("h200x2") as node:
        await node.start()
        assert not NAMES & {name for each in attributes(node).values() for name in each}
