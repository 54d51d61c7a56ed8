"""Claims for partitions, from kubelet's call to the GPU and back: the checkpoint in between, and failures."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.gpu import Partitions
from nvdra.node.claim_service import CALL_TIMEOUT_S, Failure, Prepared, Unprepared
from nvdra.node.locks import FOLDER
from nvdra.nvml import IN_USE
from tests.unit.node.gpus import refusal
from tests.unit.node.mig_world import AT_ZERO, ONE, ZERO, MigWorld, card, half, small, until
from tests.unit.node.world import CHECKPOINT, C, P, cdi_path

# ── there and back ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_claim_s_partition_is_made_and_handed_out(node: MigWorld) -> None:
    ref = await node.claim("a", half(4))
    assert await node.prepared(ref) == [half(4)]
    assert node.gpus.placements(ZERO) == [(9, 4)]
    assert node.state(ref) == "PrepareCompleted"
    (device,) = cdi.parse(node.host.read(cdi_path(ref))).devices
    assert device.name == f"{ref.uid}-{half(4)}"
    assert {"/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap3", "/dev/nvidia-caps/nvidia-cap4"} <= {
        each.path for each in device.edits.device_nodes
    }
    assert node.inventory.partitions[AT_ZERO] == node.gpus.partitions(ZERO)
    assert node.lines(AT_ZERO) == []


async def test_unprepare_leaves_nothing_and_the_gpu_whole(node: MigWorld) -> None:
    before = node.files()
    ref = await node.claim("a", small(0), small(0, minor=1))
    await node.prepared(ref)
    await node.released(ref)
    assert node.files() == before
    assert [node.gpus.partitions(uuid) for uuid in (ZERO, ONE)] == [Partitions(), Partitions()]
    await node.released(ref)  # kubelet asks more often than once


async def test_the_whole_gpu_is_given_after_its_partitions(node: MigWorld) -> None:
    part, whole = await node.claim("part", small(0)), await node.claim("whole", "gpu-0")
    await node.prepared(part)
    assert f"requested device gpu-0 is already allocated to different claim {part.uid}" in await node.refused(whole)
    await node.released(part)
    assert await node.prepared(whole) == ["gpu-0"]
    assert f"requested device {small(0)} is already allocated to different claim {whole.uid}" in await node.refused(
        part
    )


async def test_asked_again_nothing_is_made_again(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    first = await node.prepare(ref)
    node.gpus.calls.clear()
    node.since_now()
    assert await node.prepare(ref) == first
    assert node.gpus.calls == node.effects("fsync") == []


async def test_gpus_whose_mode_stays_are_partitioned_too(tmp_path: Path) -> None:
    ampere = MigWorld(tmp_path, card(0, architecture=7, mig_mode=(1, 1)), card(1, architecture=7))
    ampere.start()
    ref = await ampere.claim("a", small(0))
    assert await ampere.prepared(ref) == [small(0)]
    await ampere.released(ref)
    assert ampere.gpus.partitions(ZERO) == Partitions(is_on=True)
    assert "MIG mode is off" in await ampere.refused(await ampere.claim("b", small(0, minor=1)))
    await ampere.stop()


# ── what is promised of writes and locks ───────────────────────────────────────────────────────────────────────────


async def test_claims_of_one_call_begin_with_one_write_and_end_with_at_most_one_each(node: MigWorld) -> None:
    refs = [await node.claim(f"c{start}", small(start, minor=start % 2)) for start in range(5)]
    gate = node.gpus.held["set_mig_mode"] = asyncio.Event()
    node.since_now()
    asked = asyncio.create_task(node.service.prepare(refs))
    await until(lambda: len(node.gpus.calls) == 2)
    assert node.effects("fsync") == [CHECKPOINT]
    assert {node.state(ref) for ref in refs} == {"PrepareStarted"}
    gate.set()
    answers = await node.timely(asked)
    assert all(isinstance(answer, tuple) for answer in answers.values())
    assert len(node.effects("fsync")) <= 1 + len(refs)
    assert {node.state(ref) for ref in refs} == {"PrepareCompleted"}


async def test_unprepare_makes_two_writes_and_removes_the_file_last(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await node.prepared(ref)
    gate = node.gpus.held["destroy_compute_instance"] = asyncio.Event()
    node.gpus.calls.clear()
    node.since_now()
    asked = asyncio.create_task(node.service.unprepare([ref]))
    await until(lambda: node.gpus.calls)
    # A death here leaves no completed claim whose partition is half gone.
    assert node.state(ref) == "PrepareStarted"
    assert node.checkpoint().entries[ref.uid].prepared != ()
    assert node.has_file(ref)
    assert node.lines(AT_ZERO) == [f"{ref.uid} partition 19@0"]
    gate.set()
    assert (await node.timely(asked))[ref.uid] is None
    assert node.effects("fsync") == [CHECKPOINT, CHECKPOINT]
    durable = [(effect.kind, effect.path) for effect in node.recent_effects if effect.kind in ("rename", "unlink")]
    assert durable == [("rename", CHECKPOINT), ("rename", CHECKPOINT), ("unlink", cdi_path(ref))]


@pytest.mark.parametrize("verb", ["set_mig_mode", "create_gpu_instance", "create_compute_instance"])
async def test_while_a_gpu_is_worked_on_other_claims_are_served(node: MigWorld, verb: str) -> None:
    gate = node.gpus.held[verb] = asyncio.Event()
    slow, plain = await node.claim("slow", small(0)), await node.claim("plain", "gpu-1")
    asked = asyncio.create_task(node.service.prepare([slow]))
    await until(lambda: any(call == (verb, 0) for call in node.gpus.calls))
    assert await node.prepared(plain) == ["gpu-1"]
    await node.released(plain)
    assert node.state(slow) == "PrepareStarted"
    gate.set()
    assert isinstance((await node.timely(asked))[slow.uid], tuple)


async def test_no_claim_waits_for_another_s_gpu(node: MigWorld) -> None:
    gate = node.gpus.held["create_gpu_instance", ZERO] = asyncio.Event()
    slow, fast = await node.claim("slow", small(0)), await node.claim("fast", small(0, minor=1))
    asked = asyncio.create_task(node.service.prepare([slow]))
    await until(lambda: ("create_gpu_instance", 0) in node.gpus.calls)
    assert await node.prepared(fast) == [small(0, minor=1)]
    await node.released(fast)
    assert node.gpus.partitions(ONE) == Partitions()
    assert node.state(slow) == "PrepareStarted"
    gate.set()
    assert isinstance((await node.timely(asked))[slow.uid], tuple)


async def test_claims_of_one_gpu_are_made_before_and_after_each_other_and_never_at_once(node: MigWorld) -> None:
    refs = [await node.claim(f"c{start}", small(start)) for start in range(6)]
    answers = await node.timely(
        asyncio.gather(*(node.service.prepare([ref]) for ref in refs))
    )  # Gpus sees to "at once"
    assert all(isinstance(answer, tuple) for given in answers for answer in given.values())
    assert [verb for verb, _ in node.gpus.calls].count("set_mig_mode") == 1
    node.gpus.calls.clear()
    await node.timely(asyncio.gather(*(node.service.unprepare([ref]) for ref in refs)))
    assert [verb for verb, _ in node.gpus.calls].count("set_mig_mode") == 1
    assert node.gpus.partitions(ZERO) == Partitions()


async def test_an_unprepare_waits_for_the_prepare_under_way(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    gate = node.gpus.held["create_compute_instance"] = asyncio.Event()
    preparing = asyncio.create_task(node.service.prepare([ref]))
    await until(lambda: ("create_compute_instance", 0) in node.gpus.calls)
    releasing = asyncio.create_task(node.service.unprepare([ref]))
    await asyncio.sleep(0.01)
    gate.set()
    assert isinstance((await node.timely(preparing))[ref.uid], tuple)
    assert (await node.timely(releasing))[ref.uid] is None
    assert node.gpus.partitions(ZERO) == Partitions()
    assert node.is_rid_of(ref)


async def test_of_claims_for_one_placement_in_one_call_exactly_one_is_prepared(node: MigWorld) -> None:
    refs = [await node.claim(name, small(0)) for name in ("a", "b")]
    answers = await node.prepare(*refs)
    (holder,) = (ref for ref in refs if isinstance(answers[ref.uid], tuple))
    (other,) = (ref for ref in refs if ref != holder)
    refused = answers[other.uid]
    assert isinstance(refused, Failure)
    assert f"already allocated to different claim {holder.uid}" in refused.error
    assert node.gpus.placements(ZERO) == [(19, 0)]


# ── what fails ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["mig", "set_mig_mode", "create_gpu_instance", "create_compute_instance"])
async def test_a_call_that_is_refused_leaves_nothing_and_is_tried_again(node: MigWorld, verb: str) -> None:
    ref = await node.claim("a", small(0), small(0, minor=1))
    node.gpus.refuse(verb, ZERO, refusal(999, "Unknown Error"))
    text = await node.refused(ref)
    assert text.startswith(f"error preparing devices for claim {ref}: prepare devices failed: error ")
    assert text.endswith("Unknown Error")
    assert node.is_rid_of(ref)
    assert [node.gpus.partitions(uuid) for uuid in (ZERO, ONE)] == [Partitions(), Partitions()]
    assert await node.prepared(ref) == [small(0), small(0, minor=1)]


async def test_one_claim_that_fails_takes_no_other_with_it(node: MigWorld) -> None:
    bad, good, plain = [await node.claim(n, d) for n, d in (("bad", small(0)), ("good", small(1)), ("plain", "gpu-1"))]
    node.gpus.refuse("create_compute_instance", ZERO, refusal(999, "Unknown Error"))
    answers = await node.prepare(bad, good, plain)
    assert [isinstance(answers[ref.uid], tuple) for ref in (bad, good, plain)] == [False, True, True]
    assert node.gpus.placements(ZERO) == [(19, 1)]


async def test_what_cannot_be_taken_back_at_once_is_taken_back_at_the_next_call(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    node.gpus.refuse("create_compute_instance", ZERO, refusal(999, "Unknown Error"))
    node.gpus.refuse("destroy_gpu_instance", ZERO, refusal(IN_USE))
    assert "the rollback failed" in await node.refused(ref)
    assert node.state(ref) == "PrepareStarted"
    assert node.lines(AT_ZERO) == [ref.uid, f"{ref.uid} partition 19@0"]
    assert await node.prepared(ref) == [small(0)]
    await node.released(ref)
    assert node.is_rid_of(ref)


@pytest.mark.parametrize("asked", ["unprepare", "sweep", "the next claim"])
async def test_or_by_whoever_comes_to_it_first(node: MigWorld, asked: str) -> None:
    ref = await node.claim("a", small(0))
    node.gpus.refuse("create_compute_instance", ZERO, refusal(999, "Unknown Error"))
    node.gpus.refuse("destroy_gpu_instance", ZERO, refusal(IN_USE))
    await node.refused(ref)
    match asked:
        case "unprepare":
            await node.released(ref)
        case "sweep":
            await node.timely(node.sweep.half_prepared())
        case _:
            other = await node.claim("b", half(0))
            assert await node.prepared(other) == [half(0)]
            await node.released(other)
    assert node.is_rid_of(ref)
    assert node.gpus.partitions(ZERO) == Partitions()


async def test_a_full_cdi_folder_undoes_what_was_made(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    node.host.refuse("write", C, errno.ENOSPC)
    text = await node.refused(ref)
    assert f"unable to create CDI spec file for claim: {cdi_path(ref)}: No space left on device" in text
    assert node.is_rid_of(ref)
    assert node.gpus.partitions(ZERO) == Partitions()
    node.host.forgive()
    assert await node.prepared(ref) == [small(0)]


async def test_a_claim_decided_beside_one_whose_file_failed_takes_its_place(node: MigWorld) -> None:
    whole, part = await node.claim("whole", "gpu-0"), await node.claim("part", small(0))
    await node.warm()
    node.host.refuse("write", cdi_path(whole), errno.ENOSPC)
    answers = await node.prepare(whole, part)
    assert isinstance(answers[whole.uid], Failure)
    assert isinstance(answers[part.uid], tuple)
    node.host.forgive()
    await node.released(part)
    assert node.lines(AT_ZERO) == []
    assert await node.prepared(whole) == ["gpu-0"]


async def test_a_partition_decided_beside_one_whose_file_failed_leaves_no_lock(node: MigWorld) -> None:
    first, part = await node.claim("first", "gpu-1"), await node.claim("part", small(0))
    await node.warm()
    node.host.refuse("write", cdi_path(first), errno.ENOSPC)
    answers = await node.prepare(first, part)
    assert isinstance(answers[first.uid], Failure)
    assert isinstance(answers[part.uid], tuple)
    assert node.lines(AT_ZERO) == []
    assert node.host.try_lock(f"{P}/{FOLDER}/{AT_ZERO}") is not None


async def test_capabilities_that_are_not_there_undo_what_was_made(node: MigWorld) -> None:
    node.host.write("/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access", "nothing\n")
    ref = await node.claim("a", small(0))
    assert "capabilities file" in await node.refused(ref)
    assert node.is_rid_of(ref)
    assert node.gpus.partitions(ZERO) == Partitions()


async def test_a_checkpoint_that_cannot_be_written_begins_nothing(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    node.host.refuse("fsync", CHECKPOINT, errno.EIO)
    assert f"unable to update checkpoint: {CHECKPOINT}: Input/output error" in await node.refused(ref)
    assert node.gpus.calls == []
    assert node.is_rid_of(ref)
    node.host.forgive()
    assert await node.prepared(ref) == [small(0)]


async def test_a_checkpoint_write_that_fails_at_the_end_is_completed_by_the_next_call(
    node: MigWorld,
) -> None:
    ref = await node.claim("a", small(0))
    gate = node.gpus.held["create_gpu_instance"] = asyncio.Event()
    asked = asyncio.create_task(node.service.prepare([ref]))
    await until(lambda: ("create_gpu_instance", 0) in node.gpus.calls)
    node.host.refuse("fsync", CHECKPOINT, errno.EIO)
    gate.set()
    answer = (await node.timely(asked))[ref.uid]
    assert isinstance(answer, Failure)
    assert "unable to update checkpoint" in answer.error
    assert node.gpus.partitions(ZERO) == Partitions()
    node.host.forgive()
    assert await node.prepared(ref) == [small(0)]


@pytest.mark.parametrize("operation", ["prepare", "unprepare"])
async def test_a_lock_file_that_cannot_be_written_is_named(node: MigWorld, operation: str) -> None:
    ref, plain = await node.claim("a", small(0)), await node.claim("b", "gpu-1")
    if operation == "unprepare":
        await node.prepared(ref)
    node.host.refuse("append", f"{P}/{FOLDER}", errno.ENOSPC)
    why = f"error writing lock file ({P}/{FOLDER}/{AT_ZERO}): No space left on device"
    if operation == "prepare":
        assert await node.refused(ref) == f"error preparing devices for claim {ref}: {why}"
        assert node.is_rid_of(ref)
    else:
        failure = (await node.unprepare(ref))[ref.uid]
        assert failure is not None
        assert failure.error == f"error unpreparing devices for claim {ref}: {why}"
        assert node.state(ref) == "PrepareCompleted"
    assert await node.prepared(plain) == ["gpu-1"]
    node.host.forgive()
    assert await node.prepared(ref) == [small(0)]
    await node.released(ref)


async def test_a_process_in_a_partition_keeps_it_and_is_named(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await node.prepared(ref)
    node.gpus.enter(ZERO, 1, 4711)
    failure = (await node.unprepare(ref))[ref.uid]
    assert failure is not None
    assert failure.error == (
        f"error unpreparing devices for claim {ref}: unprepare devices failed for claim {ref}: error deleting MIG "
        f"device {small(0)}: error destroying Compute Instance: In use by another client (process 4711 is in it)"
    )
    assert node.state(ref) == "PrepareStarted"
    assert node.has_file(ref)
    node.gpus.enter(ZERO, 1)
    await node.released(ref)
    assert node.is_rid_of(ref)


# ── calls that hang ────────────────────────────────────────────────────────────────────────────────────────────────


def still(operation: str, ref: ClaimRef, what: str, verb: str) -> str:
    """The answer at the deadline of a call whose claim waits for NVML."""
    return (
        f"error {'preparing' if operation == 'prepared' else 'unpreparing'} devices for claim {ref}: still being "
        f"{operation} after 40 s: {what}{verb} has not answered for 30 s: {ZERO} is left alone until it does; "
        "the work goes on, and kubelet's retry joins it"
    )


async def at_the_deadline(node: MigWorld, asked: asyncio.Task[Mapping[str, Prepared | Unprepared]]) -> dict[str, str]:
    """The errors that kubelet gets when the call's time is over; "" for claims that succeeded."""
    await node.clock.advance(CALL_TIMEOUT_S - 1)
    assert not asked.done()
    await node.clock.advance(1)
    async with asyncio.timeout(30):
        answers = await asked
    return {uid: answer.error if isinstance(answer, Failure) else "" for uid, answer in answers.items()}


