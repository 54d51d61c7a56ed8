"""The sweep: what crashes, force-deleted pods, lost checkpoints and reboots leave, and how it is put right."""

from __future__ import annotations

import asyncio
import errno
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from nvdra import telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.gpu import Inventory
from nvdra.node import checkpoint_writer as checkpoint_writer_module
from nvdra.node.checkpoint_file import UNREADABLE
from nvdra.node.checkpoint_writer import Change
from nvdra.node.sweep import EVERY_S, LIST_PAUSE_LIMIT_S, LOOK_S, SECOND_LOOK_S
from tests.unit.gpu.scans import inventory
from tests.unit.node.world import CHECKPOINT, C, P, World, cdi_path


async def begun(world: World, ref: ClaimRef, name: str = "") -> None:
    """The checkpoint of a prepare that was begun and never ended, as the Go driver leaves it."""
    status = json.dumps(world.kube.objects("resourceclaims")[0]["status"]).encode()
    entry = Entry("PrepareStarted", status, (), ref.name, ref.namespace)
    await world.checkpoint_writer.submit(lambda checkpoint: Change(None, entries={ref.uid: entry}))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged at the chart's verbosity."""
    out = io.StringIO()
    telemetry.set_up(stream=out, verbosity=4)
    yield out
    telemetry.set_up()


async def nameless(world: World, ref: ClaimRef) -> None:
    """A completed entry as the Go driver leaves it."""

    def forget_name(checkpoint: Checkpoint) -> Change[None]:
        entry = checkpoint.entries[ref.uid]
        return Change(None, entries={ref.uid: Entry(entry.state, entry.status, entry.prepared)})

    await world.checkpoint_writer.submit(forget_name)


# ── claims that are gone ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_started_claim_that_no_longer_exists_is_unprepared_at_once(world: World, log: io.StringIO) -> None:
    ref = await world.claim("a", "gpu-0")
    await begun(world, ref)
    assert await world.timely(world.sweep.stale_claims()) > SECOND_LOOK_S
    assert world.state(ref) == "PrepareStarted"
    assert f"partially prepared claim not stale: {ref.namespace}/{ref.name}\n" in log.getvalue()
    await world.delete(ref)
    await world.timely(world.sweep.stale_claims())
    assert not world.checkpoint().entries
    assert f"Checkpointed RC cleanup: unprepared stale claim: {ref.namespace}/{ref.name}" in log.getvalue()


async def test_a_completed_claim_that_is_gone_gets_a_second_look(world: World) -> None:
    ref, alive = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    await world.prepared(ref, alive)
    await world.delete(ref)
    assert await world.timely(world.sweep.stale_claims()) == SECOND_LOOK_S
    assert world.state(ref) == "PrepareCompleted"
    assert await world.timely(world.sweep.stale_claims()) >= EVERY_S * 0.9
    assert set(world.checkpoint().entries) == {alive.uid}
    assert not world.has_file(ref)
    assert world.has_file(alive)


@pytest.mark.parametrize("what", ["replaced", "deallocated", "elsewhere"])
async def test_what_else_makes_an_entry_stale(world: World, what: str) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    match what:
        case "replaced":
            await world.delete(ref)
            await world.claim("a", "gpu-0")
        case "deallocated":
            await world.deallocate(ref)
        case "elsewhere":
            await world.allocate(ref, {"device": "gpu-0", "pool": "node-b"})
    for _ in range(2):
        await world.timely(world.sweep.stale_claims())
    assert not world.checkpoint().entries


@pytest.mark.parametrize("status", [0, 401, 403, 500])
async def test_silence_frees_nothing(world: World, status: int) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    await world.delete(ref)
    world.kube.fail(status, times=1000)
    for _ in range(3):
        await world.timely(world.sweep.stale_claims())
    assert world.state(ref) == "PrepareCompleted"


