"""Kubelet's calls, against what the API server, the driver and the checkpoint say."""

from __future__ import annotations

import asyncio
import errno
import json
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from nvdra import cdi
from nvdra.node.checkpoint_writer import Change
from nvdra.node.claim_service import Failure
from tests.unit.gpu.scans import inventory
from tests.unit.node.world import CHECKPOINT, C, World, cdi_path


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  what is waited for happens on another thread
            await asyncio.sleep(0.001)


async def test_a_claim_is_prepared_with_one_get_and_one_durable_write(world: World) -> None:
    ref = await world.claim("a", "gpu-0", "gpu-2")
    assert await world.prepared(ref) == ["gpu-0", "gpu-2"]
    assert world.state(ref) == "PrepareCompleted"
    document = cdi.parse(world.host.read(cdi_path(ref)))
    assert [device.name for device in document.devices] == [f"{ref.uid}-gpu-0", f"{ref.uid}-gpu-2"]
    assert dict(world.kube.calls) == {("discover", "resource.k8s.io"): 1, ("get", "resourceclaims"): 1}
    world.since_now()
    world.kube.calls.clear()
    other = await world.claim("b", "gpu-1")
    await world.prepared(other)
    assert dict(world.kube.calls) == {("get", "resourceclaims"): 1}
    assert world.effects("fsync") == [CHECKPOINT]
    assert world.effects("rename") == [cdi_path(other), CHECKPOINT]


async def test_asked_again_it_gives_the_same_answer_and_touches_nothing(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    first = await world.prepare(ref)
    world.since_now()
    assert await world.prepare(ref) == first
    assert world.host.effects[world._mark :] == []


async def test_asked_again_no_lock_is_waited_for(world: World) -> None:
    ref, fresh = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    first = await world.prepare(ref)
    world.kube.calls.clear()
    async with world.host.lock("/plugins/gpu.nvidia.com/pu.lock", timeout_s=1):
        assert await world.timely(asyncio.create_task(world.prepare(ref))) == first
        both = asyncio.create_task(world.prepare(ref, fresh))
        await world.clock.settle()
        assert not both.done()
    assert set(await world.timely(both)) == {ref.uid, fresh.uid}
    assert dict(world.kube.calls) == {("get", "resourceclaims"): 3}
    assert 'operation="prepare"} 4.0' in generate_latest(world.registry).decode()


async def test_a_prepared_claim_that_cannot_be_compared_costs_itself_alone(world: World) -> None:
    good, bad = await world.claim("good", "gpu-0"), await world.claim("bad", "gpu-1")
    first = await world.prepare(good, bad)
    odd = replace(world.checkpoint().entries[bad.uid], status=b"[]")
    await world.checkpoint_writer.submit(lambda _: Change(None, entries={bad.uid: odd}))
    answers = await world.prepare(good, bad)
    assert answers[good.uid] == first[good.uid]
    assert isinstance(answers[bad.uid], Failure)


async def test_old_news_confirms_and_decides_nothing(world: World) -> None:
    """The server's cache is behind: it may repeat what the checkpoint says, and nothing is begun on its word."""
    ref, other = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-2")
    world.kube.lag()
    late = await world.claim("late", "gpu-1")
    first, of_late = await world.prepare(ref), await world.prepare(late)
    assert await world.prepare(ref) == first
    assert await world.prepare(late) == of_late  # the cache has never heard of it
    await world.released(late)
    await world.allocate(other, "gpu-3")
    assert await world.prepared(other) == ["gpu-3"]
    assert await world.prepared(other) == ["gpu-3"]  # the cache says gpu-2
    await world.allocate(ref, "gpu-1")
    assert await world.prepare(ref) == first  # as the checkpoint, and as the cache
    world.kube.heal()
    assert await world.prepared(ref) == ["gpu-1"]


async def test_what_is_released_leaves_nothing(world: World) -> None:
    await world.warm()
    before = world.files()
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    world.since_now()
    world.kube.calls.clear()
    await world.released(ref)
    assert world.files() == before
    assert world.effects("fsync") == [CHECKPOINT]
    assert not world.kube.calls
    await world.released(ref)  # kubelet asks more often than once


async def test_claims_of_one_call_share_one_write(world: World) -> None:
    refs = [await world.claim(f"c{i}", f"gpu-{i}") for i in range(4)]
    await world.warm()
    world.since_now()
    assert await world.prepared(*refs) == ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]
    assert world.effects("fsync") == [CHECKPOINT]
    world.since_now()
    await world.released(*refs)
    assert world.effects("fsync") == [CHECKPOINT]


