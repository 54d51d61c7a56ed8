"""Capability files of the kernel module: which nodes they name, and what is wrong with bad ones."""

from __future__ import annotations

from pathlib import Path

import nvdra_mock_nvml as mock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.gpu.edits import CapabilityNode
from nvdra.host import CapabilityUnknown, DriverRoot, Node, capability_nodes, driver_root
from nvdra.testing.host import FakeHost

GI = "/proc/driver/nvidia/capabilities/gpu2/mig/gi9/access"
CI = "/proc/driver/nvidia/capabilities/gpu2/mig/gi9/ci0/access"
DEVICES = "Character devices:\n  1 mem\n234 nvidia-caps-imex-channels\n511 nvidia-caps\n\nBlock devices:\n259 blkext\n"


def capability(minor: int | str, mode: int | str = 292) -> str:
    """As the kernel module writes it."""
    return f"DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.write("/proc/devices", DEVICES)
    host.write(GI, capability(84))
    host.write(CI, capability(85, 0o440))
    return host


@pytest.fixture
def root(host: FakeHost) -> DriverRoot:
    return driver_root(host, "/r", {})


def refusal(host: FakeHost, root: DriverRoot) -> str:
    with pytest.raises(CapabilityUnknown) as caught:
        capability_nodes(host, root, 2, 9, 0)
    return str(caught.value)


def test_the_gpu_instances_node_comes_first(host: FakeHost, root: DriverRoot) -> None:
    assert capability_nodes(host, root, 2, 9, 0) == (CapabilityNode(511, 84, 0o444), CapabilityNode(511, 85, 0o440))


def test_what_stands_for_proc_is_read(host: FakeHost) -> None:
    for path, text in ((GI, capability(3)), (CI, capability(4)), ("/proc/devices", DEVICES)):
        host.write(path.replace("/proc", "/stand-in"), text.replace("511", "234"))
    root = driver_root(host, "/r", {"NVDRA_PROCFS": "/stand-in"})
    assert capability_nodes(host, root, 2, 9, 0) == (CapabilityNode(234, 3, 0o444), CapabilityNode(234, 4, 0o444))


def test_the_major_may_be_another_files(host: FakeHost) -> None:
    host.write("/alt", DEVICES.replace("511", "240"))
    root = driver_root(host, "/r", {"ALT_PROC_DEVICES_PATH": "/alt"})
    assert [node.major for node in capability_nodes(host, root, 2, 9, 0)] == [240, 240]


@pytest.mark.parametrize(("kind", "path"), [("GI", GI), ("CI", CI)])
def test_an_instance_that_is_no_more_is_named_as_the_go_driver_names_it(
    tmp_path: Path, host: FakeHost, root: DriverRoot, kind: str, path: str
) -> None:
    (tmp_path / path.strip("/")).unlink()
    assert refusal(host, root) == (
        f"failed to parse {kind} capabilities file {path}: open {path}: no such file or directory"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it has no DeviceFileMinor"),
        ("DeviceFileMode: 292\n", "it has no DeviceFileMinor"),
        ("DeviceFileMinor: 85\n", "it has no DeviceFileMode"),
        (capability("x"), 'DeviceFileMinor is "x"'),
        (capability(-1), 'DeviceFileMinor is "-1"'),
        (capability("0x55"), 'DeviceFileMinor is "0x55"'),
        (capability("٣"), 'DeviceFileMinor is "٣"'),
        (capability(1 << 31), f'DeviceFileMinor is "{1 << 31}"'),
        (capability(85, ""), 'DeviceFileMode is ""'),
        (capability(85, 0o1000), 'DeviceFileMode is "512"'),
        (b"\xff\xfe\0" * 9, "it has no DeviceFileMinor"),
    ],
)
def test_a_file_that_names_no_node_is_refused(host: FakeHost, root: DriverRoot, text: str | bytes, what: str) -> None:
    host.write(CI, text)
    assert refusal(host, root) == f"failed to parse CI capabilities file {CI}: {what}"


@pytest.mark.parametrize("digits", [10, 5000])
def test_numbers_of_any_length_are_refused(host: FakeHost, root: DriverRoot, digits: int) -> None:
    host.write(CI, capability("9" * digits))
    assert refusal(host, root).startswith(f"failed to parse CI capabilities file {CI}: ")
    host.write("/proc/devices", DEVICES.replace("511", "9" * digits))
    assert refusal(host, root).startswith(f"failed to parse GI capabilities file {GI}: error getting device major: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        DEVICES.partition("Block")[0],  # cut off
        DEVICES.replace("511 nvidia-caps\n", ""),
        DEVICES.replace("511 nvidia-caps\n", "") + "511 nvidia-caps\n",
        DEVICES.replace("Character devices", "Characters"),
    ],
)
def test_a_list_without_the_major_is_named_as_the_go_driver_names_it(
    host: FakeHost, root: DriverRoot, text: str
) -> None:
    host.write("/proc/devices", text)
    assert refusal(host, root).startswith(
        f"failed to parse GI capabilities file {GI}: "
        "error getting device major: error parsing '/proc/devices': unexpected regex match: []"
    )


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path, host: FakeHost, root: DriverRoot) -> None:
    (tmp_path / "proc/devices").unlink()
    assert refusal(host, root) == (
        f"failed to parse GI capabilities file {GI}: error getting device major: "
        "error reading '/proc/devices': open /proc/devices: no such file or directory"
    )


pieces = st.sampled_from(
    ["Character devices:", "Block devices:", " nvidia-caps", "DeviceFileMinor", "DeviceFileMode", ":", "\n", "3", "292"]
)
contents = st.binary(max_size=40) | st.lists(pieces, max_size=12).map(lambda parts: "".join(parts).encode())


@given(contents, contents, contents)
def test_any_content_names_nodes_or_is_refused(instance: bytes, compute: bytes, devices: bytes) -> None:
    host = Node()
    host.read = {GI: instance, CI: compute, "/proc/devices": devices}.__getitem__  # type: ignore[method-assign, assignment]
    try:
        nodes = capability_nodes(host, DriverRoot("/r", "/r"), 2, 9, 0)
    except CapabilityUnknown:
        return
    assert all(0 <= node.minor < 1 << 31 and 0 <= node.mode <= 0o777 for node in nodes)


def test_a_mocks_partitions_are_found_and_gone_with_them(tmp_path: Path) -> None:
    laid = mock.lay_out(tmp_path / "root", "h100x8", device_files="regular")
    node = Node()
    root = driver_root(node, str(laid.root), {"NVDRA_SYSFS": str(laid.sysfs), "NVDRA_PROCFS": str(laid.procfs)})
    laid.set_mig_mode(3, True)
    made = [laid.create_mig(3, "1g.10gb", start=start) for start in (0, 2)]
    for device in made:
        nodes = capability_nodes(node, root, device.minor, device.gi, device.ci)
        told = (laid.capability_node(3, device.gi), laid.capability_node(3, device.gi, device.ci))
        assert [f"nvidia-cap{found.minor}" for found in nodes] == [path.name for path in told]
        assert {(found.major, found.mode) for found in nodes} == {(234, 0o444)}
    laid.destroy_mig(made[0])
    with pytest.raises(CapabilityUnknown, match="GI capabilities file"):
        capability_nodes(node, root, 3, made[0].gi, made[0].ci)
    assert capability_nodes(node, root, 3, made[1].gi, made[1].ci)
