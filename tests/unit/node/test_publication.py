"""Publication against an API server in memory, on virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from nvdra.api import gates
from nvdra.gpu import from_scan, published
from nvdra.kube import ResourceApi
from nvdra.node.publication import Publication
from nvdra.node.slice_writes import Notice
from nvdra.ports import ApiError, Page, Resource
from nvdra.slices import Pool
from nvdra.testing.clock import VirtualClock
from nvdra.testing.kube import FakeKube
from tests.unit.gpu import scans

NODES = Resource("", "v1", "nodes", namespaced=False)
SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)
OURS = "spec.driver=gpu.nvidia.com,spec.nodeName=node-a"
WRITES = ("create", "update", "delete")


def device(number: int, **more: Any) -> dict[str, Any]:
    attributes = {"uuid": {"string": f"GPU-{number}"}, "type": {"string": "gpu"}}
    return {"name": f"gpu-{number}", "attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}, **more}


def devices(*numbers: int) -> list[dict[str, Any]]:
    return [device(number) for number in numbers]


class World:
    """A node, its API server, and the publication under test."""

    def __init__(self, *, dynamic_mig: bool = False, **server: Any) -> None:
        self.clock = VirtualClock()
        self._dynamic_mig = dynamic_mig
        self.kube = FakeKube(clock=self.clock, **server)
        self.notices: list[Notice] = []
        self.publication = self._publication()
        self._running: asyncio.Task[None] | None = None

    def _publication(self) -> Publication:
        pool = Pool("gpu.nvidia.com", "node-a")
        api = ResourceApi(self.kube)
        return Publication(
            api,
            self.clock,
            pool,
            has_counters=self._dynamic_mig,
            on_notice=self.notices.append,
            jitter=lambda: 1.0,
        )

    async def add_node(self) -> str:
        made = json.loads(await self.kube.create(NODES, b'{"metadata":{"name":"node-a"}}'))
        return str(made["metadata"]["uid"])

    async def start(self) -> None:
        self._running = asyncio.create_task(self.publication.run())
        await self.clock.settle()

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None

    async def restart(self) -> None:
        """The plugin starts anew and knows nothing."""
        await self.stop()
        self.publication = self._publication()
        await self.start()

    @property
    def slices(self) -> list[dict[str, Any]]:
        return self.kube.objects("resourceslices")

    def names(self) -> list[list[str]]:
        return [[each["name"] for each in s["spec"].get("devices", ())] for s in self.slices]

    def writes(self) -> int:
        return sum(self.kube.calls[verb, "resourceslices"] for verb in WRITES)

    def told(self, kind: str) -> list[Notice]:
        return [notice for notice in self.notices if notice.kind == kind]

    async def put(self, name: str, numbers: Iterable[int], **more: Any) -> dict[str, Any]:
        """A slice of somebody else's making."""
        pool = {"name": "node-a", "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": "gpu.nvidia.com", "nodeName": "node-a", "pool": pool, "devices": devices(*numbers), **more}
        body = json.dumps({"metadata": {"name": name}, "spec": spec}).encode()
        made: dict[str, Any] = json.loads(await self.kube.create(SLICES, body))
        return made

    async def edit(self, name: str, **spec: Any) -> None:
        """Somebody else's edit."""
        stored = json.loads(await self.kube.get(SLICES, name))
        stored["spec"] |= spec
        await self.kube.update(SLICES, name, json.dumps(stored).encode())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.add_node()
    yield made
    await made.stop()


async def test_the_first_slice_has_the_shape_name_and_owner_of_the_go_drivers(world: World) -> None:
    uid = world.kube.objects("nodes")[0]["metadata"]["uid"]
    world.publication.publish(devices(0, 1))
    await world.start()
    (made,) = world.slices
    assert made["metadata"]["name"].startswith("00000-gpu.nvidia.com-node-a-")
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": uid, "controller": True}
    ]
    assert made["spec"] == {
        "driver": "gpu.nvidia.com",
        "nodeName": "node-a",
        "pool": {"name": "node-a", "generation": 1, "resourceSliceCount": 1},
        "devices": devices(0, 1),
    }
    assert world.publication.is_published
    assert world.publication.published.is_set()


