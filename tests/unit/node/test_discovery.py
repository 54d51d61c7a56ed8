"""Discovery: a scan when something hints at a change, and what stays offered without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Any

import pytest

from nvdra.checkpoint import Checkpoint
from nvdra.gpu import GpuInstanceScan, Inventory, LeftOut, NodeScan, Partitions
from nvdra.gpu.unpublished import withdrawn
from nvdra.node.gpu.discovery import LOOK_EVERY_S, REFUSED_RETRY_S, UNREAD_RETRY_S, Discovery
from nvdra.nvml import DriverAbsent, DriverChanged, NvmlHung
from nvdra.testing.clock import VirtualClock
from tests.unit.gpu.scans import gpu_scan, h200_scan, instance, node_scan, uuid_of
from tests.unit.node.gpus import Gpus, refusal
from tests.unit.node.world import World


class Node:
    """A node whose NVML answers what `answer` says, and a discovery that runs on it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.answer: NodeScan | Exception = node_scan(gpu_scan(0), gpu_scan(1))
        self.hints: Hashable | Exception = "driver 1"
        self.scans = 0
        self.reads: list[str] = []
        self.gate: asyncio.Event | None = None
        self.changed: list[Inventory] = []
        self.gpus: Gpus | None = None
        self.discovery = self.discover()

    def discover(self, **more: bool) -> Discovery:
        return Discovery(self, self.clock, self._look, dict, self.changed.append, **more)  # type: ignore[arg-type]

    async def scan(self, *, profiles: bool) -> NodeScan:
        self.scans += 1
        answer = self.answer
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def mig(self, uuid: str) -> tuple[bool, tuple[GpuInstanceScan, ...]]:
        """How a GPU is partitioned; without GPUs that can be nobody may ask."""
        assert self.gpus is not None
        self.reads.append(uuid)
        return await self.gpus.mig(uuid)

    def _look(self) -> Hashable:
        if isinstance(self.hints, Exception):
            raise self.hints
        return self.hints

    @property
    def names(self) -> list[str]:
        return list(self.discovery.inventory.devices)

    async def passes(self, seconds: float) -> None:
        """Time passes, and what it sets off comes to rest."""
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            await self.clock.advance(min(LOOK_EVERY_S, end - self.clock.now()))
            await asyncio.sleep(0.01)
            await self.clock.settle()


@pytest.fixture
async def node() -> Node:
    return Node()


@pytest.fixture
async def running(node: Node) -> AsyncIterator[Node]:
    await node.discovery.scan()
    task = asyncio.create_task(node.discovery.run())
    yield node
    task.cancel()
    ended = (await asyncio.gather(task, return_exceptions=True))[0]
    assert isinstance(ended, asyncio.CancelledError)


async def test_before_the_first_scan_nothing_is_published_and_that_is_said(node: Node) -> None:
    assert node.names == []
    assert node.discovery.inventory.why_absent("gpu-0") == "the first look at the GPUs is under way"


async def test_without_a_hint_nothing_is_scanned(running: Node) -> None:
    await running.passes(2 * REFUSED_RETRY_S)
    assert running.scans == 1
    assert running.names == ["gpu-0", "gpu-1"]


async def test_a_hint_leads_to_one_scan(running: Node) -> None:
    running.hints = "driver 2"
    running.answer = node_scan(gpu_scan(0), gpu_scan(1), gpu_scan(2))
    await running.passes(3 * LOOK_EVERY_S)
    assert running.scans == 2
    assert running.names == ["gpu-0", "gpu-1", "gpu-2"]
    assert [len(seen.devices) for seen in running.changed] == [2, 3]


async def test_who_asks_during_a_scan_shares_it(node: Node) -> None:
    node.gate = asyncio.Event()
    asking = [asyncio.create_task(node.discovery.scan()) for _ in range(5)]
    await asyncio.sleep(0.02)
    asking[0].cancel()
    node.gate.set()
    await asyncio.gather(*asking[1:])
    assert node.scans == 1
    await node.discovery.scan()
    assert node.scans == 2


