"""Upkeep of GPUs that are partitioned on demand: the lease on NVML, and leftovers at the start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nvdra.gpu import Partitions
from nvdra.node.gpu.mig_upkeep import EVERY_S, RETRY_S, MigUpkeep
from nvdra.node.locks import ResourceLocks
from nvdra.nvml import IN_USE, DriverAbsent
from nvdra.testing.clock import VirtualClock
from nvdra.testing.host import FakeHost
from tests.unit.gpu.scans import instance
from tests.unit.node.gpus import refusal
from tests.unit.node.mig_world import AT_ONE, AT_ZERO, ONE, ZERO, MigWorld, card, small
from tests.unit.node.world import CHECKPOINT, P


class Lease:
    """NVML that can be held open."""

    def __init__(self) -> None:
        self.is_open = False
        self.absences = 0
        self.reasons: list[str] = []

    @asynccontextmanager
    async def hold(self, reason: str) -> AsyncIterator[None]:
        self.reasons.append(reason)
        if self.absences:
            self.absences -= 1
            raise DriverAbsent("no driver is loaded")
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MigWorld]:
    """On the first GPU a partition that nobody here made, half made; the second has MIG mode on and nothing on it."""
    made = MigWorld(tmp_path, card(0, instance(19, 3, 1, compute=None)), card(1, mig_mode=(1, 1)))
    made.start()
    await made.warm()
    yield made
    await made.stop()


def are_free(node: MigWorld) -> bool:
    """Whether another program would get the locks of both GPUs."""
    other = FakeHost(node.folder)
    try:
        return ResourceLocks(other, P).try_take("theirs", [AT_ZERO, AT_ONE])
    finally:
        other.close()


# --- leftovers ---


async def test_a_mode_left_on_goes_off_and_a_partition_of_nobody_stays(node: MigWorld) -> None:
    node.since_now()
    await node.timely(node.upkeep().clean_up())
    assert node.gpus.calls == [("set_mig_mode", 1)]
    assert node.gpus.placements(ZERO) == [(19, 3)]
    assert node.inventory.partitions == {AT_ZERO: node.gpus.partitions(ZERO), AT_ONE: Partitions()}
    assert are_free(node)
    assert node.effects("fsync") == []


async def test_with_the_flag_it_destroys_unmanaged_partitions_and_nothing_else(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await node.prepared(ref)
    await node.timely(node.upkeep(destroy_unmanaged=True).clean_up())
    assert node.gpus.placements(ZERO) == [(19, 0)]
    await node.released(ref)
    assert node.gpus.partitions(ZERO) == Partitions()


async def test_with_the_last_of_them_the_mode_goes_off(node: MigWorld) -> None:
    await node.timely(node.upkeep(destroy_unmanaged=True).clean_up())
    assert [node.gpus.partitions(uuid) for uuid in (ZERO, ONE)] == [Partitions(), Partitions()]


async def test_a_claim_s_half_made_partition_is_not_for_the_upkeep(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    node.gpus.refuse("create_compute_instance", ZERO, refusal(999, "Unknown Error"))
    node.gpus.refuse("destroy_gpu_instance", ZERO, refusal(IN_USE))
    await node.refused(ref)
    await node.timely(node.upkeep(destroy_unmanaged=True).clean_up())
    assert node.gpus.placements(ZERO) == [(19, 0)]
    assert node.lines(AT_ZERO) == [ref.uid, f"{ref.uid} partition 19@0"]


async def test_with_the_checkpoint_lost_any_partition_may_be_a_claim_s(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await node.prepared(ref)
    (node.folder / CHECKPOINT.strip("/")).write_bytes(b"no checkpoint")
    await node.restart()
    await node.warm()
    await node.timely(node.upkeep(destroy_unmanaged=True).clean_up())
    assert node.gpus.placements(ZERO) == [(19, 0), (19, 3)]
    # The claim taken over from its file, the next start knows whose is whose.
    await node.timely(node.sweep.settle())
    await node.timely(node.upkeep(destroy_unmanaged=True).clean_up())
    assert node.gpus.placements(ZERO) == [(19, 0)]


@pytest.mark.parametrize("verb", ["mig", "destroy_gpu_instance"])
async def test_one_gpu_that_refuses_keeps_no_other_from_being_put_right(node: MigWorld, verb: str) -> None:
    node.gpus.refuse(verb, ZERO, refusal(15, "GPU is lost"))
    await node.timely(node.upkeep(destroy_unmanaged=True).clean_up())
    assert node.gpus.placements(ZERO) == [(19, 3)]
    assert node.gpus.partitions(ONE) == Partitions()
    assert are_free(node)


async def test_a_gpu_that_another_instance_works_on_is_left_to_it(node: MigWorld) -> None:
    other = FakeHost(node.folder)
    assert ResourceLocks(other, P).try_take("theirs", [AT_ZERO])
    await node.timely(node.upkeep(destroy_unmanaged=True).clean_up())
    assert node.gpus.placements(ZERO) == [(19, 3)]
    assert node.gpus.partitions(ONE) == Partitions()
    other.close()


async def test_lines_of_claims_that_are_no_more_are_dropped(node: MigWorld) -> None:
    node.lock_path(AT_ZERO).write_text("gone\ngone partition 19@0\n")
    node.lock_path(ZERO).write_text("gone\ngone 19@4\n")  # of an earlier release
    await node.timely(node.upkeep().clean_up())
    assert node.lines(AT_ZERO) == node.lines(ZERO) == []


async def test_gpus_that_are_not_partitioned_on_demand_are_not_touched(tmp_path: Path) -> None:
    node = MigWorld(tmp_path, card(0, instance(19, 3, 1), virtualization_mode=2), card(1, mig_mode=None))
    node.start()
    await node.timely(node.upkeep(destroy_unmanaged=True).clean_up())
    assert node.gpus.calls == []
    await node.stop()


async def test_a_mode_left_on_later_goes_off_in_its_time_and_nothing_else_is_done(node: MigWorld) -> None:
    kept = node.upkeep(destroy_unmanaged=True)
    running = asyncio.create_task(kept.run())
    await node.clock.settle()
    assert node.gpus.partitions(ONE).is_on
    await node.clock.advance(EVERY_S)
    async with asyncio.timeout(30):
        while node.gpus.partitions(ONE).is_on:  # noqa: ASYNC110  what is waited for happens on another thread
            await asyncio.sleep(0.001)
    assert node.gpus.placements(ZERO) == [(19, 3)]
    assert node.gpus.calls == [("set_mig_mode", 1)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_mode_that_a_claim_is_about_to_need_stays(node: MigWorld) -> None:
    assert node.locks.try_take("c1", [AT_ONE])
    await node.timely(node.upkeep().clean_up())
    assert node.gpus.partitions(ONE).is_on
    node.locks.give_back("c1", is_done=True)


# --- the lease ---


async def test_nvml_is_held_open_and_asked_for_again_where_there_is_none(node: MigWorld) -> None:
    lease, clock = Lease(), VirtualClock()
    lease.absences = 2
    kept = MigUpkeep(
        lease,  # type: ignore[arg-type]
        clock,
        node.context,
        node.mig,
        lambda: None,  # type: ignore[arg-type,return-value]
        is_checkpoint_lost=lambda: False,
        destroy_unmanaged=False,
    )
    holding = asyncio.create_task(kept.hold())
    for is_open in (False, False, True):
        await clock.settle()
        assert lease.is_open == is_open
        await clock.advance(RETRY_S)
    await clock.advance(100 * RETRY_S)
    assert lease.is_open
    assert lease.reasons == ["partitions on demand (gate DynamicMIG)"] * 3
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    assert not lease.is_open
