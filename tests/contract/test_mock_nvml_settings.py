"""Compute modes and time slices of the mock: its nvidia-smi and its NVML, their faults, what tests can count."""

import ctypes
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvdra_mock_nvml import Root, lay_out

from tests.contract.mock_node import INVALID, SUCCESS, UNSUPPORTED, Library, smi

EXCLUSIVE_PROCESS = 3


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return lay_out(tmp_path / "root", "h100x8", device_files="regular")


@pytest.fixture
def library(root: Root) -> Iterator[Library]:
    library = Library(root)
    assert library.nvmlInit_v2() == SUCCESS
    yield library
    assert library.nvmlShutdown() == SUCCESS


def compute_mode(library: Library, index: int) -> int:
    mode = ctypes.c_uint()
    assert library.nvmlDeviceGetComputeMode(library.handle(index), ctypes.byref(mode)) == SUCCESS
    return mode.value


def uuid(root: Root, minor: int) -> str:
    return root.gpu(minor).uuid


def test_time_slices_are_listed_as_the_real_program_does(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "h200x1", device_files="regular")
    listing = (
        "+-------------------------------------+\n"
        "| GPU compute policies:               |\n"
        "| GPU     Name           Value        |\n"
        "|=====================================|\n"
        "|   0   Timeslice       Default       |\n"
        "+-------------------------------------+\n"
    )
    assert smi(root, "compute-policy", "-l") == listing
    assert smi(root, "compute-policy", "-i", uuid(root, 0), "--list") == listing
    assert smi(root, "compute-policy", "-i", "9", "-l", status=6) == "No devices were found\n"


def test_time_slices_are_kept(root: Root) -> None:
    smi(root, "compute-policy", "-i", uuid(root, 2), "--set-timeslice", "2")
    smi(root, "compute-policy", "-i", f"{uuid(root, 3)},4", "--set-timeslice=3")
    assert [root.time_slice(minor) for minor in range(8)] == [0, 0, 2, 3, 3, 0, 0, 0]
    rows = smi(root, "compute-policy", "-l").splitlines()[4:-1]
    words = ["Default", "Default", "Medium", "Long", "Long", "Default", "Default", "Default"]
    assert [row.split()[1:4] for row in rows] == [[str(at), "Timeslice", word] for at, word in enumerate(words)]
    smi(root, "-i", "2", "--gpu-reset")
    assert (root.time_slice(2), root.time_slice(3)) == (0, 3)
    root.replace_driver("590.10.01")
    assert root.time_slice(3) == 0


def test_nvml_and_smi_agree_on_the_compute_mode(root: Root, library: Library) -> None:
    query = ("--query-gpu=compute_mode", "--format=csv,noheader")
    assert (compute_mode(library, 1), smi(root, "-i", "1", *query)) == (0, "Default\n")
    first, again = (smi(root, "-i", uuid(root, 1), "-c", "EXCLUSIVE_PROCESS") for _ in range(2))
    assert first == "Set compute mode to EXCLUSIVE_PROCESS for GPU 00000000:43:00.0.\nAll done.\n"
    assert again.startswith("Compute mode is already set to EXCLUSIVE_PROCESS")
    assert (compute_mode(library, 1), smi(root, "-i", "1", *query)) == (EXCLUSIVE_PROCESS, "Exclusive_Process\n")
    assert (compute_mode(library, 0), root.compute_mode(1)) == (0, EXCLUSIVE_PROCESS)
    assert library.nvmlDeviceSetComputeMode(library.handle(1), 0) == SUCCESS
    assert root.compute_mode(1) == 0
    assert library.nvmlDeviceSetComputeMode(library.handle(1), 4) == INVALID


def test_a_gpu_in_mig_mode_keeps_its_compute_mode(root: Root, library: Library) -> None:
    root.set_mig_mode(0, on=True)
    assert library.nvmlDeviceSetComputeMode(library.handle(0), EXCLUSIVE_PROCESS) == UNSUPPORTED
    assert "is not supported" in smi(root, "-i", "0", "-c", "EXCLUSIVE_PROCESS")
    assert root.compute_mode(0) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["compute-policy"], 0, "--set-timeslice"),
        (["compute-policy", "--bogus"], 2, 'Option "--bogus" is not recognized.'),
        (["compute-policy", "-i", "0", "--set-timeslice"], 2, "is missing its value"),
        (["compute-policy", "-i", "0", "--set-timeslice=SHORT"], 2, 'Option "SHORT" is invalid'),
        (["compute-policy", "-i", "0", "--set-timeslice", "9"], 2, 'Option "9" is invalid'),
        (["compute-policy", "-i", "GPU-none", "--set-timeslice", "2"], 6, "No devices were found"),
        (["compute-policy", "-l", "--set-timeslice=1"], 2, "One, and only one"),
        (["-i", "GPU-none", "-c", "BOGUS"], 2, "Option BOGUS is invalid for -c"),
        (["-i", "GPU-none", "-c", "DEFAULT"], 6, "No devices were found"),
    ],
)
def test_what_is_not_understood_changes_nothing(arguments: list[str], status: int, said: str, root: Root) -> None:
    assert said in smi(root, *arguments, status=status)
    assert [root.time_slice(minor) for minor in range(8)] == [0] * 8


