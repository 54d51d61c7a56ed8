"""Claims for partitions beside others: programs, administrators, claims that share one, and what a death left."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nvdra.api import ClaimRef
from nvdra.checkpoint import Entry
from nvdra.gpu import Partitions
from nvdra.node.checkpoint_writer import Change
from nvdra.node.claim_service import Failure
from nvdra.node.locks import ResourceLocks
from nvdra.nvml import IN_USE
from nvdra.testing.host import FakeHost
from tests.unit.gpu.scans import instance
from tests.unit.node.gpus import refusal
from tests.unit.node.mig_world import AT_ZERO, ZERO, MigWorld, half, small, until
from tests.unit.node.world import P

# ── what others do meanwhile ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_gpu_that_another_program_works_on_is_waited_for(node: MigWorld) -> None:
    other = FakeHost(node.folder)
    locks = ResourceLocks(other, P)
    assert locks.try_take("theirs", [AT_ZERO])
    ref, plain = await node.claim("a", small(0)), await node.claim("b", "gpu-1")
    asked = asyncio.create_task(node.service.prepare([ref]))
    assert await node.prepared(plain) == ["gpu-1"]
    assert not node.state(ref)
    locks.give_back("theirs", is_done=True)
    assert isinstance((await node.timely(asked))[ref.uid], tuple)
    other.close()


async def test_what_another_driver_began_and_left_is_undone_first(node: MigWorld) -> None:
    """The Go driver's: an entry, and no line in any file of ours."""
    left = await node.claim("left", small(2))
    status = await node.status_of(left)
    await node.checkpoint_writer.submit(
        lambda _: Change(None, entries={left.uid: Entry("PrepareStarted", status, (), left.name, left.namespace)})
    )
    node.gpus.put(ZERO, instance(19, 2, 1, compute=None))
    node.look()
    ref = await node.claim("a", half(0))
    assert await node.prepared(ref) == [half(0)]
    assert node.gpus.placements(ZERO) == [(9, 0)]
    assert not node.state(left)


async def test_what_an_earlier_release_began_and_left_is_undone_first(node: MigWorld) -> None:
    """Its locks were named by the GPU's UUID, its lines told a place alone."""
    left = await node.claim("left", small(2), small(4))
    status = await node.status_of(left)
    await node.checkpoint_writer.submit(
        lambda _: Change(None, entries={left.uid: Entry("PrepareStarted", status, (), left.name, left.namespace)})
    )
    node.lock_path(ZERO).write_text(f"{left.uid}\n{left.uid} 19@2\n")
    # The claim's first partition, half made; where its second was to be somebody else put one: no line speaks of it.
    node.gpus.put(ZERO, instance(19, 2, 1, compute=None), instance(19, 4, 1))
    node.look()
    ref = await node.claim("a", half(0))
    assert await node.prepared(ref) == [half(0)]
    assert node.gpus.placements(ZERO) == [(9, 0), (19, 4)]
    assert not node.state(left)
    assert node.lines(ZERO) == node.lines(AT_ZERO) == []


async def test_a_gpu_that_a_program_of_an_earlier_release_works_on_is_waited_for(node: MigWorld) -> None:
    other = FakeHost(node.folder)
    locks = ResourceLocks(other, P)
    assert locks.try_take("theirs", [ZERO])
    ref = await node.claim("a", small(0))
    asked = asyncio.create_task(node.service.prepare([ref]))
    await asyncio.sleep(0.02)
    assert not node.state(ref)
    locks.give_back("theirs", is_done=True)
    assert isinstance((await node.timely(asked))[ref.uid], tuple)
    other.close()


async def test_a_partition_of_somebody_else_is_found_by_a_look_and_never_touched(node: MigWorld) -> None:
    node.gpus.put(ZERO, instance(14, 0, 2))
    ref = await node.claim("a", small(1))
    # Not known before the first call: then the actor sees it.
    assert "overlaps GPU instance 1 (profile 14 at memory slice 0)" in await node.refused(ref)
    assert node.is_rid_of(ref)
    rescans = node.rescans
    assert "overlaps a partition that this driver did not make" in await node.refused(ref)
    assert node.rescans == rescans + 1
    assert node.gpus.placements(ZERO) == [(14, 0)]
    node.gpus.put(ZERO)
    assert await node.prepared(ref) == [small(1)]


