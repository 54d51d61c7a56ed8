"""The ledger: decisions in, durable changes out, one batch at a time."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

import pytest

from nvdra.checkpoint import Checkpoint, Entry
from nvdra.node import checkpoint_writer as checkpoint_writer_module
from nvdra.node.checkpoint_writer import Change, CheckpointError
from tests.unit.node.world import CHECKPOINT, C, P, World

Decide = Callable[[Checkpoint], Change[str]]
STATUS = b"{}"


def entry(name: str) -> Entry:
    return Entry("PrepareCompleted", STATUS, (), name, "ns")


def put(uid: str, *, file: bool = True) -> Decide:
    """A claim prepared: its file, then its entry."""
    write = {f"{C}/{uid}.yaml": uid.encode()} if file else {}
    return lambda checkpoint: Change(f"put {uid}", entries={uid: entry(uid)}, write=write)


def drop(uid: str) -> Decide:
    return lambda checkpoint: Change(f"dropped {uid}", entries={uid: None}, remove=(f"{C}/{uid}.yaml",))


def look(checkpoint: Checkpoint) -> Change[str]:
    return Change(" ".join(sorted(checkpoint.entries)))


async def outcomes(world: World, *decides: Callable[[Checkpoint], Change[Any]]) -> list[Any]:
    """What the decisions of one batch come to."""
    return await asyncio.gather(*map(world.checkpoint_writer.submit, decides), return_exceptions=True)


def names(world: World) -> list[str]:
    return sorted(path.name for path in (world.folder / C.strip("/")).iterdir())


async def test_what_comes_together_shares_a_write_and_sees_what_came_before(world: World) -> None:
    await outcomes(world, look)
    world.since_now()
    assert await outcomes(world, put("a"), look, put("b"), look) == ["put a", "a", "put b", "a b"]
    assert world.effects("fsync") == [CHECKPOINT]
    assert sorted(world.checkpoint().entries) == ["a", "b"]
    # Files before the checkpoint.
    assert world.effects("rename")[-1] == CHECKPOINT


async def test_what_waits_while_a_batch_is_held_shares_one_more_write(world: World) -> None:
    await outcomes(world, look)
    world.since_now()
    async with world.host.lock(f"{P}/pu.lock", timeout_s=1):
        first = asyncio.create_task(world.checkpoint_writer.submit(put("first")))
        await world.clock.settle()
        rest = [asyncio.create_task(world.checkpoint_writer.submit(put(f"c{i}"))) for i in range(20)]
        await world.clock.settle()
    await asyncio.gather(first, *rest)
    assert world.effects("fsync") == [CHECKPOINT, CHECKPOINT]
    assert len(world.checkpoint().entries) == 21


async def test_a_batch_waits_for_what_is_on_its_way(world: World) -> None:
    await outcomes(world, look)
    world.since_now()
    with world.checkpoint_writer.coming():
        first = asyncio.create_task(world.checkpoint_writer.submit(put("a")))
        await asyncio.sleep(0)
        second = asyncio.create_task(world.checkpoint_writer.submit(put("b")))
        await asyncio.sleep(0)
    assert await asyncio.gather(first, second) == ["put a", "put b"]
    assert world.effects("fsync") == [CHECKPOINT]


async def test_a_batch_does_not_wait_for_what_does_not_come(world: World) -> None:
    with world.checkpoint_writer.coming():
        assert await world.timely(asyncio.create_task(world.checkpoint_writer.submit(put("a")))) == "put a"


async def test_what_changes_nothing_writes_nothing(world: World) -> None:
    await outcomes(world, put("a"))
    world.since_now()
    await outcomes(world, look, put("a", file=False))
    assert world.effects("fsync") == []


async def test_after_the_entry_goes_the_file(world: World) -> None:
    await outcomes(world, put("a"), put("b"))
    world.since_now()
    await outcomes(world, drop("a"))
    steps = [(e.kind, e.path) for e in world.host.effects[world._mark :] if e.kind in ("rename", "unlink")]
    assert steps == [("rename", CHECKPOINT), ("unlink", f"{C}/a.yaml")]


async def test_a_file_written_again_in_the_same_batch_stays(world: World) -> None:
    """A sweep takes a file for an orphan, and the claim is prepared right after it."""
    world.host.write(f"{C}/a.yaml", "orphan")
    sweep = Change("swept", remove=(f"{C}/a.yaml",))
    assert await outcomes(world, lambda checkpoint: sweep, put("a")) == ["swept", "put a"]
    assert names(world) == ["a.yaml"]
    assert world.host.read(f"{C}/a.yaml") == b"a"


async def test_a_file_that_cannot_be_written_fails_its_claim_alone(world: World) -> None:
    world.host.refuse("write", f"{C}/bad.yaml", errno.ENOSPC)
    good, bad, seen = await outcomes(world, put("good"), put("bad"), look)
    assert (good, seen) == ("put good", "bad good")
    assert isinstance(bad, CheckpointError)
    assert str(bad) == f"unable to create CDI spec file for claim: {C}/bad.yaml: No space left on device"
    assert sorted(world.checkpoint().entries) == ["good"]
    assert names(world) == ["good.yaml"]


@pytest.mark.parametrize("kind", ["create", "write", "fsync", "rename"])
async def test_a_checkpoint_write_that_fails_rolls_the_whole_batch_back(world: World, kind: str) -> None:
    await outcomes(world, put("old"))
    before = world.files()
    world.host.refuse(kind, CHECKPOINT, errno.ENOSPC)
    done, seen, dropped = await outcomes(world, put("a"), look, drop("old"))
    assert seen == "a old"
    for failed in (done, dropped):
        assert isinstance(failed, CheckpointError)
        assert str(failed) == f"unable to update checkpoint: {CHECKPOINT}: No space left on device"
    assert world.files() == before
    world.host.forgive()
    assert await outcomes(world, look, put("a"), drop("old")) == ["old", "put a", "dropped old"]
    assert names(world) == ["a.yaml"]


async def test_what_cannot_be_taken_back_is_an_orphan_and_no_worse(world: World) -> None:
    await outcomes(world, look)
    world.host.refuse("rename", CHECKPOINT, errno.EROFS)
    world.host.refuse("unlink", C, errno.EROFS)
    (failed,) = await outcomes(world, put("a"))
    assert str(failed) == f"unable to update checkpoint: {CHECKPOINT}: Read-only file system"
    world.host.forgive()
    assert await outcomes(world, look) == [""]


async def test_a_checkpoint_written_but_not_opened_again_counts_as_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outcomes(world, look)

    def too_many(path: str) -> Any:
        raise OSError(errno.EMFILE, "Too many open files", path)

    with monkeypatch.context() as patched:
        patched.setattr(world.host, "hold", too_many)
        assert await outcomes(world, put("a")) == ["put a"]
    assert names(world) == ["a.yaml"]
    assert await outcomes(world, look) == ["a"]


async def test_a_decision_that_raises_is_its_own_failure(world: World) -> None:
    def surprise(checkpoint: Checkpoint) -> Change[str]:
        raise RuntimeError("a surprise")

    failed, done = await outcomes(world, surprise, put("a"))
    assert isinstance(failed, RuntimeError)
    assert done == "put a"
    assert await outcomes(world, look) == ["a"]


async def test_a_caller_that_goes_away_stops_nothing(world: World) -> None:
    async with world.host.lock(f"{P}/pu.lock", timeout_s=1):
        asked = asyncio.create_task(world.checkpoint_writer.submit(put("a")))
        await world.clock.settle()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    assert await outcomes(world, look) == ["a"]
    assert names(world) == ["a.yaml"]


@pytest.mark.parametrize(
    ("lock", "text", "counted"),
    [
        ("pu.lock", "error acquiring prep/unprep lock: timeout acquiring lock ({path})", True),
        ("cp.lock", "unable to get checkpoint: error acquiring cplock: timeout acquiring lock ({path})", False),
    ],
)
async def test_locks_held_by_another_instance_are_waited_for_and_then_named(
    world: World, monkeypatch: pytest.MonkeyPatch, lock: str, text: str, counted: bool
) -> None:
    monkeypatch.setattr(checkpoint_writer_module, "LOCK_TIMEOUT_S", 0.02)
    path = f"{P}/{lock}"
    async with world.host.lock(path, timeout_s=1):
        failed, also = await outcomes(world, put("a"), look)
    assert str(failed) == str(also) == text.format(path=path)
    assert failed.lock is counted
    assert names(world) == []
    assert await outcomes(world, put("a")) == ["put a"]


async def test_another_instance_s_checkpoint_is_read_again(world: World) -> None:
    await outcomes(world, put("ours"))
    content = world.host.read(CHECKPOINT)
    await outcomes(world, put("more"))
    await world.host.replace(CHECKPOINT, content, mode=0o600, durable=False)
    assert await outcomes(world, look) == ["ours"]
    assert sorted(world.checkpoints[-1].entries) == ["ours"]


async def test_an_unreadable_place_is_named(world: World) -> None:
    (world.folder / CHECKPOINT.strip("/")).mkdir()
    failed, also = await outcomes(world, put("a"), look)
    assert str(failed) == str(also) == f"unable to get checkpoint: {CHECKPOINT}: Is a directory"
    (world.folder / CHECKPOINT.strip("/")).rmdir()
    assert await outcomes(world, put("a")) == ["put a"]


async def test_each_new_checkpoint_is_told_once(world: World) -> None:
    await outcomes(world, look)
    assert [sorted(r.entries) for r in world.checkpoints] == [[]]
    await outcomes(world, look, put("a"), put("b"))
    await outcomes(world, look)
    assert [sorted(r.entries) for r in world.checkpoints] == [[], ["a", "b"]]


async def test_who_comes_after_the_end_is_refused(world: World) -> None:
    async with world.host.lock(f"{P}/pu.lock", timeout_s=1):
        running = asyncio.create_task(world.checkpoint_writer.submit(put("a")))
        await world.clock.settle()
        waiting = asyncio.create_task(world.checkpoint_writer.submit(put("b")))
        await world.clock.settle()
        stopping = asyncio.create_task(world.checkpoint_writer.stop())
        await world.clock.settle()
    await stopping
    assert await running == "put a"
    for work in (waiting, world.checkpoint_writer.submit(look)):
        with pytest.raises(CheckpointError, match="shutting down; kubelet will ask its successor"):
            await work
    assert sorted(world.checkpoint().entries) == ["a"]
