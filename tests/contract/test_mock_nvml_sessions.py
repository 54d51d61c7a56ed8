"""Sessions of the mock NVML: what is visible, what fails on demand, what is counted."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvdra_mock_nvml import LayoutError, Root, cli, lay_out, load, names, read_calls
from nvdra_mock_nvml.portraits import derived_uuid

from tests.contract.mock_node import (
    INVALID,
    LOST,
    MISMATCH,
    NO_DRIVER,
    NO_GPUS,
    NO_GPUS_FLAG,
    PROBE,
    SUCCESS,
    TOO_SMALL,
    UNINITIALIZED,
    UNKNOWN,
    WRONG_VERSION,
    Library,
    on,
    smi,
)
from tests.contract.nvml_node import open_device_nodes


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return lay_out(tmp_path / "root", "h100x8", device_files="regular")


def test_init_and_shutdown_nest(root: Root) -> None:
    library = Library(root)
    assert library.nvmlShutdown() == UNINITIALIZED
    assert [library.nvmlInit_v2(), library.nvmlInit(), library.nvmlInitWithFlags(0)] == [SUCCESS] * 3
    assert [library.nvmlShutdown(), library.nvmlShutdown()] == [SUCCESS] * 2
    assert library.count() == 8
    assert library.nvmlShutdown() == SUCCESS
    assert library.nvmlDeviceGetCount_v2(ctypes.byref(ctypes.c_uint())) == UNINITIALIZED


def test_a_gpu_is_visible_exactly_if_its_device_node_exists(root: Root) -> None:
    library = Library(root)
    assert library.minors() == list(range(8))
    root.hide_gpu(3)
    assert library.minors() == [0, 1, 2, 4, 5, 6, 7]
    root.show_gpu(3)
    assert library.minors() == list(range(8))


def test_visibility_is_fixed_while_a_session_is_open(root: Root) -> None:
    library = Library(root)
    assert library.nvmlInit_v2() == SUCCESS
    root.hide_gpu(3)
    assert library.nvmlInit_v2() == SUCCESS  # a second reference looks at nothing
    assert library.count() == 8
    library.nvmlShutdown()
    library.nvmlShutdown()
    assert library.minors() == [0, 1, 2, 4, 5, 6, 7]


def test_without_gpus_only_the_flag_lets_init_pass(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "h100x8", gpus=[], device_files="regular")
    library = Library(root)
    assert library.nvmlInit_v2() == NO_GPUS
    assert library.minors() == []


def test_without_the_control_node_there_is_no_driver(root: Root) -> None:
    library = Library(root)
    (root.root / "dev/nvidiactl").unlink()
    assert library.nvmlInitWithFlags(NO_GPUS_FLAG) == NO_DRIVER


def test_an_open_session_holds_device_nodes_open(root: Root) -> None:
    def held() -> set[str]:
        dev = f"{root.root}/dev/"
        return {path.removeprefix(dev) for path in open_device_nodes() if path.startswith(dev)}

    library = Library(root)
    assert held() == set()
    library.nvmlInit_v2()
    assert held() == {"nvidiactl"}
    library.handle(2)
    assert held() == {"nvidiactl", "nvidia2"}
    library.nvmlShutdown()
    assert held() == set()


def test_sessions_that_a_test_leaves_open_end_with_the_library(root: Root) -> None:
    library = Library(root)
    library.nvmlInit_v2()
    library.nvmlInit_v2()
    library.handle(2)
    del library
    assert not [path for path in open_device_nodes() if path.startswith(str(root.root))]


@pytest.mark.parametrize("lib_dir", ["usr/lib64", "usr/lib/aarch64-linux-gnu", "lib64", "lib/x86_64-linux-gnu", "."])
def test_the_root_is_found_from_every_library_folder(lib_dir: str, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "h200x1", lib_dir=lib_dir, device_files="regular")
    assert Library(root).minors() == [0]
    assert smi(root, "-L").startswith("GPU 0: NVIDIA H200 (UUID: GPU-")


def test_minors_need_not_be_in_pci_order(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "gpus16", device_files="regular")
    assert Library(root).minors() == [*range(8, 16), *range(8)]


def test_uuids_are_a_fixed_function_of_portrait_and_minor() -> None:
    # These are in other people's goldens: a change here is a change of every mock node.
    assert derived_uuid("h100x8/0") == "0bdbef25-56e9-839d-8368-9dbd53e7f804"
    uuids = {gpu.uuid for name in names() for gpu in load(name).gpus}
    assert len(uuids) == sum(len(load(name).gpus) for name in names())


def test_a_replaced_driver_is_a_mismatch_for_the_old_library(root: Root) -> None:
    old = Library(root)
    assert old.minors() == list(range(8))
    new = root.replace_driver("590.10.01")
    assert old.nvmlInit_v2() == MISMATCH
    library = Library(new)
    assert library.minors() == list(range(8))
    version = ctypes.create_string_buffer(80)
    library.nvmlInit_v2()
    assert library.nvmlSystemGetDriverVersion(version, 80) == SUCCESS
    assert version.value == b"590.10.01"
    library.nvmlShutdown()
    assert "590.10.01" in (new.procfs / "driver/nvidia/version").read_text()
    assert (new.sysfs / "module/nvidia/version").read_text() == "590.10.01\n"
    assert smi(new, "--version").splitlines()[2] == "DRIVER version      : 590.10.01"
    assert list(new.root.rglob("*580.159.04*")) == []
    assert all(link.exists() for link in new.library.parent.rglob("*.so*"))


def test_many_threads_at_once(root: Root) -> None:
    library = Library(root)
    library.nvmlInit_v2()
    handles = [library.handle(index) for index in range(8)]
    wrong: list[int] = []

    def ask(index: int) -> None:
        for _ in range(2000):
            library.nvmlInit_v2()
            if (minor := library.minor(handles[index])) != index:
                wrong.append(minor)
            library.nvmlShutdown()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert library.nvmlShutdown() == SUCCESS
    assert library.nvmlShutdown() == UNINITIALIZED


def test_bad_arguments_are_refused(root: Root) -> None:
    library = Library(root)
    library.nvmlInit_v2()
    handle = library.handle(0)
    short = ctypes.create_string_buffer(4)
    assert library.nvmlDeviceGetName(handle, short, 4) == TOO_SMALL
    assert library.nvmlDeviceGetName(handle, None, 96) == INVALID
    assert library.nvmlDeviceGetUUID(None, short, 4) == INVALID
    assert library.nvmlDeviceGetUUID(ctypes.c_void_p(handle.value + 1), short, 4) == INVALID
    assert library.nvmlDeviceGetHandleByUUID(None, ctypes.byref(handle)) == INVALID
    assert library.nvmlDeviceGetHandleByPciBusId_v2(b"nonsense", ctypes.byref(handle)) == INVALID
    assert library.nvmlDeviceGetCpuAffinity(handle, 0, None) == INVALID
    assert library.nvmlDeviceGetAddressingMode(handle, ctypes.byref((ctypes.c_uint * 2)(7, 0))) == WRONG_VERSION
    library.nvmlShutdown()


def test_error_texts_need_no_session(root: Root) -> None:
    library = Library(root)
    assert library.nvmlErrorString(LOST) == b"GPU is lost"
    assert library.nvmlErrorString(12345) == b"Unknown Error"


def test_nothing_but_nvml_is_exported(root: Root) -> None:
    table = subprocess.run(
        ["nm", "-D", "--defined-only", str(root.library)], capture_output=True, text=True, check=True
    )
    exported = [line.split()[2] for line in table.stdout.splitlines()]
    assert len(exported) > 100
    assert [name for name in exported if not name.startswith("nvml")] == []


def test_an_older_library_lacks_functions(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "h100x8", without=["nvmlDeviceGetAddressingMode"], device_files="regular")
    library = Library(root)
    with pytest.raises(AttributeError):
        library.nvmlDeviceGetAddressingMode  # noqa: B018
    assert library.minors() == list(range(8))
    with pytest.raises(LayoutError, match="nvmlNoSuchThing"):
        lay_out(tmp_path / "other", "h100x8", without=["nvmlNoSuchThing"], device_files="regular")


@pytest.fixture
def open_library(root: Root) -> Iterator[Library]:
    library = Library(root)
    assert library.nvmlInit_v2() == SUCCESS
    yield library
    library.nvmlShutdown()


def test_a_fault_strikes_one_function_on_one_gpu(root: Root, open_library: Library) -> None:
    handles = [open_library.handle(index) for index in range(8)]
    root.set_faults([{"function": "nvmlDeviceGetMinorNumber", "minor": 3, "code": "GPU_IS_LOST"}])
    assert [open_library.minor(handle) for handle in handles] == [0, 1, 2, -LOST, 4, 5, 6, 7]
    assert open_library.handle(3).value == handles[3].value
    root.clear_faults()
    assert open_library.minor(handles[3]) == 3


def test_a_fault_waits_for_its_turn_and_passes(root: Root, open_library: Library) -> None:
    handle = open_library.handle(0)
    root.set_faults([{"function": "nvmlDeviceGetMinorNumber", "code": 999, "after": 2, "times": 1}])
    assert [open_library.minor(handle) for _ in range(5)] == [0, 0, -UNKNOWN, 0, 0]


def test_a_lost_gpu_is_lost_for_every_call(root: Root, open_library: Library) -> None:
    handle = open_library.handle(5)
    root.set_faults([{"minor": 5, "lost": True}])
    other = ctypes.c_void_p()
    level = ctypes.c_uint()
    assert open_library.nvmlDeviceGetHandleByIndex_v2(5, ctypes.byref(other)) == LOST
    assert open_library.minor(handle) == -LOST
    assert open_library.nvmlDeviceGetTemperature(handle, 0, ctypes.byref(level)) == LOST
    assert open_library.nvmlDeviceGetTopologyCommonAncestor(open_library.handle(0), handle, ctypes.byref(level)) == LOST
    assert open_library.minor(open_library.handle(4)) == 4
    assert open_library.count() == 8


def test_init_can_fail(root: Root) -> None:
    library = Library(root)
    root.set_faults([{"function": "nvmlInit*", "code": "DRIVER_NOT_LOADED", "times": 2}])
    assert [library.nvmlInit_v2(), library.nvmlInitWithFlags(1), library.nvmlInit_v2()] == [
        NO_DRIVER,
        NO_DRIVER,
        SUCCESS,
    ]
    library.nvmlShutdown()


def test_a_call_that_hangs_stops_nothing_else(root: Root, open_library: Library) -> None:
    handles = [open_library.handle(index) for index in range(2)]
    root.set_faults([{"function": "nvmlDeviceGetMinorNumber", "minor": 1, "hang": True}])
    stuck = threading.Thread(target=open_library.minor, args=(handles[1],), daemon=True)
    stuck.start()
    stuck.join(0.05)
    assert open_library.minor(handles[0]) == 0
    root.clear_faults()
    assert open_library.minor(handles[1]) == 1  # a new call; the old one hangs for good
    assert stuck.is_alive()


def test_a_delay_delays_and_then_answers(root: Root, open_library: Library) -> None:
    root.set_faults([{"function": "nvmlDeviceGetCount_v2", "delay_ms": 150, "times": 1}])
    started = time.monotonic()
    assert open_library.count() == 8
    assert time.monotonic() - started >= 0.15


def test_a_slip_in_the_fault_file_fails_every_call(root: Root, tmp_path: Path) -> None:
    program = f"""