async def test_a_hung_call_is_answered_at_the_deadline_and_the_retry_gets_the_devices(
    node: MigWorld,
) -> None:
    ref, plain = await node.claim("a", small(0), small(1)), await node.claim("b", "gpu-1")
    returns = node.gpus.hang("create_gpu_instance", ZERO)
    asked = asyncio.create_task(node.service.prepare([ref, plain]))
    await until(lambda: node.runner.waiting(ref.uid))
    creating = f"error creating MIG device: error creating GPU instance for '{small(0)}': "
    text = still("prepared", ref, creating, "create_gpu_instance")
    calls = list(node.gpus.calls)
    assert await at_the_deadline(node, asked) == {ref.uid: text, plain.uid: ""}
    again = asyncio.create_task(node.service.prepare([ref]))
    assert await at_the_deadline(node, again) == {ref.uid: text}
    # Nothing was rolled back under the call, nor is the claim taken for one left half way.
    await node.timely(node.sweep.half_prepared())
    assert node.gpus.calls == calls
    assert node.state(ref) == "PrepareStarted"
    assert node.lines(AT_ZERO) == [ref.uid, f"{ref.uid} partition 19@0"]
    joining = asyncio.create_task(node.service.prepare([ref]))
    await asyncio.sleep(0)
    returns.set()
    assert isinstance((await node.timely(joining))[ref.uid], tuple)
    assert node.gpus.placements(ZERO) == [(19, 0), (19, 1)]
    assert (node.state(ref), node.has_file(ref)) == ("PrepareCompleted", True)
    await node.released(ref)
    assert node.is_rid_of(ref)


