"""Programs of others: killed when they take too long, with all they started; heard out only so far."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from nvdra.host import Node


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # dead; whoever is its parent now will see to it


async def gone(pid: int) -> None:
    while is_alive(pid):  # noqa: ASYNC110 - the kernel has no event for it
        await asyncio.sleep(0.01)


async def test_a_program_that_takes_too_long_is_killed_with_its_children(node: Node, tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait"
    with pytest.raises(TimeoutError, match=r"/bin/sh did not end within 0\.5 s and was killed"):
        await node.spawn(["/bin/sh", "-c", script], timeout_s=0.5)
    for name in ("self", "child"):
        await gone(int((tmp_path / name).read_text()))


async def test_a_cancelled_caller_kills_its_program(node: Node, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    task = asyncio.create_task(node.spawn(["/bin/sh", "-c", f"echo $$ > {tmp_path}/started; sleep 600"]))
    pid = int(await asyncio.to_thread((tmp_path / "started").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(pid)


async def test_a_caller_cancelled_at_the_start_leaves_nothing_running(node: Node, tmp_path: Path) -> None:
    written = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {written}.new; mv {written}.new {written}; wait"
    for turns in range(12):
        task = asyncio.create_task(node.spawn(["/bin/sh", "-c", script]))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if written.exists():
            await gone(int(written.read_text()))
            written.unlink()


async def test_a_talkative_program_is_heard_out_but_not_kept(node: Node) -> None:
    finished = await node.spawn(["/bin/sh", "-c", "head -c 5000000 /dev/zero; echo done >&2"])
    assert finished.exit_code == 0
    assert len(finished.stdout) == 256 * 1024
    assert finished.stderr == b"done\n"


async def test_a_program_that_dies_of_a_signal_says_so(node: Node) -> None:
    assert (await node.spawn(["/bin/sh", "-c", "kill -TERM $$"])).exit_code == -signal.SIGTERM


async def test_a_program_gets_the_environment_it_is_given(node: Node) -> None:
    assert (await node.spawn(["/bin/sh", "-c", "echo $A$HOME"], env={"A": "1"})).stdout == b"1\n"


async def test_a_lock_is_waited_for_through_signals(node: Node, tmp_path: Path) -> None:
    seen = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(1))
    try:
        held = node.try_lock(str(tmp_path / "lock"))
        assert held is not None

        async def wait() -> str:
            async with node.lock(str(tmp_path / "lock"), timeout_s=60):
                return "held"

        waiting = asyncio.create_task(wait())
        while len(seen) < 20:
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.002)
        assert not waiting.done()
        held.close()
        assert await waiting == "held"
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


def test_the_programs_own_event_loop_kills_the_same_way(tmp_path: Path) -> None:
    async def run() -> None:
        node = Node()
        finished = await node.spawn(["/bin/sh", "-c", "echo out; exit 3"])
        assert (finished.exit_code, finished.stdout) == (3, b"out\n")
        with pytest.raises(FileNotFoundError):
            await node.spawn(["/none/program"])
        script = f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait"
        with pytest.raises(TimeoutError):
            await node.spawn(["/bin/sh", "-c", script], timeout_s=0.5)
        for name in ("self", "child"):
            await gone(int((tmp_path / name).read_text()))
        task = asyncio.create_task(node.spawn(["/bin/sh", "-c", "sleep 600 & wait"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    uvloop.run(run())


async def test_a_program_is_given_its_input(node: Node) -> None:
    finished = await node.spawn(["/bin/cat"], stdin=b"get_server_list\n")
    assert (finished.exit_code, finished.stdout) == (0, b"get_server_list\n")


async def test_a_program_that_reads_no_input_ends_all_the_same(node: Node) -> None:
    finished = await node.spawn(["/bin/true"], stdin=b"x" * 10)
    assert finished.exit_code == 0
