"""The stand-in for nvidia-cuda-mps-control: what was seen of the real one on an H200, and faults on demand."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nvdra_mock_nvml import lay_out

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Mps:
    """A driver root with the program, and the folders of one daemon."""

    root: Path
    pipe: Path
    log: Path

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "usr/bin/nvidia-cuda-mps-control", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={"CUDA_MPS_PIPE_DIRECTORY": str(self.pipe), "CUDA_MPS_LOG_DIRECTORY": str(self.log)},
            check=False,
        )

    def ask(self, *commands: str) -> str:
        return self.run(stdin="".join(f"{command}\n" for command in commands)).stdout

    def fault(self, *words: str) -> None:
        (self.root / "etc").mkdir(exist_ok=True)
        (self.root / "etc/nvdra-mock-mps").write_text("\n".join(words))


@pytest.fixture
def mps(tmp_path: Path) -> Iterator[Mps]:
    # Longer than a socket's path may be.
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    root = lay_out(tmp_path / "root", "h100x8", gpus=(0,), device_files="regular").root
    made = Mps(root, deep / "pipe", deep / "log")
    yield made
    made.fault()
    pid = made.pipe / "nvidia-cuda-mps-control.pid"
    if pid.exists():
        os.kill(int(pid.read_text()), 9)


def test_a_daemon_has_the_real_ones_files(mps: Mps) -> None:
    assert mps.run("-d").returncode == 0
    kinds = {
        path.name: (stat.S_IFMT(path.lstat().st_mode), path.lstat().st_mode & 0o777) for path in mps.pipe.iterdir()
    }
    assert kinds["control"] == (stat.S_IFSOCK, 0o666)
    assert kinds["control_privileged"] == (stat.S_IFSOCK, 0o755)
    assert stat.S_ISFIFO(kinds["log"][0])
    assert kinds.keys() == {"control", "control_lock", "control_privileged", "log", "nvidia-cuda-mps-control.pid"}


def test_commands_are_answered_one_line_each(mps: Mps) -> None:
    mps.run("-d", "-M")
    assert mps.ask("get_default_active_thread_percentage") == "100.0\n"
    assert mps.ask("set_default_active_thread_percentage 50") == "50.0\n"
    assert mps.ask("set_default_device_pinned_mem_limit 0 1024M", "get_default_device_pinned_mem_limit 0") == "1G\n"
    assert mps.ask("get_default_device_pinned_mem_limit 1") == "\n"
    assert mps.ask("get_server_list") == ""
    assert mps.run("--as-client").returncode == 0
    assert int(mps.ask("get_server_list"))
    log = (mps.log / "control.log").read_text()
    for text in ("Accepting connection...", "NEW UI", "Cmd:get_server_list", "UI closed", "NEW CLIENT "):
        assert text in log


def test_quit_ends_it_and_leaves_what_the_real_one_leaves(mps: Mps) -> None:
    mps.run("-d")
    mps.ask("quit")
    assert {path.name for path in mps.pipe.iterdir()} == {"control", "control_lock", "control_privileged"}
    ended = mps.run(stdin="get_server_list\n")
    assert (ended.returncode, ended.stdout) == (1, "Cannot find MPS control daemon process\n")
    assert mps.run("-d").returncode == 0


def test_a_second_daemon_is_refused(mps: Mps) -> None:
    mps.run("-d")
    assert mps.run("-d").returncode == 1


def test_faults_come_on_demand(mps: Mps) -> None:
    mps.fault("refuse")
    assert mps.run("-d").returncode == 1
    mps.fault()
    mps.run("-d")
    mps.fault("wrong")
    assert mps.ask("get_default_active_thread_percentage") == "Unknown error\n"
    mps.fault("hang")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [mps.root / "usr/bin/nvidia-cuda-mps-control"],
            input=b"get_server_list\n",
            env={"CUDA_MPS_PIPE_DIRECTORY": str(mps.pipe)},
            timeout=0.5,
            check=False,
            capture_output=True,
        )
    mps.fault("die")
    assert mps.ask("get_server_list") == ""
    assert mps.run(stdin="get_server_list\n").returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_it_runs_in_a_root_with_nothing_else(mps: Mps, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    (bare / "usr/bin").mkdir(parents=True)
    program = bare / "usr/bin/nvidia-cuda-mps-control"
    program.write_bytes((mps.root / "usr/bin/nvidia-cuda-mps-control").read_bytes())
    program.chmod(0o755)

    def inside(*words: str, stdin: str = "") -> str:
        command = ["chroot", str(bare), "/usr/bin/nvidia-cuda-mps-control", *words]
        ended = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        return ended.stdout

    inside("-d")
    try:
        assert inside(stdin="get_default_active_thread_percentage\n") == "100.0\n"
    finally:
        inside(stdin="quit\n")