async def test_unprepare_during_a_hung_call_is_answered_and_succeeds_after_it_returns(
    node: MigWorld,
) -> None:
    ref = await node.claim("a", small(0))
    returns = node.gpus.hang("set_mig_mode", ZERO)
    preparing = asyncio.create_task(node.service.prepare([ref]))
    await until(lambda: node.runner.waiting(ref.uid))
    asked = asyncio.create_task(node.service.unprepare([ref]))
    what = f"error enabling MIG mode for device gpu-0-{ZERO}: "
    assert await at_the_deadline(node, asked) == {ref.uid: still("unprepared", ref, what, "set_mig_mode")}
    assert (await preparing)[ref.uid] is not None
    again = asyncio.create_task(node.service.unprepare([ref]))
    await asyncio.sleep(0)
    returns.set()
    assert (await node.timely(again))[ref.uid] is None
    assert node.is_rid_of(ref)
    assert node.gpus.partitions(ZERO) == Partitions()


async def test_a_rollback_whose_call_hangs_is_answered_at_the_deadline_and_joined(node: MigWorld) -> None:
    ref = await node.claim("a", small(0))
    await node.prepared(ref)
    returns = node.gpus.hang("destroy_gpu_instance", ZERO)
    asked = asyncio.create_task(node.service.unprepare([ref]))
    await until(lambda: node.runner.waiting(ref.uid))
    what = f"error deleting MIG device {small(0)}: error destroying GPU Instance: "
    assert await at_the_deadline(node, asked) == {ref.uid: still("unprepared", ref, what, "destroy_gpu_instance")}
    assert node.state(ref) == "PrepareStarted"
    again = asyncio.create_task(node.service.unprepare([ref]))
    await asyncio.sleep(0)
    returns.set()
    assert (await node.timely(again))[ref.uid] is None
    assert node.is_rid_of(ref)
    assert node.gpus.partitions(ZERO) == Partitions()