@pytest.mark.parametrize(
    "absence",
    [
        lambda: DriverAbsent("libnvidia-ml.so.1 is not in the driver root"),
        lambda: NvmlHung("nvmlInit", 10.0, "no scan"),
        lambda: OSError(2, "No such file or directory", "/sys/bus/pci"),
    ],
)
async def test_a_driver_that_goes_away_leaves_what_was_offered(running: Node, absence: Callable[[], Exception]) -> None:
    before, running.answer = running.answer, absence()
    running.hints = "no driver"
    await running.passes(2 * LOOK_EVERY_S)
    assert running.names == ["gpu-0", "gpu-1"]
    assert running.discovery.inventory.unread == str(running.answer)
    # It comes back without leaving a trace in the files compared.
    running.answer = before
    await running.passes(2 * UNREAD_RETRY_S)
    assert running.discovery.inventory.unread == ""
    scans = running.scans
    await running.passes(10 * UNREAD_RETRY_S)
    assert running.scans == scans


async def test_a_driver_absent_at_the_start_is_found_when_it_comes(node: Node) -> None:
    before, node.answer = node.answer, DriverAbsent("libnvidia-ml.so.1 is not in the driver root")
    node.hints = "nothing there"
    await node.discovery.scan()
    assert node.names == []
    assert [seen.unread for seen in node.changed] == [str(node.answer)]
    task = asyncio.create_task(node.discovery.run())
    await node.passes(LOOK_EVERY_S)
    node.answer, node.hints = before, "a driver"
    await node.passes(LOOK_EVERY_S)
    assert node.names == ["gpu-0", "gpu-1"]
    task.cancel()


async def test_a_gpu_that_refused_is_asked_again_from_time_to_time(running: Node) -> None:
    left = LeftOut(1, 1, uuid_of(1), "nvmlDeviceGetName", 15, "GPU is lost")
    whole, running.answer = running.answer, node_scan(gpu_scan(0), left_out=(left,))
    running.hints = "a GPU fell off the bus"
    await running.passes(LOOK_EVERY_S)
    assert running.names == ["gpu-0"]
    assert "GPU is lost" in running.discovery.inventory.why_absent("gpu-1")
    running.answer = whole
    await running.passes(REFUSED_RETRY_S + LOOK_EVERY_S)
    assert running.names == ["gpu-0", "gpu-1"]


async def test_hints_that_cannot_be_read_end_nothing(running: Node) -> None:
    running.hints = FileNotFoundError(2, "No such file or directory", "/driver/libnvidia-ml.so.1")
    await running.passes(3 * LOOK_EVERY_S)
    assert running.scans == 2
    running.hints = "driver 1"
    await running.passes(LOOK_EVERY_S)
    assert running.scans == 3


async def test_a_replaced_driver_is_for_a_fresh_process(node: Node) -> None:
    await node.discovery.scan()
    node.answer, node.hints = DriverChanged("the NVML library is now another one"), "driver 2"
    with pytest.raises(DriverChanged):
        await node.discovery.scan()
    running = asyncio.create_task(node.discovery.run())
    await node.passes(LOOK_EVERY_S)
    assert isinstance(running.exception(), DriverChanged)


async def test_a_claimed_device_with_a_new_uuid_is_unpublished_until_its_claim_is_gone(
    node: Node, world: World
) -> None:
    ref: Any = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    node.answer = node_scan(gpu_scan(0, uuid="GPU-another"), gpu_scan(1))
    await node.discovery.scan()
    world.inventory = node.discovery.inventory
    checkpoint: Checkpoint = world.checkpoint()
    assert withdrawn(world.inventory, checkpoint) == {"gpu-0"}
    assert "was prepared as" in await world.refused(ref)
    await world.released(ref)
    assert withdrawn(world.inventory, world.checkpoint()) == frozenset()
    assert await world.prepared(ref) == ["gpu-0"]


# --- GPUs that are partitioned on demand ---

ZERO, ONE = h200_scan(0).uuid, h200_scan(1).uuid
AT_ZERO, AT_ONE = "0000:00:06.0", "0000:01:06.0"


@pytest.fixture
async def parted(node: Node) -> AsyncIterator[Node]:
    """Two such GPUs and one that is not MIG-capable, looked at for as long as the test takes."""
    scans = h200_scan(0), h200_scan(1), h200_scan(2, mig_mode=None)
    node.answer, node.gpus = node_scan(*scans), Gpus(*scans)
    node.discovery = node.discover(dynamic_mig=True)
    await node.discovery.scan()
    task = asyncio.create_task(node.discovery.run())
    yield node
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def gpus_of(node: Node) -> Gpus:
    assert node.gpus is not None
    return node.gpus