async def test_a_claim_prepared_anew_while_it_is_looked_at_is_kept(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    await world.deallocate(ref)
    await world.timely(world.sweep.stale_claims())
    ask = world.sweep._source.claim

    async def claim(namespace: str, name: str, *, timeout_s: float) -> bytes:
        answer = await ask(namespace, name, timeout_s=timeout_s)
        await world.allocate(ref, "gpu-1")
        assert isinstance((await world.service.prepare([ref]))[ref.uid], tuple)
        return answer

    world.sweep._source.claim = claim  # type: ignore[method-assign]
    world.service._source = type(world.service._source)(world.kube)
    await world.timely(world.sweep.stale_claims())
    assert world.state(ref) == "PrepareCompleted"
    assert world.has_file(ref)


async def test_entries_without_a_name_are_looked_for_in_a_list(world: World) -> None:
    gone, alive = await world.claim("gone", "gpu-0"), await world.claim("alive", "gpu-1")
    await world.prepared(gone, alive)
    await nameless(world, gone)
    await nameless(world, alive)
    world.kube.calls.clear()
    await world.timely(world.sweep.stale_claims())
    assert dict(world.kube.calls) == {("list", "resourceclaims"): 1}
    await world.delete(gone)
    world.kube.fail(500, times=1, verb="list")
    assert await world.timely(world.sweep.stale_claims()) > SECOND_LOOK_S
    for _ in range(2):
        assert set(world.checkpoint().entries) == {gone.uid, alive.uid}
        await world.timely(world.sweep.stale_claims())
    assert set(world.checkpoint().entries) == {alive.uid}


# ── files without an entry ─────────────────────────────────────────────────────────────────────────────────────────


async def test_leftovers_of_ours_go_and_those_of_others_stay(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    kept = world.files()
    others = {
        f"{C}/spec.123.tmp": b"another CDI writer at work",
        f"{C}/nvidia.yaml": b"x",
        f"{C}/nvidia.yaml.5.tmp": b"x",
        f"{C}/k8s.compute-domain.nvidia.com-claim_u.yaml": b"x",
        f"{P}/dra.sock.old": b"x",
        f"{P}/.hidden": b"x",
    }
    for path, content in {
        **others,
        f"{C}/k8s.gpu.nvidia.com-claim_orphan.yaml": b"x",
        f"{C}/k8s.gpu.nvidia.com-claim_{ref.uid}.yaml.77.tmp": b"x",
        f"{P}/.4711": b"x",
    }.items():
        world.host.write(path, content)
    await world.timely(world.sweep.leftovers())
    assert world.files() == {**kept, **others}


async def test_a_killed_writer_s_file_is_known_as_ours(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.warm()
    before = world.files()
    world.host.refuse("unlink", C, errno.EIO)
    world.host.kill_after(2)  # the CDI file beside is made and written
    asked = asyncio.create_task(world.service.prepare([ref]))
    await world.dies(asked)
    await world.restart()
    assert len(world.files()) == len(before) + 1
    await world.timely(world.sweep.leftovers())
    assert world.files() == before


# ── a lost checkpoint ──────────────────────────────────────────────────────────────────────────────────────────────────

DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "corrupt": lambda content: content.replace(b"gpu-0", b"gpu-3"),
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "nothing like it": lambda content: b"\x00\xff" * 500,
    "future": lambda content: b'{"checksum":1,"v9":{"preparedClaims":{}}}',
    "missing": lambda content: None,
}


async def lose(world: World, damage: str, *, read: bool = True) -> bytes:
    """Damage the checkpoint while no program runs; its former content.

    read   the new program looks at it, as at its start
    """
    content = world.host.read(CHECKPOINT)
    damaged = DAMAGE[damage](content)
    if damaged is None:
        (world.folder / CHECKPOINT.strip("/")).unlink()
    else:
        world.host.write(CHECKPOINT, damaged, mode=0o600)
    await world.restart()
    if read:
        await world.checkpoint_writer.submit(Change)
    return content


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_lost_checkpoint_is_made_up_from_files_and_claims(world: World, damage: str) -> None:
    running, gone, moved = [await world.claim(name, f"gpu-{i}") for i, name in enumerate(("running", "gone", "moved"))]
    first = await world.prepare(running, gone, moved)
    await world.delete(gone)
    await world.allocate(moved, "gpu-3")
    before = await lose(world, damage)
    await world.timely(world.sweep.settle())
    assert not world.file.is_quarantined
    entries = world.checkpoint().entries
    assert entries == {running.uid: decode_checkpoint(before).entries[running.uid]}
    assert [world.has_file(ref) for ref in (running, gone, moved)] == [True, False, False]
    assert (await world.prepare(running))[running.uid] == first[running.uid]
    if damage not in ("missing",):
        assert world.host.read(f"{P}/{UNREADABLE}") == DAMAGE[damage](before)
    await world.released(running)


@pytest.mark.parametrize("damage", ["corrupt", "missing"])
async def test_until_the_api_server_answers_devices_in_files_are_refused(world: World, damage: str) -> None:
    running, other = await world.claim("running", "gpu-0"), await world.claim("other", "gpu-0")
    free = await world.claim("free", "gpu-1")
    first = await world.prepare(running)
    await lose(world, damage)
    world.kube.fail(500, times=1000, verb="list")
    for _ in range(2):
        await world.timely(world.sweep.settle())
        assert world.file.is_quarantined
        assert f"gpu-0 may still be in use by claim {running.uid}" in await world.refused(other)
        await world.timely(world.sweep.leftovers())
        assert world.has_file(running)
        # A restart in between forgets nothing.
        await world.restart()
    assert await world.prepared(free) == ["gpu-1"]
    world.kube.heal()
    await world.timely(world.sweep.settle())
    assert not world.file.is_quarantined
    assert (await world.prepare(running))[running.uid] == first[running.uid]
    assert "already allocated to different claim" in await world.refused(other)
    await world.released(running)
    assert await world.prepared(other) == ["gpu-0"]


async def test_a_claim_of_a_lost_checkpoint_may_be_prepared_and_released_at_any_time(world: World) -> None:
    ref, other = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    first = await world.prepare(ref, other)
    await lose(world, "corrupt")
    assert await world.prepare(ref) == {ref.uid: first[ref.uid]}
    await world.released(other)
    assert not world.has_file(other)
    await world.timely(world.sweep.settle())
    assert set(world.checkpoint().entries) == {ref.uid}


async def test_an_unreadable_claim_decides_nothing(world: World) -> None:
    ref, odd = await world.claim("a", "gpu-0"), await world.claim("odd", "gpu-1")
    await world.prepared(ref, odd)
    await lose(world, "corrupt")
    ask = world.sweep._source.claims

    async def claims() -> tuple[bytes, ...]:
        listed = await ask()
        return tuple(
            json.dumps({**json.loads(b), "status": {"allocation": 7}}).encode() if odd.uid.encode() in b else b
            for b in listed
        )

    world.sweep._source.claims = claims  # type: ignore[method-assign]
    await world.timely(world.sweep.settle())
    assert set(world.checkpoint().entries) == {ref.uid}
    assert world.has_file(odd)
    assert world.file.is_quarantined
    world.sweep._source.claims = ask  # type: ignore[method-assign]
    await world.clock.advance(EVERY_S)
    await world.timely(world.sweep.settle())
    assert set(world.checkpoint().entries) == {ref.uid, odd.uid}
    assert not world.file.is_quarantined


async def test_a_device_unknown_here_is_waited_for_without_asking_again_and_again(world: World) -> None:
    known, unknown = await world.claim("known", "gpu-0"), await world.claim("unknown", "gpu-1")
    await world.prepared(known, unknown)
    await lose(world, "corrupt")
    world.inventory = Inventory({"gpu-0": inventory(1).devices["gpu-0"]})
    world.kube.calls.clear()
    for _ in range(5):
        assert await world.timely(world.sweep.settle()) == LOOK_S
    assert world.kube.calls["list", "resourceclaims"] == 1
    assert set(world.checkpoint().entries) == {known.uid}
    await world.clock.advance(EVERY_S)
    await world.timely(world.sweep.settle())
    assert world.kube.calls["list", "resourceclaims"] == 2
    assert world.file.is_quarantined
    # The GPU comes back: then it is worth asking at once.
    world.inventory = inventory(4)
    await world.timely(world.sweep.settle())
    assert set(world.checkpoint().entries) == {known.uid, unknown.uid}
    assert not world.file.is_quarantined


async def test_a_silent_api_server_is_asked_less_and_less(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    await lose(world, "missing")
    world.kube.go_away()
    pauses = [await world.timely(world.sweep.settle()) for _ in range(6)]
    assert pauses == [5.0, 10.0, 20.0, 40.0, LIST_PAUSE_LIMIT_S, LIST_PAUSE_LIMIT_S]


# ── a reboot ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_after_a_reboot_nothing_is_rebuilt_and_leftovers_go(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    world.host.boot = "99999999-2222-3333-4444-555555555555"
    await world.restart()
    assert await world.checkpoint_writer.submit(
        lambda checkpoint: Change((checkpoint.boot_id, len(checkpoint.entries)))
    ) == (
        world.host.boot,
        0,
    )
    assert not world.file.is_quarantined
    await world.timely(world.sweep.leftovers())
    assert not world.has_file(ref)
    assert await world.prepared(ref) == ["gpu-0"]


# ── the loop ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def looping(world: World, what: Callable[[], Awaitable[Any]], until: Callable[[], bool]) -> None:
    """Let the sweep run on its own clock while `what` is done, until a condition holds."""
    running = asyncio.create_task(world.sweep.run())
    try:
        await what()
        async with asyncio.timeout(30):
            while not until():
                await asyncio.sleep(0.001)
                await world.clock.advance(1)
                assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def nothing() -> None:
    pass


async def test_everything_is_swept_by_itself(world: World) -> None:
    running, gone = await world.claim("running", "gpu-0"), await world.claim("gone", "gpu-1")
    await world.prepared(running, gone)
    await lose(world, "corrupt")
    await looping(world, nothing, lambda: not world.file.is_quarantined and len(world.checkpoint().entries) == 2)
    world.host.write(f"{C}/k8s.gpu.nvidia.com-claim_orphan.yaml", b"x")
    await looping(world, lambda: world.delete(gone), lambda: set(world.checkpoint().entries) == {running.uid})
    await looping(world, nothing, lambda: not (world.folder / "cdi/k8s.gpu.nvidia.com-claim_orphan.yaml").exists())


async def test_a_checkpoint_lost_under_a_running_program_is_settled_too(world: World) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)

    async def damage() -> None:
        await world.clock.advance(5)
        await world.host.replace(CHECKPOINT, b"{", mode=0o600, durable=False)
        await world.checkpoint_writer.submit(Change)

    await looping(world, damage, lambda: not world.file.is_quarantined and len(world.checkpoint().entries) == 1)


@pytest.mark.parametrize("trouble", ["locks", "disk"])
async def test_the_loop_outlives_locks_held_by_others_and_a_full_disk(
    world: World, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    await lose(world, "corrupt", read=False)
    monkeypatch.setattr(checkpoint_writer_module, "LOCK_TIMEOUT_S", 0.01)
    lock = world.host.try_lock(f"{P}/pu.lock") if trouble == "locks" else None
    if trouble == "disk":
        world.host.refuse("write", P, errno.ENOSPC)

    async def trouble_ends() -> None:
        for _ in range(50):
            await asyncio.sleep(0.002)
            await world.clock.advance(10)
        if lock is not None:
            lock.close()
        world.host.forgive()

    def is_settled() -> bool:
        try:
            return set(world.checkpoint().entries) == {ref.uid} and not world.file.is_quarantined
        except (OSError, ValueError):  # lost, or just set aside
            return False

    await looping(world, trouble_ends, is_settled)
    assert world.has_file(ref)
    assert world.host.read(cdi_path(ref))


async def test_where_nothing_is_made_for_claims_nobody_looks_for_what_is_half_done(world: World) -> None:
    held = world.host.try_lock(f"{P}/pu.lock")
    assert held is not None
    assert await world.sweep.half_prepared() == EVERY_S  # at once: it wants no lock
    held.close()