async def test_a_claim_waiting_for_a_hung_call_is_answered_at_its_deadline_and_runs_later(node: MigWorld) -> None:
    first, behind = await node.claim("a", small(0)), await node.claim("b", small(1))
    returns = node.gpus.hang("create_compute_instance", ZERO)
    asked = asyncio.create_task(node.service.prepare([first]))
    await until(lambda: node.runner.waiting(first.uid))
    waiting = asyncio.create_task(node.service.prepare([behind]))
    await until(lambda: node.state(behind) == "PrepareStarted")
    error = (await at_the_deadline(node, waiting))[behind.uid]
    assert "still being prepared after 40 s" in error
    await asked
    again = asyncio.create_task(node.service.prepare([first, behind]))
    await asyncio.sleep(0)
    returns.set()
    answers = await node.timely(again)
    assert all(isinstance(answer, tuple) for answer in answers.values())
    assert node.gpus.placements(ZERO) == [(19, 0), (19, 1)]


# ── the sweep beside a GPU whose call never returns ────────────────────────────────────────────────────────────────


async def test_a_hung_call_delays_neither_other_claims_nor_the_sweep(node: MigWorld) -> None:
    hung, other = await node.claim("h", small(0)), await node.claim("o", small(0, minor=1))
    await node.prepared(hung, other)
    node.gpus.held["destroy_compute_instance", ZERO] = asyncio.Event()
    for ref in (hung, other):
        await node.delete(ref)
    await node.timely(node.sweep.stale_claims())
    second = asyncio.create_task(node.sweep.stale_claims())
    await until(lambda: not node.state(other))
    assert node.state(hung) == "PrepareStarted"
    await until(lambda: ("destroy_compute_instance", 0) in node.gpus.calls)
    await node.clock.advance(CALL_TIMEOUT_S)
    await asyncio.wait_for(second, 30)

    # The next sweeps find other claims, and files to put right.
    plain = await node.claim("p", half(0, minor=1))
    await node.prepared(plain)
    await node.delete(plain)
    (node.folder / cdi_path(plain).strip("/")).unlink()
    running = asyncio.create_task(node.sweep.run())
    try:
        await until(lambda: node.has_file(plain))
        for _ in range(4):
            await node.clock.advance(60)
        await until(lambda: not node.state(plain))
        assert node.state(hung) == "PrepareStarted"
        node.gpus.held["destroy_compute_instance", ZERO].set()
        await until(lambda: not node.state(hung))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert node.is_rid_of(hung)


async def test_a_conflict_with_a_claim_whose_rollback_hangs_is_refused_in_time(node: MigWorld) -> None:
    hung, other = await node.claim("h", small(0)), await node.claim("o", "gpu-0")
    await node.prepared(hung)
    node.gpus.held["destroy_compute_instance", ZERO] = asyncio.Event()
    released = asyncio.create_task(node.service.unprepare([hung]))
    await until(lambda: ("destroy_compute_instance", 0) in node.gpus.calls)
    asked = asyncio.create_task(node.service.prepare([other]))
    await node.clock.advance(CALL_TIMEOUT_S)
    for answer in (await asyncio.wait_for(released, 30), await asyncio.wait_for(asked, 30)):
        assert all(isinstance(each, Failure) for each in answer.values())
    counted = generate_latest(node.registry).decode()
    for kind in ("prepare_devices", "unprepare_devices"):
        assert f'errors_total{{driver="gpu.nvidia.com",error_type="{kind}"}}' in counted
    node.gpus.held["destroy_compute_instance", ZERO].set()
    await node.released(hung)
    assert await node.prepared(other) == ["gpu-0"]