def test_a_gpu_without_time_slices_refuses_alone(root: Root) -> None:
    root.set_faults([{"function": "nvidia-smi compute-policy*", "minor": 2, "code": "NOT_SUPPORTED"}])
    said = smi(root, "compute-policy", "-i", uuid(root, 2), "--set-timeslice", "1", status=3)
    assert "Failed to set timeslice policy with value SHORT for GPU 2 : Not Supported" in said
    listing = smi(root, "compute-policy", "-l", status=3)
    assert "Failed to get compute policies for GPU 2 : Not Supported" in listing
    assert [row.split()[1] for row in listing.splitlines() if "Timeslice" in row] == list("0134567")
    smi(root, "compute-policy", "-i", uuid(root, 3), "--set-timeslice", "1")
    smi(root, "-i", uuid(root, 2), "-c", "PROHIBITED")
    assert [(root.time_slice(minor), root.compute_mode(minor)) for minor in (2, 3)] == [(0, 2), (1, 0)]


def test_a_compute_mode_that_is_not_supported_is_a_warning(root: Root) -> None:
    root.set_faults([{"function": "nvidia-smi -c", "minor": 2, "code": "NOT_SUPPORTED"}])
    assert "Treating as warning" in smi(root, "-i", uuid(root, 2), "-c", "PROHIBITED")
    assert root.compute_mode(2) == 0


def test_strikes_are_counted_over_all_runs(root: Root) -> None:
    fault = {"function": "nvidia-smi compute-policy --set-timeslice", "code": "UNKNOWN", "after": 1, "times": 2}
    choice = ("compute-policy", "-i", uuid(root, 0), "--set-timeslice")
    for _ in range(2):
        root.set_faults([fault])
        for slice_, status in ((1, 0), (2, 255), (3, 255), (0, 0)):
            smi(root, *choice, str(slice_), status=status)


def test_what_was_set_stays_where_the_fault_comes_after(root: Root) -> None:
    root.set_faults([{"function": "nvidia-smi*", "code": "GPU_IS_LOST", "when": "after"}])
    smi(root, "compute-policy", "-i", "0", "--set-timeslice", "3", status=15)
    smi(root, "-i", "0", "-c", "3", status=15)
    assert (root.time_slice(0), root.compute_mode(0)) == (3, EXCLUSIVE_PROCESS)


def test_a_lost_gpu_takes_no_settings(root: Root) -> None:
    root.set_faults([{"minor": 5, "lost": True}])
    smi(root, "-i", uuid(root, 5), "-c", "DEFAULT", status=15)
    smi(root, "-i", uuid(root, 4), "-c", "DEFAULT")


def test_a_slip_in_the_faults_fails_every_command(root: Root) -> None:
    root.set_faults([{"function": "nvidia-smi compute-mode", "hang": True}])
    done = subprocess.run([str(root.nvidia_smi), "compute-policy", "-l"], capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert "no such command of nvidia-smi" in done.stderr


def test_every_run_is_written_down_before_it_works(root: Root) -> None:
    root.set_faults([{"function": "nvidia-smi compute-policy*", "hang": True}])
    choice = ("compute-policy", "-i", uuid(root, 0), "--set-timeslice", "1")
    hung = subprocess.Popen([str(root.nvidia_smi), *choice], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not root.smi_runs() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            hung.wait(timeout=0.2)
    finally:
        hung.kill()
        hung.wait(timeout=10)
    smi(root, "-i", "0000:52:00.0", "-pm", "0")
    smi(root, "-i", "0", "-c", "SOMETIMES", status=2)
    smi(root, "-L")
    assert root.smi_runs() == [" ".join(choice), "-i 0000:52:00.0 -pm 0", "-i 0 -c SOMETIMES"]
    assert root.time_slice(0) == 0


def test_a_container_keeps_no_settings(root: Root, tmp_path: Path) -> None:
    (root.root / "var/lib/nvdra-mock").rename(tmp_path / "away")
    assert "Insufficient Permissions" in smi(root, "-i", "0", "-c", "PROHIBITED", status=4)
    assert "Default" in smi(root, "compute-policy", "-i", "0", "-l")
