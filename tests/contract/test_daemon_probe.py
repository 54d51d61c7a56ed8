"""The compiled compute-domain-daemon: its probe's answers and costs, and the hand-over of any other command."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "native/target/static/release/compute-domain-daemon"
TIMEOUT_S = 30.0
MOST_KIB = 3 * 1024


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The program as `make build` makes it."""
    if not PROGRAM.exists():
        subprocess.run(["make", "-C", str(ROOT), ".make/daemon"], check=True, timeout=110, capture_output=True)


@dataclass(frozen=True)
class Pod:
    """A folder with a control program that answers as told."""

    folder: Path

    def answers(self, text: str, status: int = 0, error: str = "") -> None:
        control = self.folder / "nvidia-imex-ctl"
        control.write_text(f"#!/bin/sh\nprintf '%s' '{error}' >&2\nprintf '{text}'\nexit {status}\n")
        control.chmod(0o755)

    def run(self, *words: str, clique: str = "c", **environment: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [PROGRAM, *words],
            env={"PATH": f"{self.folder}:/usr/bin:/bin", "CLIQUE_ID": clique, **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_the_probe_says_what_imex_says(pod: Pod) -> None:
    pod.answers("READY\\n")
    assert pod.run("-v", "4", "check") == (0, "", "")
    pod.answers("INITIALIZING\\n")
    assert pod.run("check") == (1, "", "IMEX daemon not ready: INITIALIZING\n")
    pod.answers("NOT_READY\\n")
    assert pod.run("check") == (1, "", "IMEX daemon not ready: NOT_READY\n")
    pod.answers("READY")
    assert pod.run("check")[0] == 1
    pod.answers("READY\\n", error="a warning\n")
    assert pod.run("check") == (0, "", "")


def test_the_probe_says_why_it_fails(pod: Pod) -> None:
    pod.answers("", status=3, error="no server")
    wanted = "IMEX daemon check failed: error running nvidia-imex-ctl: exit status 3: no server\n"
    assert pod.run("check") == (1, "", wanted)
    (pod.folder / "nvidia-imex-ctl").unlink()
    status, _, error = pod.run("check")
    assert (status, "No such file or directory" in error) == (1, True)


def test_without_fabric_there_is_nothing_to_check(pod: Pod) -> None:
    assert pod.run("check", clique="") == (0, "check succeeded (noop, clique ID is empty)\n", "")
    assert pod.run("--cliqueid", "", "check")[0] == 0
    pod.answers("READY\\n")
    assert pod.run("--cliqueid=c", "check", clique="") == (0, "", "")


def test_any_other_command_is_the_python_programs(pod: Pod) -> None:
    assert pod.run("-v", "4", "run", NVDRA_DAEMON_PROGRAM="/bin/echo") == (0, "-v 4 run\n", "")
    status, _, error = pod.run("run", NVDRA_DAEMON_PROGRAM="/nowhere")
    assert (status, error) == (1, "Error: cannot run /nowhere: No such file or directory (os error 2)\n")


def test_the_probe_needs_little_memory(pod: Pod) -> None:
    """Its time is measured in docs/measurements/domain-daemon.md."""
    control = pod.folder / "nvidia-imex-ctl"
    gate = pod.folder / "gate"
    control.write_text(f"#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.01; done\necho READY\n")
    control.chmod(0o755)
    process = subprocess.Popen([PROGRAM, "check"], env={"PATH": f"{pod.folder}:/usr/bin:/bin", "CLIQUE_ID": "c"})
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        ends = time.monotonic() + TIMEOUT_S
        while not children.read_text():
            assert time.monotonic() < ends
        status = Path(f"/proc/{process.pid}/status").read_text()
        gate.touch()
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
    most = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(most.split()[1]) <= MOST_KIB
