"""Pods are given partitions of a GPU: an administrator's, and those that are made for their claims.

The GPU is the last one of the node; the others stay whole. Its partitions are looked at from inside the containers, in
the claim, the CDI document, the checkpoint, and on the GPU itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from nvdra_mock_nvml import Root
from nvdra_mock_nvml.partitions import MigDevice

from tests.cluster.harness.api import Api, Object, pod_phase, wait_until
from tests.cluster.harness.claims import claim, claim_of, given, remove, seen, user, wait_running
from tests.cluster.harness.driver import DRIVER, Installed, Plugin

pytestmark = pytest.mark.cluster

MINOR = 7
_MIG_UUID = re.compile(r"UUID: (MIG-[0-9a-f-]+)")


def partition(api: Api, name: str, selector: str, count: int = 1) -> Object:
    """A claim for MIG devices on the GPU of these tests."""
    body = claim(api, name, count, f"device.attributes['{DRIVER}'].{selector}")
    body["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] = "mig.nvidia.com"
    return body


def on_the_gpu(plugin: Plugin, profile: str) -> str:
    """The rest of a selector for partitions of the GPU of these tests."""
    return f"parentUUID == '{plugin.root.gpu(MINOR).uuid}' && device.attributes['{DRIVER}'].profile == '{profile}'"


def inside(api: Api, pod: str, container: str = "main") -> frozenset[str]:
    """UUIDs of the MIG devices that a container sees."""
    seen(api, pod, container)
    return frozenset(_MIG_UUID.findall(api.logs(pod, container)))


def allocated(plugin: Plugin, pod: str) -> frozenset[str]:
    """UUIDs of the MIG devices of a pod's claim, on which claim, CDI document, checkpoint and GPU must agree."""
    body = claim_of(plugin.cluster.api, pod)
    uid = body["metadata"]["uid"]
    names = {each["device"] for each in body["status"]["allocation"]["devices"]["results"]}
    entry = plugin.checkpoint()[uid]
    assert entry["checkpointState"] == "PrepareCompleted"
    recorded = [device["mig"] for group in entry["preparedDevices"] for device in group["devices"]]
    assert {each["device"]["DeviceName"] for each in recorded} == names
    live = {device.uuid: device for device in plugin.root.mig_devices(MINOR)}
    document = plugin.document(uid)
    assert document is not None
    paths = {node["path"] for each in document["devices"] for node in each["containerEdits"]["deviceNodes"]}
    for each in recorded:
        found: MigDevice = live[each["concrete"]["migUUID"]]
        assert (found.gi, found.ci) == (each["concrete"]["giId"], each["concrete"]["ciId"])
        for minor in (
            plugin.root.capability_minor(MINOR, found.gi),
            plugin.root.capability_minor(MINOR, found.gi, found.ci),
        ):
            assert f"/dev/nvidia-caps/nvidia-cap{minor}" in paths
    return frozenset(each["concrete"]["migUUID"] for each in recorded)


@pytest.fixture
def bare(plugin: Plugin) -> Iterator[Root]:
    """The driver root; afterwards the GPU is not partitioned, whatever was done to it."""
    yield plugin.root
    for device in plugin.root.mig_devices(MINOR):
        plugin.root.destroy_mig(device)
    plugin.root.set_mig_mode(MINOR, False)
    plugin.wait_published()


def test_a_partition_that_was_made_beforehand(plugin: Plugin, bare: Root) -> None:
    api, root = plugin.cluster.api, bare
    whole = root.gpu(MINOR).uuid
    root.set_mig_mode(MINOR, True)
    ours, other = root.create_mig(MINOR, "1g.10gb"), root.create_mig(MINOR, "3g.40gb")

    def offered() -> bool:
        uuids = set(plugin.uuids().values())
        return {ours.uuid, other.uuid} <= uuids and whole not in uuids

    wait_until("the partitions to be offered and not their GPU", offered, 30, plugin.uuids)
    api.create(partition(api, "static", on_the_gpu(plugin, "1g.10gb")))
    api.create(user("static", "static"))
    wait_running(api, "static")
    assert inside(api, "static") == allocated(plugin, "static") == {ours.uuid}
    remove(api, ("static",), ("static",))
    assert {each.uuid for each in root.mig_devices(MINOR)} == {ours.uuid, other.uuid}