async def test_no_device_is_an_empty_slice(world: World) -> None:
    world.publication.publish(())
    await world.start()
    assert world.names() == [[]]


async def test_what_is_stored_is_not_written_again(world: World) -> None:
    world.publication.publish(devices(0, 1))
    await world.start()
    writes = world.writes()
    world.publication.publish(devices(0, 1))
    await world.clock.advance(7200)
    await world.restart()
    world.publication.publish(devices(1, 0))  # the same devices in another order
    await world.clock.advance(7200)
    assert world.writes() == writes == 1
    assert world.names() == [["gpu-0", "gpu-1"]]
    assert world.publication.is_published


async def test_a_change_is_one_put_at_the_same_generation(world: World) -> None:
    world.publication.publish(devices(0, 1))
    await world.start()
    for withdrawn in ((), ("gpu-0",)):
        world.publication.publish(devices(0, 1, 2), withdrawn)
        await world.clock.settle()
    (made,) = world.slices
    assert world.names() == [["gpu-1", "gpu-2"]]
    assert made["spec"]["pool"]["generation"] == 1
    assert world.kube.calls["create", "resourceslices"] == 1
    assert world.kube.calls["update", "resourceslices"] == 2


async def test_publications_that_come_together_are_written_once(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    for last in range(1, 8):
        world.publication.publish(devices(*range(last + 1)))
    await world.clock.settle()
    assert world.kube.calls["update", "resourceslices"] == 1
    assert len(world.names()[0]) == 8


async def test_a_foreign_edit_is_repaired_after_a_second(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    await world.edit(world.slices[0]["metadata"]["name"], devices=devices(5))
    await world.clock.advance(0.9)
    assert world.names() == [["gpu-5"]]
    await world.clock.advance(0.2)
    assert world.names() == [["gpu-0"]]


async def test_two_writers_that_undo_each_other_slow_down(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    for _ in range(600):
        if world.names() == [["gpu-0"]]:
            await world.edit(world.slices[0]["metadata"]["name"], devices=devices(5))
        await world.clock.advance(1)
    repairs = world.kube.calls["update", "resourceslices"] / 2
    assert repairs < 600 / 15
    await world.clock.advance(120)
    await world.edit(world.slices[0]["metadata"]["name"], devices=devices(5))
    await world.clock.advance(1)
    assert world.names() == [["gpu-0"]]  # at peace it is quick again


async def test_stale_slices_go(world: World) -> None:
    await world.put("old", [7])
    await world.put("00001-gpu.nvidia.com-node-a-abcde", [8])
    other = {"name": "another-pool", "generation": 9, "resourceSliceCount": 1}
    await world.put("00000-gpu.nvidia.com-node-a-other", [9], pool=other)
    await world.put("00000-gpu.nvidia.com-node-b-zzzzz", [9], nodeName="node-b", pool={**other, "name": "node-b"})
    world.publication.publish(devices(0))
    await world.start()
    assert [s["spec"]["pool"] for s in world.slices if s["spec"]["nodeName"] == "node-a"] == [
        {"name": "node-a", "generation": 2, "resourceSliceCount": 1}
    ]
    assert world.names() == [["gpu-0"], ["gpu-9"]]  # that of node-b is not ours


async def test_a_slice_that_was_deleted_comes_back_in_about_a_second(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    await world.kube.delete(SLICES, world.slices[0]["metadata"]["name"])
    await world.clock.advance(0.9)
    assert world.slices == []
    await world.clock.advance(0.2)
    assert world.names() == [["gpu-0"]]
    assert world.slices[0]["spec"]["pool"]["generation"] == 1


async def test_kubelets_wipe_at_its_start_is_undone_at_once(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    world.publication.nudge()
    await world.clock.advance(3)
    await world.kube.delete_all(SLICES, field_selector="spec.nodeName=node-a")
    await world.clock.advance(0.15)
    assert world.names() == [["gpu-0"]]


async def test_a_node_made_anew_owns_the_slices_again(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    await world.kube.delete(NODES, "node-a")
    await world.clock.advance(10)
    assert world.slices == []
    assert "owns the slices, cannot be read" in str(world.told("failed")[-1].values["error"])
    uid = await world.add_node()
    await world.clock.advance(31)
    assert [s["metadata"]["ownerReferences"][0]["uid"] for s in world.slices] == [uid]


async def test_an_owner_that_was_replaced_unseen_is_read_again_when_its_slice_is_collected(world: World) -> None:
    await world.start()
    await world.kube.delete(NODES, "node-a")
    uid = await world.add_node()
    world.publication.publish(devices(0))
    await world.clock.settle()
    world.kube.collect_garbage()
    await world.clock.advance(2)
    assert [s["metadata"]["ownerReferences"][0]["uid"] for s in world.slices] == [uid]


async def test_a_write_that_finds_nothing_reads_the_owner_again(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    world.kube.end_watches(ApiError(0, "", "cut off"))
    await world.clock.settle()
    await world.kube.delete(NODES, "node-a")
    uid = await world.add_node()
    world.publication.publish(devices(0, 1))
    await world.clock.settle()
    assert [s["metadata"]["ownerReferences"][0]["uid"] for s in world.slices] == [uid]


async def test_a_node_that_is_not_there_yet_is_waited_for() -> None:
    world = World()
    world.publication.publish(devices(0))
    await world.start()
    await world.clock.advance(100)
    assert world.slices == []
    assert not world.publication.published.is_set()
    await world.add_node()
    await world.clock.advance(31)
    assert world.names() == [["gpu-0"]]
    await world.stop()


async def test_without_a_word_on_devices_nothing_is_touched(world: World) -> None:
    await world.put("00000-gpu.nvidia.com-node-a-abcde", [0, 1])
    await world.start()
    await world.clock.advance(3600)
    assert world.names() == [["gpu-0", "gpu-1"]]
    assert world.writes() == 1  # the one above
    world.publication.publish(devices(0))
    await world.clock.settle()
    assert world.names() == [["gpu-0"]]


async def test_a_pool_that_another_instance_keeps_is_left_to_it(world: World) -> None:
    await world.put("00000-gpu.nvidia.com-node-a-abcde", [0])
    world.publication.hold()
    world.publication.publish(devices(0, 1))
    await world.start()
    world.publication.nudge()
    await world.clock.advance(3600)
    assert world.names() == [["gpu-0"]]
    world.publication.resume()
    await world.clock.settle()
    assert world.names() == [["gpu-0", "gpu-1"]]
    world.publication.hold()
    await world.edit("00000-gpu.nvidia.com-node-a-abcde", devices=devices(4))
    await world.clock.advance(3600)
    assert world.names() == [["gpu-4"]]
    # What is wanted meanwhile is not forgotten.
    world.publication.publish(devices(2))
    world.publication.resume()
    await world.clock.settle()
    assert world.names() == [["gpu-2"]]


async def test_a_conflict_is_answered_at_once_with_the_newest_object(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    name = world.slices[0]["metadata"]["name"]
    world.kube.end_watches(ApiError(0, "", "cut off"))  # the edit is not seen
    await world.clock.settle()
    await world.edit(name, devices=devices(5))
    world.publication.publish(devices(0, 1))
    await world.clock.settle()
    assert world.names() == [["gpu-0", "gpu-1"]]
    assert world.slices[0]["metadata"]["name"] == name


async def test_a_deletion_nobody_told_of_is_found_by_the_write(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    world.kube.end_watches(ApiError(0, "", "cut off"))
    await world.clock.settle()
    await world.kube.delete(SLICES, world.slices[0]["metadata"]["name"])
    world.publication.publish(devices(0, 1))
    await world.clock.settle()
    assert world.names() == [["gpu-0", "gpu-1"]]


async def test_an_api_server_that_is_away_is_asked_again_within_30_seconds(world: World) -> None:
    world.kube.go_away()
    world.publication.publish(devices(0))
    await world.start()
    await world.clock.advance(900)
    assert not world.publication.is_published
    assert len(world.told("failed")) < 900 / 15
    world.kube.heal()
    await world.clock.advance(30)
    assert world.names() == [["gpu-0"]]
    world.kube.go_away()
    world.publication.publish(devices(0, 1))
    await world.clock.advance(900)
    assert not world.publication.is_published
    world.kube.heal()
    await world.clock.advance(30)
    assert world.names() == [["gpu-0", "gpu-1"]]
    assert world.publication.is_published


async def test_a_forgotten_past_leads_to_a_new_list(world: World) -> None:
    world.publication.publish(devices(0))
    await world.start()
    name = world.slices[0]["metadata"]["name"]
    world.kube.end_watches(ApiError(0, "", "cut off"))
    await world.clock.settle()
    await world.edit(name, devices=devices(5))
    world.kube.compact()
    await world.clock.advance(5)
    assert world.names() == [["gpu-0"]]


async def test_retry_after_is_honoured(world: World) -> None:
    await world.start()
    world.kube.fail(429, verb="create", retry_after_s=120)
    world.publication.publish(devices(0))
    await world.clock.settle()
    asked = world.kube.calls["create", "resourceslices"]
    for _ in range(11):
        world.publication.nudge()
        await world.clock.advance(10)
    assert world.kube.calls["create", "resourceslices"] == asked == 1
    await world.clock.advance(15)
    assert world.names() == [["gpu-0"]]


async def test_a_refused_slice_is_tried_again_without_haste(world: World) -> None:
    await world.start()
    world.kube.fail(403, verb="create", times=1000, message="denied by policy")
    world.publication.publish(devices(0))
    await world.clock.advance(600)
    tries = world.kube.calls["create", "resourceslices"]
    assert 600 / 30 <= tries <= 600 / 30 + 10
    assert "denied by policy" in str(world.told("failed")[-1].values["error"])
    world.kube.heal()
    await world.clock.advance(30)
    assert world.names() == [["gpu-0"]]


async def test_a_device_no_server_would_take_is_left_out_and_named_once(world: World) -> None:
    bad = device(1, attributes={"productName": {"string": "x" * 65}})
    for _ in range(3):
        world.publication.publish([device(0), bad])
    await world.start()
    assert world.names() == [["gpu-0"]]
    (notice,) = world.told("left_out")
    assert notice.values["device"] == "gpu-1"
    assert "at most 64" in str(notice.values["reason"])


async def test_dropped_fields_are_reported_once_per_change_and_sent_again_after_an_outage() -> None:
    world = World(drops=["taints"])
    await world.add_node()
    tainted = device(0, taints=[{"key": "gpu.nvidia.com/xid", "effect": "NoSchedule"}])
    world.publication.publish([tainted])
    await world.start()
    await world.clock.advance(600)
    (notice,) = world.told("dropped")
    assert notice.values["gates"] == "DRADeviceTaints"
    assert world.publication.is_published
    assert world.writes() == 1
    world.publication.publish([tainted, device(1)])
    await world.clock.settle()
    assert world.writes() == 2
    world.kube.go_away()
    await world.clock.advance(60)
    world.kube.heal()
    await world.clock.advance(60)
    assert world.writes() > 2
    assert len(world.told("dropped")) == 2
    world.kube.go_away()
    await world.clock.advance(60)
    world.kube.heal()
    world.kube.drops = frozenset()  # the server came back with the feature on
    await world.clock.advance(60)
    assert world.slices[0]["spec"]["devices"] == [tainted, device(1)]
    assert len(world.told("dropped")) == 2
    await world.stop()


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
async def test_slices_are_written_in_the_version_the_server_has(version: str) -> None:
    world = World(versions=(version,))
    await world.add_node()
    world.publication.publish(devices(0))
    await world.start()
    await world.clock.advance(3600)
    (made,) = world.kube.objects("resourceslices", version)
    shape = {"name": "gpu-0", "basic": {k: v for k, v in device(0).items() if k != "name"}}
    assert made["apiVersion"] == f"resource.k8s.io/{version}"
    assert made["spec"]["devices"] == [shape if version == "v1beta1" else device(0)]
    assert world.writes() == 1
    await world.restart()
    world.publication.publish(devices(0))
    await world.clock.advance(10)
    assert world.writes() == 1
    await world.stop()


async def test_a_server_that_changes_its_versions_is_followed(world: World) -> None:
    world.kube.serve(("v1beta1",))
    world.publication.publish(devices(0))
    await world.start()
    await world.clock.advance(2)
    world.kube.serve(("v1",))
    world.kube.end_watches()
    world.publication.publish(devices(0, 1))
    await world.clock.advance(31)
    assert world.names() == [["gpu-0", "gpu-1"]]
    assert world.kube.calls["discover", "resource.k8s.io"] == 2


async def test_many_devices_are_split_and_shrink_again(world: World) -> None:
    world.publication.publish(devices(*range(300)))
    await world.start()
    assert [len(names) for names in world.names()] == [128, 128, 44]
    assert {(s["spec"]["pool"]["generation"], s["spec"]["pool"]["resourceSliceCount"]) for s in world.slices} == {
        (1, 3)
    }
    world.publication.publish(devices(*range(100)))
    await world.clock.settle()
    assert [len(names) for names in world.names()] == [100]
    await world.clock.advance(600)
    assert len(world.slices) == 1


def h200s(count: int) -> tuple[list[dict[str, Any]], tuple[Any, ...]]:
    """Devices and counter sets of GPUs that are partitioned on demand."""
    found = from_scan(scans.node_scan(*(scans.h200_scan(minor) for minor in range(count))), {}, dynamic_mig=True)
    return [published(each, gates.defaults()) for each in found.devices.values()], found.counter_sets()


def contents(world: World) -> list[tuple[int, int]]:
    """(devices, counter sets) of each slice."""
    return [
        (len(each["spec"].get("devices", ())), len(each["spec"].get("sharedCounters", ()))) for each in world.slices
    ]


@pytest.mark.parametrize(
    ("version", "stored"),
    [
        ("v1.33.0", [(26, 1), (26, 1)]),
        ("v1.34.9-eks-1", [(26, 1), (26, 1)]),
        ("v1.35.0-vendor", [(0, 2), (26, 0), (26, 0)]),
        ("v1.35.0-rc.1", [(0, 2), (26, 0), (26, 0)]),
        ("v1.37.2", [(0, 2), (26, 0), (26, 0)]),
    ],
)
async def test_counters_are_laid_out_as_the_server_s_version_takes_them(
    version: str, stored: list[tuple[int, int]]
) -> None:
    world = World(dynamic_mig=True, server_version=version)
    await world.add_node()
    devices, counter_sets = h200s(2)
    world.publication.publish(devices, counter_sets=counter_sets)
    await world.start()
    assert contents(world) == stored
    assert world.publication.is_published
    writes = world.writes()
    world.publication.publish(devices, ["gpu-1"], counter_sets)
    await world.clock.settle()
    assert world.writes() == writes + 1  # one PUT of one GPU's slice
    assert "gpu-1" not in world.names()[-1]
    assert world.kube.calls["version", ""] == 1
    await world.stop()


async def test_without_the_gate_the_version_is_not_asked_for(world: World) -> None:
    world.publication.publish(devices(0, 1))
    await world.start()
    assert world.kube.calls["version", ""] == 0


async def test_with_nothing_to_count_a_gpu_has_a_slice_of_its_own_whatever_the_version() -> None:
    world = World(dynamic_mig=True)
    await world.add_node()
    found = scans.inventory(2)
    world.publication.publish([published(each, gates.defaults()) for each in found.devices.values()])
    await world.start()
    assert world.names() == [["gpu-0"], ["gpu-1"]]
    assert world.kube.calls["version", ""] == 0
    await world.stop()


async def test_a_server_upgraded_under_us_gets_the_other_layout() -> None:
    world = World(dynamic_mig=True, server_version="v1.34.1")
    await world.add_node()
    devices, counter_sets = h200s(2)
    world.publication.publish(devices, counter_sets=counter_sets)
    await world.start()
    assert contents(world) == [(26, 1), (26, 1)]
    world.kube.go_away()
    await world.clock.advance(60)
    world.kube.git_version = "v1.36.0"
    world.kube.heal()
    await world.clock.advance(60)
    assert contents(world) == [(0, 2), (26, 0), (26, 0)]
    assert world.publication.is_published
    await world.stop()


async def test_a_refusal_makes_the_version_be_asked_for_again() -> None:
    world = World(dynamic_mig=True, server_version="v1.34.1")
    await world.add_node()
    devices, counter_sets = h200s(1)
    world.publication.publish(devices, counter_sets=counter_sets)
    await world.start()
    world.kube.git_version = "v1.35.0"  # behind one address, and the watch goes on
    world.publication.publish(devices, ["gpu-0"], counter_sets)
    await world.clock.advance(10)
    assert contents(world) == [(0, 1), (25, 0)]
    assert len(world.told("failed")) == 1
    await world.stop()


async def test_a_server_that_does_not_tell_its_version_is_asked_again() -> None:
    world = World(dynamic_mig=True)
    await world.add_node()
    world.kube.fail(500, verb="version", message="not now")
    devices, counter_sets = h200s(1)
    world.publication.publish(devices, counter_sets=counter_sets)
    await world.start()
    (notice,) = world.told("failed")
    assert notice.values["error"] == ("the API server's version, on which counters and taints depend: not now")
    await world.clock.advance(10)
    assert contents(world) == [(0, 1), (26, 0)]
    await world.stop()


@pytest.mark.parametrize(
    ("server", "needs_trial"),
    [
        ({"server_version": "v1.32.5"}, False),
        ({"server_version": "v1.34.1", "drops": ["sharedCounters", "consumesCounters"]}, True),
        ({"server_version": "v1.36.1", "drops": ["sharedCounters", "consumesCounters"]}, True),
    ],
)
async def test_where_no_one_keeps_count_no_partition_is_published(server: dict[str, Any], needs_trial: bool) -> None:
    world = World(dynamic_mig=True, **server)
    await world.add_node()
    devices, counter_sets = h200s(2)
    world.publication.publish(devices, counter_sets=counter_sets)
    await world.start()
    assert world.names() == [["gpu-0"], ["gpu-1"]]
    assert bool(world.told("dropped")) is needs_trial
    (notice,) = world.told("left_out")
    assert notice.values["needs"] == "Kubernetes 1.33 or newer with DRAPartitionableDevices on"
    writes = world.writes()
    await world.clock.advance(7200)
    assert world.writes() == writes
    assert world.publication.is_published
    await world.stop()


@pytest.mark.parametrize("generation", ["x", None, [], {}])
async def test_a_slice_whose_generation_is_no_number_keeps_nothing_from_being_published(
    world: World, generation: Any
) -> None:
    odd = await world.put("odd", (7,))
    odd["spec"]["pool"]["generation"] = generation
    ask = world.kube.list

    async def listed(*which: Any, **more: Any) -> Page:
        page = await ask(*which, **more)
        return Page((json.dumps(odd).encode(),), page.resource_version)

    world.kube.list = listed  # type: ignore[method-assign]
    world.publication.publish(devices(0, 1))
    await world.start()
    await world.clock.advance(5)
    assert [names for names in world.names() if "gpu-0" in names] == [["gpu-0", "gpu-1"]]


@pytest.mark.parametrize("uid", [None, "", 7, {}])
async def test_a_node_without_a_uid_owns_no_slice(world: World, uid: Any) -> None:
    ask = world.kube.get

    async def node(resource: Resource, *which: Any, **more: Any) -> bytes:
        found = await ask(resource, *which, **more)
        return json.dumps({"metadata": {"name": "node-a", "uid": uid}}).encode() if resource == NODES else found

    world.kube.get = node  # type: ignore[method-assign]
    world.publication.publish(devices(0))
    await world.start()
    await world.clock.advance(5)
    assert world.names() == []
    world.kube.get = ask  # type: ignore[method-assign]
    await world.clock.advance(60)
    assert world.names() == [["gpu-0"]]
