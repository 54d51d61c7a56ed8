"""Fabric partitions on a node: activated for a claim, deactivated with it, whatever Fabric Manager does meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from nvdra_mock_nvml.fabric import halves

from nvdra.api import gates as feature_gates
from nvdra.gpu import Inventory, published
from nvdra.gpu.shares import Shares
from nvdra.gpu.sharing import Sharing
from nvdra.host.fabric_manager import IN_USE, NO_CONNECTION, NOT_READY, TIMEOUT, ListedPartition
from nvdra.node.gpu.actors.fabric import FabricActor
from nvdra.node.gpu.fabric import TIMEOUT_S, Fabric, FabricHung
from nvdra.testing.clock import VirtualClock
from nvdra.testing.fabric import FakeFabric
from nvdra.testing.host import FakeHost
from tests.unit.node.fabric_world import FabricWorld, fabric, inventory_of
from tests.unit.node.vfio_world import VfioWorld, gpu_address

ALL, LEFT, RIGHT, FIRST_PAIR = 0, 1, 2, 3


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[FabricWorld]:
    made = FabricWorld(tmp_path)
    made.start()
    await made.timely(made.fabric.look())
    yield made
    await made.stop()


def devices(*minors: int) -> list[str]:
    return [f"gpu-{minor}" for minor in minors]


async def test_a_partition_is_activated_for_a_claim_and_goes_with_it(node: FabricWorld) -> None:
    left, right = await node.claim("left", *devices(3, 1, 0, 2)), await node.claim("right", *devices(4, 5, 6, 7))
    await node.prepared(left, right)
    assert node.manager.active == {LEFT, RIGHT}
    await node.prepared(left)  # asked again
    assert node.manager.calls["activate"] == 2
    await node.released(left)
    assert node.manager.active == {RIGHT}
    await node.restart()
    await node.timely(node.fabric.look())
    await node.released(right)
    assert node.manager.active == set()


async def test_gpus_that_are_no_partition_are_refused_for_good(node: FabricWorld) -> None:
    ref = await node.claim("a", *devices(1, 2))
    error = await node.refused(ref)
    assert (
        "fabric manager: GPU module set [2 3] does not match any FM partition; refusing partition activation" in error
    )
    assert "matchAttribute gpu.nvidia.com/partition2" in error
    assert node.manager.active == set()
    assert node.state(ref) == ""


async def test_a_gpu_without_a_module_id_is_refused(node: FabricWorld) -> None:
    gpus = {at: replace(gpu, module_id=0) for at, gpu in node.inventory.gpus.items()}
    node.inventory = replace(node.inventory, gpus=gpus)
    await node.restart()
    await node.timely(node.fabric.look())
    ref = await node.claim("a", "gpu-0")
    text = 'fabric manager: no gpuModuleID for GPU at PCI "0000:01:00.0"; refusing partition activation'
    assert text in await node.refused(ref)


async def test_attributes_name_the_partitions_of_a_gpu(node: FabricWorld) -> None:
    inventory = node.seen()
    gates = feature_gates.parse(node.gates)
    attributes = published(inventory.devices["gpu-3"], gates, fabric=inventory.fabric)["attributes"]
    assert attributes["gpuModuleID"] == {"int": 4}
    own = {key: value for key, value in attributes.items() if key.startswith("partition")}
    assert own == {f"partition{size}": {"int": number} for size, number in ((8, 0), (4, 1), (2, 4), (1, 10))}
    assert node.changes == 1
    await node.timely(node.fabric.look())
    assert node.changes == 1


async def test_fabric_manager_may_start_after_the_plugin(tmp_path: Path) -> None:
    node = FabricWorld(tmp_path)
    node.manager.fail("partitions", NO_CONNECTION, NOT_READY, TIMEOUT)
    node.start()
    ref = await node.claim("a", "gpu-0")
    running = asyncio.ensure_future(node.fabric.run())
    await node.clock.settle()
    assert "Fabric Manager is not ready: partitions: no connection to Fabric Manager (-9); kubelet will ask again" in (
        await node.refused(ref)
    )
    await node.timely(running)
    await node.prepared(ref)
    assert len(node.manager.active) == 1
    await node.stop()


@pytest.mark.parametrize("code", [NOT_READY, TIMEOUT, NO_CONNECTION])
async def test_a_busy_fabric_manager_is_asked_again(node: FabricWorld, code: int) -> None:
    node.manager.fail("activate", code, code)
    node.manager.fail("partitions", code)
    ref = await node.claim("a", *devices(0, 1))
    await node.prepared(ref)
    assert node.manager.active == {FIRST_PAIR}


async def test_one_that_stays_away_is_an_error_and_leaves_nothing(node: FabricWorld) -> None:
    node.manager.fail("activate", *[NO_CONNECTION] * 99)
    ref = await node.claim("a", *devices(0, 1))
    assert "activating fabric partition 3: activate: no connection to Fabric Manager (-9)" in await node.refused(ref)
    assert node.state(ref) == ""
    node.manager.faults.clear()
    await node.prepared(ref)


async def test_an_activation_that_was_answered_late_is_found_active(node: FabricWorld) -> None:
    took_effect = node.manager.activate

    def late(partition: int) -> None:
        node.manager.activate = took_effect  # type: ignore[method-assign]
        took_effect(partition)
        node.manager.fail("activate", TIMEOUT)
        node.manager.activate(partition)

    node.manager.activate = late  # type: ignore[method-assign]
    ref = await node.claim("a", *devices(0, 1))
    await node.prepared(ref)
    assert node.manager.active == {FIRST_PAIR}


async def test_a_partition_of_somebody_else_is_named(node: FabricWorld) -> None:
    node.manager.activate(LEFT)
    ref = await node.claim("a", *devices(0, 1))
    error = await node.refused(ref)
    assert (
        "activating fabric partition 3: activate: in use (-7): partition 1 has some of these GPUs and is active"
        in error
    )
    assert node.manager.active == {LEFT}
    assert node.state(ref) == ""


async def test_a_partition_that_is_unknown_now_is_an_error(node: FabricWorld) -> None:
    ref = await node.claim("a", *devices(0, 1))
    node.manager.forget(FIRST_PAIR)
    assert "fabricmanager: unknown partitionId 3" in await node.refused(ref)


async def test_unprepare_waits_for_fabric_manager(node: FabricWorld) -> None:
    ref = await node.claim("a", *devices(0, 1))
    await node.prepared(ref)
    node.manager.fail("deactivate", IN_USE)
    failure = (await node.unprepare(ref))[ref.uid]
    assert failure is not None
    assert "error deactivating fabric partition: 3: deactivate: in use (-7)" in failure.error
    assert node.state(ref) == "PrepareStarted"
    await node.restart()  # and Fabric Manager is away when the plugin comes back
    node.manager.fail("partitions", NO_CONNECTION)
    await node.timely(node.fabric.look())
    failure = (await node.unprepare(ref))[ref.uid]
    assert failure is not None
    assert "error deactivating fabric partition: Fabric Manager is not ready" in failure.error
    await node.timely(node.fabric.look())
    await node.released(ref)
    assert node.manager.active == set()


async def test_a_partition_lost_in_a_restart_of_fabric_manager_is_no_hindrance(node: FabricWorld) -> None:
    ref = await node.claim("a", *devices(0, 1))
    await node.prepared(ref)
    node.manager.deactivate(FIRST_PAIR)
    calls = node.manager.calls["deactivate"]
    await node.released(ref)
    assert node.manager.calls["deactivate"] == calls


async def test_claims_that_share_gpus_share_their_partition(tmp_path: Path) -> None:
    node = FabricWorld(tmp_path)
    node.gates += ",ConsumableShares=true"
    node.sharing = Sharing(Shares("unlimited"))
    node.start()
    await node.timely(node.fabric.look())
    one, two = await node.claim("one", "gpu-0"), await node.claim("two", "gpu-0")
    await node.prepared(one, two)
    assert len(node.manager.active) == 1
    await node.released(one)
    assert len(node.manager.active) == 1
    await node.released(two)
    assert node.manager.active == set()
    await node.stop()


async def test_claims_with_admin_access_activate_nothing(node: FabricWorld) -> None:
    ref = await node.claim("a", {"device": "gpu-1", "adminAccess": True}, {"device": "gpu-2", "adminAccess": True})
    await node.prepared(ref)
    assert node.manager.active == set()
    await node.released(ref)


async def test_gpus_of_virtual_machines_are_a_partition_too(tmp_path: Path) -> None:
    node = FabricVfioWorld(tmp_path)
    node.start()
    await node.timely(node.fabric.look())
    ref = await node.claim("vm", "gpu-vfio-0", "gpu-vfio-1")
    await node.prepared(ref)
    assert node.manager.active == {1}
    gates = feature_gates.parse(node.gates)
    attributes = published(node.seen().devices["gpu-vfio-0"], gates, fabric=node.seen().fabric)["attributes"]
    assert (attributes["gpuModuleID"], attributes["partition2"]) == ({"int": 1}, {"int": 1})
    await node.restart()
    await node.timely(node.fabric.look())
    await node.released(ref)
    assert node.manager.active == set()
    assert node.is_as_before()
    await node.stop()


class FabricVfioWorld(VfioWorld):
    """A node that passes GPUs through, with a fabric."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gates = "PassthroughSupport=true,FabricManagerPartitioning=true"
        self.manager = FakeFabric(enumerate(halves([1, 2, 3, 4])))
        self.changes = 0
        self._modules = {gpu_address(minor): minor + 1 for minor in range(4)}

    def make_fabric(self) -> FabricActor:
        self.fabric = fabric(self, self.manager)
        return FabricActor(self.fabric, self.clock)

    def seen(self) -> Inventory:
        gpus = {at: replace(gpu, module_id=self._modules[at]) for at, gpu in self.inventory.gpus.items()}
        return self.fabric.of(replace(self.inventory, gpus=gpus))


