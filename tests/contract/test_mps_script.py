"""The script of an MPS daemon's container, run by a real shell over a driver root without one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest
from nvdra_mock_nvml import lay_out

from nvdra.gpu.mps import MpsSettings
from nvdra.gpu.mps_deployment import STARTED, script
from nvdra.host import DriverRoot, MpsControl, MpsControlError, MpsControlUnusable, Node
from tests.contract.plugin_node import until

UUID = "GPU-4d4f434b-0000-0000-0000-000000000000"


async def test_the_script_starts_the_daemon_with_its_settings_and_ends_it_when_told(tmp_path: Path) -> None:
    laid = lay_out(tmp_path / "r", "h100x8", gpus=(0,), device_files="regular")
    root = laid.root
    pipe, log = root / "tmp/nvidia-mps", root / "var/log/nvidia-mps"
    pipe.mkdir(parents=True)
    log.mkdir(parents=True)
    (log / "startup.log").write_text("of the daemon before")
    text = script(MpsSettings(50, ((UUID, "1024M"),))).replace("/driver-root", str(root))
    shell = await asyncio.create_subprocess_exec("sh", "-c", text, stdout=subprocess.DEVNULL)
    host = Node()
    try:
        await until(lambda: STARTED in content(log / "startup.log"), "the daemon to start")
        control = MpsControl(host, DriverRoot(str(root), str(root)))
        assert await control.default_percentage(str(pipe)) == 50.0
        assert f"Cmd:set_default_device_pinned_mem_limit {UUID} 1024M" in (log / "control.log").read_text()
        named = pipe / "nvidia-cuda-mps-control.pid"
        pid = int(named.read_text())
        # As seen from a container with PIDs of its own.
        named.write_text("999999999\n")
        with pytest.raises(MpsControlUnusable, match="PID namespace"):
            await control.default_percentage(str(pipe))
        named.write_text(f"{pid}\n")
        shell.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(shell.wait(), 20) == 0
        await until(lambda: not is_alive(pid), "the daemon to end")
        with pytest.raises(MpsControlError):
            await control.default_percentage(str(pipe))
    finally:
        host.close()
        if shell.returncode is None:
            shell.kill()
            await shell.wait()


async def test_a_daemon_that_does_not_start_ends_the_container(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "r", "h100x8", gpus=(0,), device_files="regular").root
    (root / "var/log/nvidia-mps").mkdir(parents=True)
    (root / "etc/nvdra-mock-mps").write_text("refuse")
    text = script(MpsSettings()).replace("/driver-root", str(root))
    shell = await asyncio.create_subprocess_exec("sh", "-c", text, stdout=subprocess.DEVNULL)
    assert await asyncio.wait_for(shell.wait(), 20) != 0
    assert not (root / "var/log/nvidia-mps/startup.log").exists()


async def test_a_program_that_is_not_there_is_no_answer_of_the_daemon(tmp_path: Path) -> None:
    host = Node()
    try:
        with pytest.raises(MpsControlUnusable):
            await MpsControl(host, DriverRoot(str(tmp_path), str(tmp_path))).default_percentage(str(tmp_path))
    finally:
        host.close()


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
