"""SIGUSR2 in a process of its own: one that works, one that is stuck, one that cannot write."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time, threading
from nvdra import telemetry
heavy = {"grpc", "aiohttp", "uvloop", "asyncio", "logging", "json"} & set(sys.modules)
telemetry.install_stack_dump(sys.argv[1])

async def a_claim_in_work():
    import asyncio
    await asyncio.sleep(60)

def serve():
    import asyncio, uvloop
    async def main():
        if sys.argv[2] == "grpc":
            import grpc.aio
            server = grpc.aio.server()
            server.add_insecure_port("127.0.0.1:0")
            await server.start()
        task = asyncio.create_task(a_claim_in_work(), name="claim-u1")
        print("up", sorted(heavy), flush=True)
        await task
    (asyncio.run if sys.argv[2] == "asyncio" else uvloop.run)(main())

def stuck():
    import ctypes
    threading.Thread(target=a_second_thread, daemon=True).start()
    print("up", sorted(heavy), flush=True)
    libc, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    while True:  # the second round never ends: a C call that keeps the interpreter's lock
        libc.pthread_mutex_lock(mutex)

def a_second_thread():
    time.sleep(60)

telemetry.run_plugin(stuck if sys.argv[2] == "stuck" else serve)
"""


class Program:
    def __init__(self, dump: str, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, dump, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        # Nothing heavy is imported before the handler stands.
        assert self.process.stdout.readline() == "up []\n"

    def signal(self) -> None:
        self.process.send_signal(signal.SIGUSR2)

    def sleeps(self) -> None:
        """Returns once it has been asleep for a while: before it is stuck it would renew the file."""
        asleep = 0
        while asleep < 5:
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2][0]
            asleep = asleep + 1 if state == "S" else 0
            time.sleep(0.01)

    def says(self, text: str) -> str:
        """What it wrote to standard error up to the line that holds the text."""
        assert self.process.stderr is not None
        said = ""
        while text not in said:
            line = self.process.stderr.readline()
            assert line, f"ended without saying {text!r}"
            said += line
        return said

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def wait_for(path: Path, text: str, times: int = 1) -> str:
    for _ in range(3000):
        if path.exists() and path.read_text().count(text) >= times:
            return path.read_text()
        time.sleep(0.01)
    pytest.fail(f"{text!r} is not {times} times in {path}")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "grpc"])
def test_a_working_program_dumps_threads_and_tasks_once_a_signal(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "stacks.dump"
    program = Program(str(path), loop)
    assert re.search(
        r"^I\d{4} .* dump\.py:\d+\] Started debug signal handler\(s\)$", program.says("Started debug"), re.M
    )
    for _ in range(3):
        program.signal()
        program.says(f"Wrote: {path}\n")
        text = path.read_text()
        # DROP-IN: this name is what the Go driver's tests look for.
        assert "main.RunPlugin" in text
        assert text.count("Current thread 0x") == 1
        assert "Task claim-u1 waiting:" in text
        assert "in a_claim_in_work" in text
    program.end()
    assert sorted(os.listdir(tmp_path)) == ["stacks.dump"]


def test_a_stuck_program_dumps_too(tmp_path: Path) -> None:
    path = tmp_path / "stacks.dump"
    program = Program(str(path), "stuck")
    program.sleeps()
    program.signal()
    text = wait_for(path, "main.RunPlugin")
    assert "in stuck" in text
    assert "in a_second_thread" in text
    program.signal()
    wait_for(path, "main.RunPlugin", times=2)
    program.end()


def test_a_dump_that_was_deleted_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "stacks.dump"
    program = Program(str(path), "asyncio")
    path.unlink()
    program.signal()
    assert "in serve" in wait_for(path, "main.RunPlugin")
    program.end()


def test_a_link_of_the_dumps_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "stacks.dump", tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    program = Program(str(path), "asyncio")
    program.signal()
    program.says(f"Wrote: {path}\n")
    assert "main.RunPlugin" in path.read_text()
    assert not path.is_symlink()
    assert victim.read_text() == "precious"
    program.end()


def test_without_a_place_to_write_the_stacks_go_to_standard_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "stacks.dump"
    program = Program(str(path), "asyncio")
    program.signal()
    log = program.says("Could not write")
    assert f"Could not write {path}: No such file or directory" in log
    assert "main.RunPlugin" in log
    # Once there is a place, the next signal finds it.
    path.parent.mkdir()
    program.signal()
    wait_for(path, "main.RunPlugin")
    program.end()
