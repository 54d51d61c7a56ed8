"""One set of promises, two programs: the mock's nvidia-smi on the real host, and FakeNvidiaSmi on the fake one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nvdra_mock_nvml import Root, lay_out

from nvdra.host import DriverFileMissing, Node, NvidiaSmi, NvidiaSmiError, driver_root, find_nvidia_smi
from nvdra.testing.host import FakeHost, Killed
from nvdra.testing.nvidia_smi import Command, FakeNvidiaSmi

MODES = {"DEFAULT": 0, "PROHIBITED": 2, "EXCLUSIVE_PROCESS": 3}
COMMANDS: dict[Command, str] = {
    "list": "nvidia-smi compute-policy -l",
    "time slice": "nvidia-smi compute-policy --set-timeslice",
    "compute mode": "nvidia-smi -c",
}


@dataclass
class Case:
    """The actor, and its node behind it: the mock's root, or the fake program."""

    smi: NvidiaSmi
    node: Root | FakeNvidiaSmi
    uuids: list[str]

    def time_slices(self) -> list[int]:
        if isinstance(self.node, Root):
            return [self.node.time_slice(minor) for minor in range(len(self.uuids))]
        return list(self.node.time_slices.values())

    def compute_modes(self) -> list[int]:
        if isinstance(self.node, Root):
            return [self.node.compute_mode(minor) for minor in range(len(self.uuids))]
        return [MODES[mode] for mode in self.node.compute_modes.values()]

    def runs(self) -> list[str]:
        if isinstance(self.node, Root):
            return self.node.smi_runs()
        return [" ".join(run) for run in self.node.runs]

    def refuse(self, command: Command, gpu: int) -> None:
        """The GPU does not support what the command is about."""
        if isinstance(self.node, Root):
            self.node.set_faults([{"function": COMMANDS[command], "minor": gpu, "code": "NOT_SUPPORTED"}])
        else:
            self.node.fail(command, self.uuids[gpu], exit_code=0 if command == "compute mode" else 3)

    def break_after_work(self, command: Command) -> None:
        if isinstance(self.node, Root):
            self.node.set_faults([{"function": COMMANDS[command], "code": "GPU_IS_LOST", "when": "after"}])
        else:
            self.node.fail(command, exit_code=15, said="GPU is lost", does_work=True)

    def hang(self, command: Command) -> None:
        if isinstance(self.node, Root):
            self.node.set_faults([{"function": COMMANDS[command], "hang": True}])
        else:
            self.node.fail(command, is_hang=True)