async def test_partitions_are_read_again_at_every_look_without_a_scan(parted: Node) -> None:
    await parted.passes(LOOK_EVERY_S)
    assert parted.reads == [ZERO, ONE]
    assert len(parted.changed) == 1  # nothing new, nobody told
    gpus_of(parted).put(ONE, instance(19, 3, 1))
    await parted.passes(LOOK_EVERY_S)
    assert parted.discovery.inventory.partitions[AT_ONE] == gpus_of(parted).partitions(ONE)
    assert len(parted.changed) == 2
    assert parted.scans == 1


async def test_what_a_claim_changes_meanwhile_is_not_taken_for_somebody_else_s_work(parted: Node) -> None:
    gate = gpus_of(parted).held["mig"] = asyncio.Event()
    looking = asyncio.create_task(parted.passes(LOOK_EVERY_S))
    while not parted.reads:  # noqa: ASYNC110  the look is under way
        await asyncio.sleep(0.001)
    parted.discovery.note(AT_ONE, MADE)
    gpus_of(parted).put(ONE, *MADE.instances)
    gate.set()
    await looking
    assert len(parted.changed) == 1  # the first scan: who made it tells what there is to tell
    assert parted.discovery.inventory.partitions[AT_ONE] == MADE


async def test_a_gpu_whose_partitions_cannot_be_read_keeps_no_other_from_being_looked_at(parted: Node) -> None:
    gpus_of(parted).put(ZERO, instance(19, 0, 1))
    gpus_of(parted).put(ONE, instance(19, 3, 1))
    gpus_of(parted).refuse("mig", ZERO, refusal(15, "GPU is lost"))
    await parted.passes(LOOK_EVERY_S)
    seen = parted.discovery.inventory.partitions
    assert (seen[AT_ZERO], seen[AT_ONE]) == (Partitions(), gpus_of(parted).partitions(ONE))
    await parted.passes(LOOK_EVERY_S)
    assert parted.discovery.inventory.partitions[AT_ZERO] == gpus_of(parted).partitions(ZERO)


async def test_without_the_gate_partitions_are_looked_at_by_scans_alone(node: Node) -> None:
    node.answer = node_scan(h200_scan(0, instance(19, 3, 1)))
    await node.discovery.scan()
    task = asyncio.create_task(node.discovery.run())
    await node.passes(3 * LOOK_EVERY_S)  # `mig` would fail
    task.cancel()
    assert node.names == ["gpu-0-mig-1g18gb-19-3"]


MADE = Partitions(True, (instance(19, 0, 1),))


async def test_what_was_just_made_outlives_a_scan_that_began_before(parted: Node) -> None:
    parted.gate = asyncio.Event()
    scanning = asyncio.create_task(parted.discovery.scan())
    await asyncio.sleep(0.01)
    parted.discovery.note(AT_ZERO, MADE)
    parted.gate.set()
    await scanning
    assert parted.discovery.inventory.partitions == {AT_ZERO: MADE, AT_ONE: Partitions()}
    # What is known of it since an earlier time is not newer than the next scan.
    await parted.discovery.scan()
    assert parted.discovery.inventory.partitions[AT_ZERO] == Partitions()


async def test_what_was_just_made_outlives_a_look_that_read_the_gpu_before(parted: Node) -> None:
    gate = gpus_of(parted).held["mig"] = asyncio.Event()
    looking = asyncio.create_task(parted.passes(LOOK_EVERY_S))
    while not parted.reads:  # noqa: ASYNC110  the look is under way
        await asyncio.sleep(0.001)
    parted.discovery.note(AT_ZERO, MADE)
    gate.set()
    await looking
    assert parted.discovery.inventory.partitions[AT_ZERO] == MADE


async def test_a_look_during_a_scan_does_not_make_it_forget_what_was_just_made(parted: Node) -> None:
    gpus_of(parted).put(ZERO, *MADE.instances)
    parted.gate = asyncio.Event()
    scanning = asyncio.create_task(parted.discovery.scan())
    await asyncio.sleep(0.01)
    parted.discovery.note(AT_ZERO, MADE)
    await parted.passes(LOOK_EVERY_S)
    assert parted.reads
    parted.gate.set()
    await scanning
    assert parted.discovery.inventory.partitions[AT_ZERO] == MADE


async def test_a_gpu_that_a_scan_does_not_find_any_more_has_no_partitions(parted: Node) -> None:
    parted.gate, parted.answer = asyncio.Event(), node_scan(h200_scan(1))
    scanning = asyncio.create_task(parted.discovery.scan())
    await asyncio.sleep(0.01)
    parted.discovery.note(AT_ZERO, MADE)
    parted.gate.set()
    await scanning
    assert parted.discovery.inventory.partitions == {AT_ONE: Partitions()}
