"""Which of our devices a device plugin's device is, whatever form its id has."""

from __future__ import annotations

import pytest

from nvdra.gpu import Inventory, from_scan
from nvdra.gpu.coexistence import Assignment, given_out, refusal, taints
from nvdra.gpu.taints import merged, with_taints
from tests.unit.claims.world import h200s
from tests.unit.gpu.scans import gpu_scan, h200_scan, instance, inventory, node_scan, uuid_of

MIG = "MIG-19-0"


def held(device_id: str, resource: str = "nvidia.com/gpu") -> Assignment:
    return Assignment("ns", "other", "main", resource, device_id)


def names(device_id: str, node: Inventory, resource: str = "nvidia.com/gpu") -> set[str]:
    return set(given_out([held(device_id, resource)], node))


@pytest.mark.parametrize(
    ("device_id", "resource", "wanted"),
    [
        (uuid_of(1), "nvidia.com/gpu", {"gpu-1"}),
        (uuid_of(1), "example.com/renamed", {"gpu-1"}),
        (f"{uuid_of(1)}::3", "nvidia.com/gpu.shared", {"gpu-1"}),
        ("1", "nvidia.com/gpu", {"gpu-1"}),
        ("1::0", "nvidia.com/gpu", {"gpu-1"}),
        ("1:0", "nvidia.com/mig-1g.10gb", {"gpu-1"}),
        # An IOMMU group, another vendor's number, hardware that is not here, nothing that makes sense.
        ("1", "nvidia.com/GH100_H200", set()),
        ("1", "example.com/nic", set()),
        ("77", "nvidia.com/gpu", set()),
        ("GPU-of-another-node", "nvidia.com/gpu", set()),
        ("", "nvidia.com/gpu", set()),
        ("::1", "nvidia.com/gpu", set()),
    ],
)
def test_an_id_is_a_uuid_a_replica_or_an_index(device_id: str, resource: str, wanted: set[str]) -> None:
    assert names(device_id, inventory(3), resource) == wanted


def test_an_index_is_nvmls_not_the_minor_number() -> None:
    node = from_scan(node_scan(gpu_scan(0, index=1), gpu_scan(1, index=0)), {})
    assert names("0", node) == {"gpu-1"}


def test_a_mig_device_takes_what_overlaps_it_and_no_more() -> None:
    node = h200s(h200_scan(0, instance(19, 0, 1), instance(19, 3, 1)), h200_scan(1))
    taken = names(MIG, node, "nvidia.com/mig-1g.18gb")
    assert "gpu-0" in taken
    assert "gpu-0-mig-1g18gb-19-0" in taken
    assert "gpu-0-mig-1g18gb-19-3" not in taken
    assert not any(name.startswith("gpu-1") for name in taken)


def test_a_full_gpu_takes_all_its_partitions() -> None:
    node = h200s(h200_scan(0), h200_scan(1))
    gpu = next(each for each in node.gpus.values() if each.name == "gpu-0")
    assert names(gpu.uuid, node) == {name for name in node.devices if name.split("-")[1] == "0"}


def test_the_refusal_names_the_pod_and_what_to_do() -> None:
    text = refusal("gpu-1", held(uuid_of(1)))
    assert f"gpu-1 is in use by pod ns/other (container main, nvidia.com/gpu {uuid_of(1)})" in text
    assert "delete that pod" in text


def test_taints_of_several_sources_stand_side_by_side() -> None:
    ours = taints(given_out([held(uuid_of(0))], inventory(1)))
    health = {"gpu-0": ({"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"},)}
    both = merged({"health": health, "device plugin": ours})
    keys = [taint["key"] for taint in with_taints({"name": "gpu-0"}, both)["taints"]]
    assert keys == ["gpu.nvidia.com/device-plugin", "gpu.nvidia.com/xid"]
    assert with_taints({"name": "gpu-1"}, both) == {"name": "gpu-1"}
    # What another part tainted before stays.
    assert len(with_taints({"name": "gpu-0", "taints": [{"key": "mine", "effect": "NoSchedule"}]}, ours)["taints"]) == 2