async def test_one_bad_claim_never_takes_the_others_down(world: World) -> None:
    good = await world.claim("good", "gpu-0")
    taken = await world.claim("taken", "gpu-1")
    await world.prepared(taken)
    bad = {
        "unallocated": await world.claim("unallocated"),
        "overlap": await world.claim("overlap", "gpu-1"),
        "unknown": await world.claim("unknown", "gpu-77"),
        "elsewhere": await world.claim("elsewhere", {"device": "gpu-2", "pool": "node-b"}),
        "foreign": await world.claim("foreign", {"device": "nic-0", "driver": "nic.example.com"}),
        "missing": (await world.claim("missing", "gpu-2")),
        "replaced": (await world.claim("replaced", "gpu-2")),
    }
    await world.delete(bad["missing"])
    await world.delete(bad["replaced"])
    await world.claim("replaced", "gpu-2")
    answers = await world.prepare(good, *bad.values())
    assert isinstance(answers[good.uid], tuple)
    texts = {}
    for name, ref in bad.items():
        answer = answers[ref.uid]
        assert isinstance(answer, Failure)
        assert not answer.permanent
        prefix = f"error preparing devices for claim {ref}: "
        assert answer.error.startswith(prefix)
        texts[name] = answer.error.removeprefix(prefix)
    assert texts["unallocated"] == "claim ns/unallocated not allocated"
    assert texts["replaced"] == "claim ns/replaced got replaced"
    assert texts["missing"].startswith("retrieve claim ns/missing: ")
    assert texts["overlap"].endswith(f"requested device gpu-1 is already allocated to different claim {taken.uid}")
    assert texts["unknown"].startswith('prepare devices failed: allocatable not found for device "gpu-77"')
    assert 'in pool "node-b"' in texts["elsewhere"]
    assert "allocated no device of gpu.nvidia.com" in texts["foreign"]
    assert set(world.checkpoint().entries) == {good.uid, taken.uid}
    assert [path.name for path in (world.folder / C.strip("/")).iterdir()] == sorted(
        cdi.GPU_CLAIMS.file_name(uid) for uid in (good.uid, taken.uid)
    )
    text = generate_latest(world.registry).decode()
    assert f'errors_total{{driver="gpu.nvidia.com",error_type="prepare_devices"}} {len(bad)}' in text


async def test_a_bad_config_is_permanent(world: World) -> None:
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "speed": 1}
    config = [{"source": "FromClaim", "opaque": {"driver": "gpu.nvidia.com", "parameters": parameters}}]
    ref = await world.claim("a", "gpu-0", config=config)
    answer = (await world.prepare(ref))[ref.uid]
    assert isinstance(answer, Failure)
    assert answer.permanent
    assert "speed" in answer.error


