"""Topology: from NVML's matrix and sysfs' places to attributes that claims can match on."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from nvdra.api import gates
from nvdra.gpu import Inventory, NvLink, PciFacts, from_scan, published
from nvdra.gpu.shares import Shares, shared
from nvdra.gpu.topology import Locality
from nvdra.slices import device_problems
from tests.unit.gpu.scans import gpu_scan, h200_scan, instance, node_scan

OFF = gates.defaults()
NAMES = ("nvlinkDomain", "nvlinkCount", "pcieSwitch", "cpuSocket")
NUMA = "resource.kubernetes.io/numaNode"
SWITCH = "FFFFFFFF:FF:FF.0"


def links(count: int, *, active: bool = True) -> tuple[NvLink, ...]:
    """Links that end in a switch, as NVML tells of them on a real H200."""
    return tuple(NvLink(number, active, 6, SWITCH, 2) for number in range(count))


def linked(*groups: tuple[int, ...]) -> dict[tuple[int, int], int]:
    """A P2P matrix in which the pairs of each group reach each other."""
    return {pair: 0 for group in groups for pair in permutations(group, 2)}


def found(*gpus: Any, p2p: dict[tuple[int, int], int] | None = None, **localities: Locality) -> Inventory:
    places = {f"0000:{number[1:]}:00.0": each for number, each in localities.items()}
    return from_scan(node_scan(*gpus, p2p=p2p or {}), {}, localities=places)


def told(inventory: Inventory, name: str) -> dict[str, Any]:
    device = inventory.devices[name]
    attributes = published(device, OFF, inventory.topology[name])["attributes"]
    return {key: next(iter(attributes[key].values())) for key in (*NAMES, NUMA) if key in attributes}


def test_two_gpus_behind_a_switch_share_a_domain_by_the_matrix_not_by_far_ends():
    two = found(gpu_scan(0, nvlinks=links(18)), gpu_scan(1, nvlinks=links(18)), p2p=linked((0, 1)))
    assert told(two, "gpu-0") == told(two, "gpu-1") == {"nvlinkDomain": "0000:01:00.0", "nvlinkCount": 18}
    apart = found(gpu_scan(0, nvlinks=links(18)), gpu_scan(1, nvlinks=links(18)), p2p={(0, 1): 5, (1, 0): 5})
    assert told(apart, "gpu-0")["nvlinkDomain"] != told(apart, "gpu-1")["nvlinkDomain"]


@pytest.mark.parametrize(
    ("p2p", "domains"),
    [
        # Bridges between pairs; a mesh with gaps, as eight V100 have; one direction only; pairs that were not told.
        (linked((0, 1), (2, 3)), [{0, 1}, {2, 3}]),
        (linked((0, 1, 2), (1, 2, 3)), [{0, 1, 2}, {3}]),
        ({(0, 1): 0, (1, 0): 5, **linked((2, 3))}, [{0}, {1}, {2, 3}]),
        ({(0, 1): 0}, [{0}, {1}, {2}, {3}]),
    ],
)
def test_any_two_gpus_of_a_domain_are_linked(p2p, domains):
    node = found(*(gpu_scan(minor, nvlinks=links(4)) for minor in range(4)), p2p=p2p)
    by_domain: dict[str, set[int]] = {}
    for minor in range(4):
        by_domain.setdefault(told(node, f"gpu-{minor}")["nvlinkDomain"], set()).add(minor)
    assert list(by_domain.values()) == domains


def test_a_gpu_without_nvlink_has_neither_domain_nor_count():
    assert told(found(gpu_scan(0)), "gpu-0") == {}
    # Links that are all down: counted, and no domain.
    assert told(found(gpu_scan(0, nvlinks=links(18, active=False))), "gpu-0") == {"nvlinkCount": 0}


def test_the_order_of_gpus_in_the_scan_does_not_name_the_domain():
    one, other = gpu_scan(0, nvlinks=links(2)), gpu_scan(1, nvlinks=links(2))
    assert told(found(one, other, p2p=linked((0, 1))), "gpu-1") == told(found(other, one, p2p=linked((0, 1))), "gpu-1")


def test_what_sysfs_says_of_the_place_is_published():
    node = found(gpu_scan(0), gpu_scan(1), n01=Locality(cpu_socket=1, pcie_switch="0000:16:00.0"))
    assert told(node, "gpu-0") == {"cpuSocket": 1, "pcieSwitch": "0000:16:00.0"}
    assert told(node, "gpu-1") == {}


def test_the_numa_node_comes_from_nvml_where_sysfs_has_none():
    assert told(found(gpu_scan(0, memory_affinity=(1,))), "gpu-0") == {NUMA: 1}
    assert told(found(gpu_scan(0, memory_affinity=(0, 1))), "gpu-0") == {}
    facts = {"0000:01:00.0": PciFacts(numa_node=0)}
    both = from_scan(node_scan(gpu_scan(0, memory_affinity=(1,))), facts, localities={})
    assert told(both, "gpu-0") == {NUMA: 0}


def test_nothing_of_it_is_known_unless_it_is_asked_for():
    off = from_scan(node_scan(gpu_scan(0, nvlinks=links(18))), {})
    assert off.topology == {}
    (gpu,) = off.devices.values()
    assert not set(published(gpu, OFF, off.topology.get("gpu-0"))["attributes"]) & set(NAMES)


def test_a_gpu_that_cannot_be_published_does_not_spoil_the_others():
    node = found(gpu_scan(0, uuid=""), gpu_scan(1, nvlinks=links(1)), p2p=linked((0, 1)))
    assert told(node, "gpu-1")["nvlinkCount"] == 1
    assert found(gpu_scan(0, pci_bus_id="nonsense")).topology == {}


def test_the_fullest_device_stays_within_the_apis_limit():
    """A MIG device of a whole GPU: all attributes, seven capacities, eight memory slices, shares."""
    seen = h200_scan(0, instance(0, 0, 8, compute=4), nvlinks=links(18), memory_affinity=(0,))
    facts = {"0000:00:06.0": PciFacts(numa_node=0, pcie_root="pci0000:00")}
    places = {"0000:00:06.0": Locality(cpu_socket=0, pcie_switch="0000:16:00.0")}
    node = from_scan(node_scan(seen), facts, localities=places)
    (device,) = node.devices.values()
    made = shared(published(device, OFF, node.topology[device.name]), Shares("4"))
    assert len(made["attributes"]) + len(made["capacity"]) <= 32
    assert device_problems(made) == ()
    assert {"pcieSwitch", "cpuSocket"} <= made["attributes"].keys()
    assert not {"nvlinkDomain", "nvlinkCount"} & made["attributes"].keys()