@pytest.fixture(scope="module")
def dynamic(plugin: Plugin) -> Iterator[Plugin]:
    """The driver with partitions on demand; without again afterwards."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    plugin.release.upgrade("--set=featureGates.DynamicMIG=true")
    wait_until("partitions to be offered", lambda: _partitions(plugin), 90, plugin.release.state)
    yield plugin
    plugin.release.upgrade()
    wait_until("GPUs alone to be offered", lambda: not _partitions(plugin), 90, plugin.release.state)
    plugin.wait_published()


def _partitions(plugin: Plugin) -> bool:
    return any("-mig-" in device["name"] for each in plugin.slices() for device in each["spec"].get("devices") or [])


def is_whole(plugin: Plugin) -> bool:
    """Nothing is on the GPU, and MIG mode is off."""
    return not plugin.root.gpu_instances(MINOR) and plugin.root.mig_mode(MINOR) == (False, False)


def test_a_partition_is_made_for_a_claim_of_two_containers(dynamic: Plugin) -> None:
    api = dynamic.cluster.api
    api.create(partition(api, "made", on_the_gpu(dynamic, "1g.10gb")))
    api.create(user("made", "made", containers=("first", "second")))
    wait_running(api, "made")
    assert len(allocated(dynamic, "made")) == 1
    assert inside(api, "made", "first") == inside(api, "made", "second") == allocated(dynamic, "made")
    remove(api, ("made",), ("made",))
    assert is_whole(dynamic)


def test_two_pods_on_one_gpu_and_the_whole_of_it_afterwards(dynamic: Plugin) -> None:
    api = dynamic.cluster.api
    for name, profile in (("slice-a", "1g.10gb"), ("slice-b", "3g.40gb")):
        api.create(partition(api, name, on_the_gpu(dynamic, profile)))
        api.create(user(name, name))
    wait_running(api, "slice-a", "slice-b")
    for name in ("slice-a", "slice-b"):
        assert inside(api, name) == allocated(dynamic, name)
    assert not inside(api, "slice-a") & inside(api, "slice-b")
    # The scheduler counts: while a partition lives nobody gets all of the GPU.
    uuid = dynamic.root.gpu(MINOR).uuid
    api.create(claim(api, "whole", selector=f"device.attributes['{DRIVER}'].uuid == '{uuid}'"))
    api.create(user("whole", "whole"))
    wait_until(
        "the scheduler to refuse the whole GPU",
        lambda: "cannot allocate all claims" in api.events("whole"),
        30,
        lambda: (pod_phase(api.get("Pod", "whole")), api.events("whole")),
    )
    remove(api, ("slice-a", "slice-b"), ("slice-a", "slice-b"))
    wait_running(api, "whole")
    assert is_whole(dynamic)
    assert given(dynamic, "whole") == seen(api, "whole")
    assert given(dynamic, "whole").uuids == {uuid}
    remove(api, ("whole",), ("whole",))


def test_killed_while_a_partition_is_being_made(dynamic: Plugin) -> None:
    api, root = dynamic.cluster.api, dynamic.root
    create = "nvmlGpuInstanceCreateComputeInstance"
    root.count_calls()
    root.set_faults([{"function": create, "minor": MINOR, "hang": True, "times": 1}])
    api.create(partition(api, "cut", on_the_gpu(dynamic, "2g.20gb"), count=2))
    api.create(user("cut", "cut"))
    wait_until("the compute instance to be begun", lambda: root.calls().get(create, 0) > 0, 60, dynamic.tail)
    dynamic.kill()
    root.clear_faults()
    wait_running(api, "cut")
    assert len(allocated(dynamic, "cut")) == 2
    assert inside(api, "cut") == allocated(dynamic, "cut")
    assert len(root.gpu_instances(MINOR)) == 2
    remove(api, ("cut",), ("cut",))
    assert is_whole(dynamic)