@pytest.fixture(params=["mock", "fake"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    if request.param == "mock":
        laid = lay_out(tmp_path / "root", "h100x8", device_files="regular")
        node = Node()
        yield Case(
            find_nvidia_smi(node, driver_root(node, str(laid.root), {})),
            laid,
            [gpu.uuid for gpu in sorted(laid.portrait.gpus, key=lambda gpu: gpu.minor)],
        )
        node.close()
    else:
        host = FakeHost(tmp_path)
        uuids = [f"GPU-{index}" for index in range(8)]
        fake = FakeNvidiaSmi(uuids)
        host.programs["nvidia-smi"] = fake
        host.write("/usr/bin/nvidia-smi", "program")
        host.write("/usr/lib64/libnvidia-ml.so.1", "library")
        yield Case(find_nvidia_smi(host, driver_root(host, "/", {})), fake, uuids)
        host.close()


async def test_time_slices_are_set_side_by_side_and_read_in_one_run(case: Case) -> None:
    await asyncio.gather(*(case.smi.set_time_slice(case.uuids[gpu], gpu) for gpu in range(4)))
    assert case.time_slices() == [0, 1, 2, 3, 0, 0, 0, 0]
    assert await case.smi.read_time_slices() == dict(enumerate(case.time_slices()))
    assert sorted(case.runs()) == sorted(
        ["compute-policy -l", *(f"compute-policy -i {case.uuids[gpu]} --set-timeslice {gpu}" for gpu in range(4))]
    )


async def test_compute_modes_are_set(case: Case) -> None:
    await case.smi.set_compute_mode(case.uuids[1], "EXCLUSIVE_PROCESS")
    await case.smi.set_compute_mode(case.uuids[2], "PROHIBITED")
    await case.smi.set_compute_mode(case.uuids[2], "DEFAULT")
    assert case.compute_modes() == [0, 3, 0, 0, 0, 0, 0, 0]
    assert case.runs()[0] == f"-i {case.uuids[1]} -c EXCLUSIVE_PROCESS"


async def test_a_gpu_without_time_slices_fails_alone(case: Case) -> None:
    case.refuse("time slice", 2)
    with pytest.raises(NvidiaSmiError) as refused:
        await case.smi.set_time_slice(case.uuids[2], 1)
    assert refused.value.is_not_supported
    assert not refused.value.is_timeout
    text = str(refused.value)
    assert text.startswith("error setting time slice: error running nvidia-smi: exit status 3 (")
    assert f"nvidia-smi compute-policy -i {case.uuids[2]} --set-timeslice 1): " in text
    assert "Not Supported" in text
    await case.smi.set_time_slice(case.uuids[3], 1)
    assert case.time_slices() == [0, 0, 0, 1, 0, 0, 0, 0]


async def test_a_gpu_that_refuses_to_tell_is_missing_from_the_listing(case: Case) -> None:
    case.refuse("list", 2)
    assert sorted(await case.smi.read_time_slices()) == [0, 1, 3, 4, 5, 6, 7]


async def test_a_listing_without_any_gpu_is_an_error(case: Case) -> None:
    case.break_after_work("list")
    with pytest.raises(NvidiaSmiError, match="error reading time slices: error running nvidia-smi: exit status 15"):
        await case.smi.read_time_slices()


async def test_a_compute_mode_that_was_only_warned_about_is_an_error(case: Case) -> None:
    """The real program exits with 0 there."""
    case.refuse("compute mode", 2)
    with pytest.raises(NvidiaSmiError, match=r"(?i)error setting compute mode: .*not supported") as refused:
        await case.smi.set_compute_mode(case.uuids[2], "EXCLUSIVE_PROCESS")
    assert refused.value.is_not_supported
    assert case.compute_modes() == [0] * 8


async def test_a_failure_after_the_work_leaves_what_was_set(case: Case) -> None:
    case.break_after_work("time slice")
    with pytest.raises(NvidiaSmiError, match="exit status 15"):
        await case.smi.set_time_slice(case.uuids[0], 3)
    assert case.time_slices()[0] == 3


async def test_a_hung_run_is_killed_at_its_deadline(case: Case) -> None:
    case.hang("time slice")
    with pytest.raises(NvidiaSmiError, match=r"no answer within 0\.3 s, killed") as hung:
        await case.smi.set_time_slice(case.uuids[0], 1, timeout_s=0.3)
    assert hung.value.is_timeout
    assert case.time_slices()[0] == 0


async def test_an_unknown_gpu_is_an_error(case: Case) -> None:
    with pytest.raises(NvidiaSmiError, match=r"exit status 6 .*No devices were found"):
        await case.smi.set_time_slice("GPU-none", 1)


async def test_a_program_that_cannot_start_is_an_error(case: Case) -> None:
    gone = NvidiaSmi(case.smi.host, "/none/nvidia-smo", case.smi.library)
    with pytest.raises(NvidiaSmiError, match="error running nvidia-smi: No such file or directory"):
        await gone.read_time_slices()


async def test_the_library_is_preloaded_before_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid = lay_out(tmp_path / "root", "h100x8", device_files="regular")
    laid.nvidia_smi.write_text(f'#!/bin/sh\necho "$LD_PRELOAD" > {tmp_path}/preloaded\n')
    node = Node()
    smi = find_nvidia_smi(node, driver_root(node, str(laid.root), {}))
    library = str(laid.library.resolve())
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    await smi.set_compute_mode("GPU-0", "DEFAULT")
    assert (tmp_path / "preloaded").read_text() == f"{library}\n"
    monkeypatch.setenv("LD_PRELOAD", library)
    await smi.set_compute_mode("GPU-0", "DEFAULT")
    assert (tmp_path / "preloaded").read_text() == f"{library}:{library}\n"
    laid.nvidia_smi.unlink()
    with pytest.raises(DriverFileMissing, match="nvidia-smi"):
        find_nvidia_smi(node, driver_root(node, str(laid.root), {}))
    node.close()


async def test_runs_are_effects_that_a_crash_test_enumerates(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    fake = FakeNvidiaSmi(["GPU-0"])
    host.programs["nvidia-smi"] = fake
    smi = NvidiaSmi(host, "/usr/bin/nvidia-smi", "/lib/libnvidia-ml.so.1")
    host.kill_after(1)
    await smi.set_compute_mode("GPU-0", "PROHIBITED")
    with pytest.raises(Killed):
        await smi.set_time_slice("GPU-0", 2)
    host.close()
    fresh = host.revive()
    assert (fake.compute_modes, fake.time_slices) == ({"GPU-0": "PROHIBITED"}, {"GPU-0": 0})
    await NvidiaSmi(fresh, smi.program, smi.library).set_time_slice("GPU-0", 2)
    assert [effect.path for effect in fresh.effects] == [
        "/usr/bin/nvidia-smi compute-policy -i GPU-0 --set-timeslice 2"
    ]
    fresh.close()