async def test_a_second_caller_joins_and_a_cancelled_one_stops_nothing(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    async with world.host.lock("/plugins/gpu.nvidia.com/pu.lock", timeout_s=1):
        first = asyncio.create_task(world.service.prepare([ref]))
        second = asyncio.create_task(world.service.prepare([ref]))
        await world.clock.settle()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    answers = await world.timely(second)
    assert isinstance(answers[ref.uid], tuple)
    assert world.kube.calls["get", "resourceclaims"] == 1
    assert world.state(ref) == "PrepareCompleted"


async def test_the_end_waits_for_work_that_nobody_waits_for_any_more(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    async with world.host.lock("/plugins/gpu.nvidia.com/pu.lock", timeout_s=1):
        caller = asyncio.create_task(world.service.prepare([ref]))
        await world.clock.settle()
        caller.cancel()
        await world.service.finish(0.01)  # not for ever
        end = asyncio.create_task(world.service.finish(30))
        await world.clock.settle()
        assert not end.done()
    await world.timely(end)
    assert world.state(ref) == "PrepareCompleted"
    await world.service.finish(30)


async def test_unprepare_waits_for_the_prepare_under_way(world: World) -> None:
    ref, other = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    await world.prepared(other)
    async with world.host.lock("/plugins/gpu.nvidia.com/pu.lock", timeout_s=1):
        preparing = asyncio.create_task(world.service.prepare([ref]))
        await world.clock.settle()
        releasing = asyncio.create_task(world.service.unprepare([ref, other]))
        await world.clock.settle()
    assert isinstance((await world.timely(preparing))[ref.uid], tuple)
    assert await world.timely(releasing) == {ref.uid: None, other.uid: None}
    assert not world.checkpoint().entries
    assert not world.has_file(ref)


# ── the API server ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", ["away", "slow", 401, 403, 500, 503])
async def test_a_prepared_claim_is_answered_from_the_checkpoint_without_the_api_server(
    world: World, error: str | int
) -> None:
    ref, fresh = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    first = await world.prepare(ref)
    match error:
        case "away":
            world.kube.go_away()
        case "slow":
            world.kube.fail(0, times=100, message="the API server did not answer within 2 s")
        case int():
            world.kube.fail(error, times=100)
    began = world.clock.now()
    assert await world.prepare(ref) == first
    assert world.clock.now() - began <= 2.5
    text = await world.refused(fresh)
    assert f"error preparing devices for claim {fresh}: retrieve claim ns/b: " in text
    await world.released(ref)  # unprepare asks nobody
    assert not world.checkpoint().entries


async def test_an_api_server_that_comes_back_in_time_is_not_noticed(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    world.kube.fail(0, times=1)
    world.kube.fail(429, times=1, retry_after_s=1)
    world.kube.fail(503, times=1)
    assert await world.prepared(ref) == ["gpu-0"]


async def test_a_retry_after_longer_than_our_patience_is_not_waited_for(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    world.kube.fail(429, times=1, retry_after_s=30, message="too many requests, come later")
    began = world.clock.now()
    assert "too many requests" in await world.refused(ref)
    assert world.clock.now() - began < 1
    assert await world.prepared(ref) == ["gpu-0"]


async def test_what_fetching_one_claim_does_not_expect_costs_that_claim_alone(world: World) -> None:
    good, bad = await world.claim("good", "gpu-0"), await world.claim("bad", "gpu-1")
    source, ask = world.service._source, world.service._source.claim

    async def claim(namespace: str, name: str, *, timeout_s: float, cached: bool = False) -> bytes:
        if name == "bad":
            raise RuntimeError("a surprise")
        return await ask(namespace, name, timeout_s=timeout_s)

    source.claim = claim  # type: ignore[method-assign]
    answers = await world.prepare(good, bad)
    assert isinstance(answers[good.uid], tuple)
    assert isinstance(answers[bad.uid], Failure)
    assert "a surprise" in answers[bad.uid].error


# ── allocated anew, repaired, unknown ──────────────────────────────────────────────────────────────────────────────


async def test_a_claim_allocated_anew_is_unprepared_first(world: World) -> None:
    ref, other = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-0")
    await world.prepared(ref)
    await world.allocate(ref, "gpu-1")
    world.since_now()
    assert await world.prepared(ref) == ["gpu-1"]
    # Never the old entry with the new file: the entry leaves, the file goes, then both come anew.
    steps = [(e.kind, e.path) for e in world.host.effects[world._mark :] if e.kind in ("rename", "unlink")]
    assert steps == [
        ("rename", CHECKPOINT),
        ("unlink", cdi_path(ref)),
        ("rename", cdi_path(ref)),
        ("rename", CHECKPOINT),
    ]
    assert [d.name for d in cdi.parse(world.host.read(cdi_path(ref))).devices] == [f"{ref.uid}-gpu-1"]
    assert await world.prepared(other) == ["gpu-0"]


async def test_a_lost_file_is_written_again_and_the_checkpoint_is_not(world: World) -> None:
    ref = await world.claim("a", "gpu-0", "gpu-1")
    first = await world.prepare(ref)
    before = world.files()
    await world.host.remove(cdi_path(ref))
    world.since_now()
    assert await world.prepare(ref) == first
    assert world.files() == before
    assert world.effects("fsync") == []
    # Also from the checkpoint alone.
    await world.host.remove(cdi_path(ref))
    world.kube.go_away()
    assert await world.prepare(ref) == first
    assert world.files() == before


async def test_a_fresh_program_repairs_from_the_checkpoint_alone(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    first = await world.prepare(ref)
    before = world.files()
    await world.host.remove(cdi_path(ref))
    await world.restart()
    world.kube.go_away()
    assert await world.prepare(ref) == first
    assert world.files() == before


async def test_an_unknown_device_is_looked_for_and_prepared_in_the_same_call(world: World) -> None:
    world.inventory = inventory(1)
    ref = await world.claim("a", "gpu-2")
    world.on_rescan = lambda: setattr(world, "inventory", inventory(4))
    assert await world.prepared(ref) == ["gpu-2"]
    assert world.rescans == 1


async def test_a_device_that_stays_unknown_is_looked_for_once_a_call(world: World) -> None:
    ref = await world.claim("a", "gpu-77")
    text = await world.refused(ref)
    assert 'allocatable not found for device "gpu-77"' in text
    assert world.rescans == 1


async def test_a_scan_between_look_up_and_write_is_not_noticed(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    other = await world.claim("b", "gpu-1")
    await world.prepared(other)
    world.edits_provider.forget()
    assert await world.prepared(ref) == ["gpu-0"]


async def test_without_a_driver_a_prepared_claim_is_refused_and_can_be_unprepared(
    world: World,
) -> None:
    """No container with its file would start."""
    ref, fresh = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    await world.prepared(ref)
    for path in (world.folder / "driver/usr/lib64").iterdir():
        path.unlink()
    (world.folder / "driver/dev/nvidia-uvm").unlink()
    for each in (ref, fresh):
        assert "failed to get common CDI spec edits" in await world.refused(each)
    await world.released(ref)


async def test_an_orphan_of_an_unprepared_claim_is_removed_with_it(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    content = world.host.read(cdi_path(ref))
    await world.released(ref)
    world.host.write(cdi_path(ref), content)
    await world.released(ref)
    assert not world.has_file(ref)


# ── the disk ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_cdi_folder_fails_the_claim_and_leaves_nothing(world: World) -> None:
    good = await world.claim("good", "gpu-0")
    await world.prepared(good)
    before = world.files()
    ref = await world.claim("a", "gpu-1")
    world.host.refuse("write", C, errno.ENOSPC)
    text = await world.refused(ref)
    assert f"unable to create CDI spec file for claim: {cdi_path(ref)}: No space left on device" in text
    assert world.files() == before
    assert await world.prepared(good) == ["gpu-0"]
    world.host.forgive()
    assert await world.prepared(ref) == ["gpu-1"]


async def test_a_checkpoint_that_cannot_be_written_fails_all_and_leaves_nothing(world: World) -> None:
    good = await world.claim("good", "gpu-0")
    await world.prepared(good)
    before = world.files()
    refs = [await world.claim("a", "gpu-1"), await world.claim("b", "gpu-2")]
    world.host.refuse("fsync", CHECKPOINT, errno.EIO)
    answers = await world.prepare(*refs, good)
    assert isinstance(answers[good.uid], tuple)
    for ref in refs:
        answer = answers[ref.uid]
        assert isinstance(answer, Failure)
        assert f"unable to update checkpoint: {CHECKPOINT}: Input/output error" in answer.error
    assert world.files() == before
    released = (await world.unprepare(good))[good.uid]
    assert released is not None
    assert "unable to update checkpoint" in released.error
    assert world.files() == before
    world.host.forgive()
    assert await world.prepared(*refs) == ["gpu-1", "gpu-2"]
    await world.released(good, *refs)


async def test_answers_stay_the_same_text(world: World) -> None:
    """kubelet groups events by text."""
    ref = await world.claim("a", "gpu-77")
    world.kube.fail(500, times=100, message="boom")
    texts = {await world.refused(ref), await world.refused(ref)}
    assert len(texts) == 1
    assert json.dumps(texts.pop())