import ctypes
c = ctypes.CDLL({str(root.library)!r})
print(c.nvmlInit_v2())
"""
    for content, word in [
        ("{", "EOF"),
        ('{"faults": [{"function": "nvmlDeviceGetNames", "code": 1}]}', "nvmlDeviceGetNames"),
    ]:
        faults = tmp_path / "faults.json"
        faults.write_text(content)
        environment = {**os.environ, "NVDRA_MOCK_FAULTS": str(faults)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{UNKNOWN}\n"
        assert str(faults) in done.stderr
        assert word in done.stderr


def test_calls_are_counted_over_all_programs(root: Root) -> None:
    root.count_calls()
    before = root.calls()
    assert before == {}
    for _ in range(2):
        on(root, sys.executable, PROBE)
    counts = root.calls()
    assert counts["nvmlInitWithFlags"] == 2
    assert counts["nvmlShutdown"] == 4
    assert counts["nvmlDeviceGetName"] == 16
    assert counts["nvmlDeviceGetFanSpeed"] == 16
    library = Library(root)
    library.nvmlErrorString(0)
    assert root.calls()["nvmlErrorString"] == 1


def test_calls_counted_by_environment(root: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "calls"
    environment = {**os.environ, "NVDRA_MOCK_CALLS": str(file), "LD_LIBRARY_PATH": str(root.library.parent)}
    subprocess.run([sys.executable, PROBE], env=environment, capture_output=True, check=True)
    assert read_calls(file)["nvmlInitWithFlags"] == 1
    assert cli.main(["calls", str(file)]) == 0
    assert "         1  nvmlInitWithFlags\n" in capsys.readouterr().out
    assert cli.main(["calls", str(tmp_path / "none")]) == 1
