"""Missing device nodes: made by the driver's tool, else directly, else said why not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import nvdra_mock_nvml as mock
import pytest

from nvdra.host import DriverRoot, Node, driver_root, look_up, make_nodes
from nvdra.ports import Finished
from nvdra.testing.host import FakeHost

UVM = "/dev/nvidia-uvm"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.write("/r/dev/null")
    return host


@pytest.fixture
def root(host: FakeHost) -> DriverRoot:
    return driver_root(host, "/r", {})


def put_tool(host: FakeHost, base: str = "/r", *, exit_code: int = 0, makes: Sequence[str] = ()) -> list[list[str]]:
    """nvidia-modprobe in the root; what it was called with."""
    calls: list[list[str]] = []

    def run(argv: Sequence[str]) -> Finished:
        calls.append(list(argv))
        for path in makes:
            host.put_device(base + path, 510, 0)
        return Finished(exit_code, b"", b"modprobe: FATAL: no such module\n" if exit_code else b"")

    host.write(f"{base}/usr/bin/nvidia-modprobe", mode=0o4755)
    host.programs["nvidia-modprobe"] = run
    return calls


async def test_nothing_is_run_where_nothing_is_missing(host: FakeHost, root: DriverRoot) -> None:
    calls = put_tool(host)
    host.put_device(f"/r{UVM}", 510, 0)
    assert await make_nodes(host, root, [UVM]) == {}
    assert calls == []


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/dev/nvidia-uvm", ["-u", "-c=0"]),
        ("/dev/nvidia-uvm-tools", ["-u", "-c=0"]),
        ("/dev/nvidiactl", ["-c=255"]),
        ("/dev/nvidia-modeset", ["-m"]),
        ("/dev/nvidia0", ["-c=0"]),
        ("/dev/nvidia12", ["-c=12"]),
    ],
)
async def test_the_drivers_own_tool_makes_a_node(
    host: FakeHost, root: DriverRoot, path: str, options: list[str]
) -> None:
    calls = put_tool(host, makes=[path])
    assert await make_nodes(host, root, [path]) == {}
    assert calls == [["chroot", "/r", "/usr/bin/nvidia-modprobe", *options]]


async def test_on_the_hosts_own_root_the_tool_is_run_as_it_is(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.write("/dev/null")
    calls = put_tool(host, "", makes=[UVM])
    assert await make_nodes(host, driver_root(host, "/", {}), [UVM]) == {}
    assert calls == [["/usr/bin/nvidia-modprobe", "-u", "-c=0"]]


async def test_one_run_may_make_several(host: FakeHost, root: DriverRoot) -> None:
    calls = put_tool(host, makes=["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"])
    assert await make_nodes(host, root, ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]) == {}
    assert len(calls) == 1


async def test_without_the_tool_a_loaded_drivers_nodes_are_made_directly(host: FakeHost, root: DriverRoot) -> None:
    host.write("/proc/devices", "Character devices:\n511 nvidia-uvm\n\nBlock devices:\n")
    host.write("/sys/module/nvidia/version", "580.65\n")
    host.write("/proc/driver/nvidia/params", "DeviceFileGID: 44\nDeviceFileMode: 432\nModifyDeviceFiles: 1\nX: \n")
    wanted = ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl", "/dev/nvidia7", "/dev/nvidia-modeset"]
    assert await make_nodes(host, root, wanted) == {}
    seen = [host.stat(f"/r{path}") for path in wanted]
    assert [(node.major, node.minor) for node in seen] == [(511, 0), (511, 1), (195, 255), (195, 7), (195, 254)]
    assert {(node.kind, node.mode, node.gid) for node in seen} == {("char", 0o660, 44)}


async def test_what_stays_missing_is_told_with_every_reason(host: FakeHost, root: DriverRoot) -> None:
    no_tool = (
        'error locating "nvidia-modprobe": it is not below the driver root /r; is the NVIDIA driver installed there?'
    )
    assert await make_nodes(host, root, [UVM, "/dev/nvidia0"]) == {
        UVM: f"{no_tool}; the kernel module nvidia_uvm is not loaded",
        "/dev/nvidia0": f"{no_tool}; the kernel module nvidia is not loaded",
    }
    put_tool(host, exit_code=1)
    assert await make_nodes(host, root, [UVM]) == {
        UVM: "chroot /r /usr/bin/nvidia-modprobe -u -c=0: exit status 1, modprobe: FATAL: no such module; "
        "the kernel module nvidia_uvm is not loaded"
    }


async def test_an_administrator_who_keeps_nodes_to_himself_is_obeyed(host: FakeHost, root: DriverRoot) -> None:
    host.write("/sys/module/nvidia/version", "580.65\n")
    host.write("/proc/driver/nvidia/params", "ModifyDeviceFiles: 0\n")
    (reason,) = (await make_nodes(host, root, ["/dev/nvidia0"])).values()
    assert "NVreg_ModifyDeviceFiles" in reason


async def test_a_node_that_may_not_be_made_says_so(host: FakeHost, root: DriverRoot) -> None:
    host.write("/sys/module/nvidia/version", "580.65\n")
    host.refuse("mknod", "/r/dev", 1)
    (reason,) = (await make_nodes(host, root, ["/dev/nvidia0"])).values()
    assert reason.endswith("mknod /r/dev/nvidia0: Operation not permitted")


async def test_a_tool_that_hangs_is_told_too(host: FakeHost, root: DriverRoot) -> None:
    def hang(argv: Sequence[str]) -> Finished:
        raise TimeoutError(f"{argv[0]} did not end within 20 s and was killed")

    put_tool(host)
    host.programs["nvidia-modprobe"] = hang
    (reason,) = (await make_nodes(host, root, [UVM])).values()
    assert "did not end within 20 s" in reason


async def test_nodes_that_belong_into_this_containers_dev_are_not_left_to_the_tool(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    calls = put_tool(host, "/r")
    host.write("/sys/module/nvidia/version", "580.65\n")
    assert await make_nodes(host, driver_root(host, "/r", {}), ["/dev/nvidia0"]) == {}
    assert calls == []
    assert host.stat("/dev/nvidia0").minor == 0


@pytest.mark.parametrize("how", ["regular", "mknod"])
async def test_the_mocks_tool_makes_them_for_real(tmp_path: Path, how: mock.DeviceFiles) -> None:
    if how == "mknod" and os.geteuid() != 0:
        how = "regular"
    laid = mock.lay_out(tmp_path / "root", "h100x8", device_files=how)
    node = Node()
    root = driver_root(node, str(laid.root), {"NVDRA_SYSFS": str(laid.sysfs), "NVDRA_PROCFS": str(laid.procfs)})
    wanted = ["/dev/nvidia-uvm", "/dev/nvidiactl", "/dev/nvidia3"]
    for path in wanted:
        (laid.root / path[1:]).unlink()
    assert look_up(node, root, environ={}).missing == ("/dev/nvidia-uvm", "/dev/nvidiactl")
    assert await make_nodes(node, root, wanted) == {}
    assert look_up(node, root, environ={}).missing == ()