async def test_a_node_without_a_fabric_waits_for_none(tmp_path: Path) -> None:
    clock, inventory = VirtualClock(), inventory_of(2)
    none = Fabric(FakeFabric([]), FakeHost(tmp_path), clock, "/modules", lambda: False, lambda: None)
    assert none.of(inventory) is inventory  # before anything was looked for
    assert await none.look()

    def unreadable() -> bool:
        raise PermissionError(13, "Permission denied", "/sys/class/infiniband")

    unknown = Fabric(FakeFabric([]), FakeHost(tmp_path), clock, "/modules", unreadable, lambda: None)
    assert not await unknown.look()
    topology = unknown.of(inventory).fabric
    assert topology is not None
    assert "/sys/class/infiniband" in topology.unread


async def test_a_call_that_does_not_return_is_given_up(tmp_path: Path) -> None:
    clock, release = VirtualClock(), threading.Event()

    class Stuck(FakeFabric):
        def partitions(self) -> tuple[ListedPartition, ...]:
            release.wait(60)
            return super().partitions()

    fabric = Fabric(Stuck([(0, [1])]), FakeHost(tmp_path), clock, "/modules", lambda: True, lambda: None)
    look = asyncio.ensure_future(fabric.look())
    await clock.settle()
    await clock.advance(TIMEOUT_S)
    assert not await look
    topology = fabric.of(inventory_of(1)).fabric
    assert topology is not None
    assert topology.unread == "Fabric Manager did not answer within 10 s"
    with pytest.raises(FabricHung, match="has not returned from an earlier call") as hung:
        await fabric.partitions()
    release.set()
    await hung.value.call
    assert await fabric.look()