async def test_a_partition_destroyed_by_hand_is_reported_and_its_claim_can_be_unprepared(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await node.prepared(ref)
    node.gpus.put(ZERO)
    node.look()
    assert "is gone: somebody destroyed the partition" in await node.refused(ref)
    await node.released(ref)
    assert node.is_rid_of(ref)
    assert await node.prepared(ref) == [small(0)]


async def test_what_another_instance_prepared_is_not_taken_for_gone(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    before = node.inventory
    answered = await node.prepare(ref)
    node.inventory = before  # as this program last saw it, had another one made it
    assert await node.prepare(ref) == answered


async def test_an_entry_that_is_not_its_own_any_more_is_not_completed(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    gate = node.gpus.held["create_compute_instance"] = asyncio.Event()
    asked = asyncio.create_task(node.service.prepare([ref]))
    await until(lambda: ("create_compute_instance", 0) in node.gpus.calls)
    await node.checkpoint_writer.submit(lambda _: Change(None, entries={ref.uid: None}))
    gate.set()
    answer = (await node.timely(asked))[ref.uid]
    assert isinstance(answer, Failure)
    assert f"another program changed the checkpoint's entry of claim {ref} meanwhile" in answer.error
    assert node.gpus.partitions(ZERO) == Partitions()
    assert node.is_rid_of(ref)


async def test_allocated_anew_the_former_partition_goes_before_the_new_one_comes(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await node.prepared(ref)
    await node.allocate(ref, half(0))
    assert await node.prepared(ref) == [half(0)]
    assert node.gpus.placements(ZERO) == [(9, 0)]
    assert node.lines(AT_ZERO) == []


# ── shared partitions ──────────────────────────────────────────────────────────────────────────────────────────────


async def given_to_an_administrator(node: MigWorld, ref: ClaimRef, *devices: str) -> None:
    """The prepared claim as a former release left it, that made partitions for administrators."""
    await node.allocate(ref, *({"device": device, "adminAccess": True} for device in devices))
    entry = replace(node.checkpoint().entries[ref.uid], status=await node.status_of(ref))
    await node.checkpoint_writer.submit(lambda _: Change(None, entries={ref.uid: entry}))


async def test_a_partition_is_not_made_for_an_administrator_nor_shared_with_one(node: MigWorld) -> None:
    one = await node.claim("a", small(0))
    admin = await node.claim("admin", {"device": small(0), "adminAccess": True}, small(1))
    for made in ([], [(19, 0)]):
        assert "not for a MIG device made on demand" in await node.refused(admin)
        assert node.is_rid_of(admin)
        assert node.gpus.placements(ZERO) == made
        await node.prepared(one)


async def test_an_administrator_looks_at_a_gpu_beside_its_partitions_and_nothing_is_done(node: MigWorld) -> None:
    one = await node.claim("a", small(0))
    admin = await node.claim("admin", {"device": "gpu-0", "adminAccess": True})
    await node.prepared(one)
    node.gpus.calls.clear()
    assert await node.prepared(admin) == ["gpu-0"]
    await node.prepared(await node.claim("b", small(1)))
    await node.released(admin)
    assert node.gpus.placements(ZERO) == [(19, 0), (19, 1)]
    assert not [call for call in node.gpus.calls if call[0] in ("set_mig_mode", "destroy_gpu_instance")]


async def test_mig_mode_goes_off_under_an_administrator_who_looks(node: MigWorld) -> None:
    one = await node.claim("a", small(0))
    await node.prepared(one)
    await node.prepared(await node.claim("admin", {"device": "gpu-0", "adminAccess": True}))
    await node.released(one)
    assert node.gpus.partitions(ZERO) == Partitions()
    node.gpus.calls.clear()
    assert await node.prepared(await node.claim("b", "gpu-0")) == ["gpu-0"]
    assert node.gpus.calls == []


async def test_a_partition_of_a_former_release_s_administrator_goes_with_its_user(node: MigWorld) -> None:
    admin = await node.claim("admin", small(0))
    await node.prepared(admin)
    await given_to_an_administrator(node, admin, small(0))
    assert await node.prepared(admin) == [small(0)]
    one = await node.claim("a", small(0), small(1))
    await node.prepared(one)
    assert node.gpus.placements(ZERO) == [(19, 0), (19, 1)]
    await node.released(one)
    assert node.gpus.partitions(ZERO) == Partitions()
    await node.released(admin)
    assert node.is_rid_of(admin)


async def test_a_former_release_s_admin_partition_is_destroyed_with_its_claim_unless_used(
    node: MigWorld,
) -> None:
    for is_used in (False, True):
        admin, one = await node.claim(f"admin{is_used}", small(0)), await node.claim(f"a{is_used}", small(0))
        await node.prepared(admin)
        await given_to_an_administrator(node, admin, small(0))
        if is_used:
            await node.prepared(one)
        await node.released(admin)
        assert node.gpus.placements(ZERO) == ([(19, 0)] if is_used else [])
        await node.released(one)
        assert node.gpus.partitions(ZERO) == Partitions()


@pytest.mark.parametrize("succeeds", [True, False])
async def test_a_shared_partition_stays_when_its_admin_claim_leaves_during_a_prepare(
    node: MigWorld, succeeds: bool
) -> None:
    admin = await node.claim("admin", small(0))
    await node.prepared(admin)
    await given_to_an_administrator(node, admin, small(0))
    one = await node.claim("a", small(0), small(1))
    gate = node.gpus.held["create_compute_instance"] = asyncio.Event()
    node.gpus.calls.clear()
    if not succeeds:
        node.gpus.refuse("create_compute_instance", ZERO, refusal(999, "Unknown Error"))
    asked = asyncio.create_task(node.service.prepare([one]))
    await until(lambda: ("create_compute_instance", 0) in node.gpus.calls)
    await node.released(admin)
    assert (19, 0) in node.gpus.placements(ZERO)
    gate.set()
    answer = (await node.timely(asked))[one.uid]
    assert isinstance(answer, tuple) == succeeds
    if succeeds:
        assert node.gpus.placements(ZERO) == [(19, 0), (19, 1)]
    # Whatever came of it, when the claim is gone nothing stands.
    await node.released(one)
    assert node.gpus.partitions(ZERO) == Partitions()
    assert node.is_rid_of(one)


# ── claims half done ───────────────────────────────────────────────────────────────────────────────────────────────


async def begin_and_die(node: MigWorld, ref: ClaimRef) -> None:
    gate = node.gpus.held["create_compute_instance"] = asyncio.Event()
    asked = asyncio.create_task(node.service.prepare([ref]))
    await until(lambda: ("create_compute_instance", 0) in node.gpus.calls)
    node.host.kill_after(0)
    gate.set()
    await node.dies(asked)
    del node.gpus.held["create_compute_instance"]
    await node.restart()
    node.look()
    await node.warm()


async def test_what_a_death_left_half_way_is_rolled_back_by_the_sweep(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await begin_and_die(node, ref)
    assert node.state(ref) == "PrepareStarted"
    assert node.gpus.placements(ZERO) == [(19, 0)]
    await node.timely(node.sweep.half_prepared())
    assert node.is_rid_of(ref)
    assert node.gpus.partitions(ZERO) == Partitions()


async def test_while_it_cannot_be_it_is_looked_at_again_soon(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await begin_and_die(node, ref)
    node.gpus.refuse("destroy_gpu_instance", ZERO, refusal(IN_USE))
    soon = await node.timely(node.sweep.half_prepared())
    assert node.state(ref) == "PrepareStarted"
    later = await node.timely(node.sweep.half_prepared())
    assert soon < later
    assert node.is_rid_of(ref)


async def test_nor_while_its_gpu_cannot_be_read(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await begin_and_die(node, ref)
    seen, node.inventory = node.inventory, replace(node.inventory, gpus={}, devices={}, unread="no driver is loaded")
    soon = await node.timely(node.sweep.half_prepared())
    assert node.state(ref) == "PrepareStarted"
    node.inventory = seen
    assert await node.timely(node.sweep.half_prepared()) > soon
    assert node.is_rid_of(ref)


async def test_a_claim_in_work_is_no_claim_half_done(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    gate = node.gpus.held["create_compute_instance"] = asyncio.Event()
    asked = asyncio.create_task(node.service.prepare([ref]))
    await until(lambda: ("create_compute_instance", 0) in node.gpus.calls)
    await node.timely(node.sweep.half_prepared())
    gate.set()
    assert isinstance((await node.timely(asked))[ref.uid], tuple)
    await node.timely(node.sweep.half_prepared())
    assert node.state(ref) == "PrepareCompleted"
    assert node.gpus.placements(ZERO) == [(19, 0)]


async def test_a_plain_claim_that_was_begun_is_the_stale_sweep_s_business(node: MigWorld) -> None:
    ref = await node.claim("a", "gpu-0")
    status = await node.status_of(ref)
    await node.checkpoint_writer.submit(
        lambda _: Change(None, entries={ref.uid: Entry("PrepareStarted", status, (), ref.name, ref.namespace)})
    )
    await node.timely(node.sweep.half_prepared())
    assert node.state(ref) == "PrepareStarted"
