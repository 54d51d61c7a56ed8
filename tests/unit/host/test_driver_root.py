"""Where the driver is looked for, and what the kernel says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.host import (
    DriverFileMissing,
    DriverRoot,
    device_major,
    driver_root,
    find_library,
    find_program,
    module_version,
)
from nvdra.host.ld_cache import parse
from nvdra.testing.host import FakeHost
from tests.unit.host.ld_caches import cache

NVML = "libnvidia-ml.so.1"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def root(host: FakeHost) -> DriverRoot:
    return driver_root(host, "/driver-root/", {})


def test_device_nodes_lie_in_the_root_if_it_has_a_dev(host: FakeHost) -> None:
    assert driver_root(host, "/driver-root", {}).dev == "/"
    host.write("/driver-root/dev/null")
    assert driver_root(host, "/driver-root", {}).dev == "/driver-root"
    assert driver_root(host, "/", {}).dev == "/"
    host.link("/linked/dev", "/devices")
    host.write("/linked/devices/x")
    assert driver_root(host, "/linked", {}).dev == "/linked"
    host.write("/other/dev", "a file")
    assert driver_root(host, "/other", {}).dev == "/"


def test_two_variables_put_stand_ins_for_the_kernels_folders(host: FakeHost) -> None:
    plain = driver_root(host, "/", {})
    assert (plain.sysfs, plain.procfs, plain.devices_file, plain.is_stand_in) == (
        "/sys",
        "/proc",
        "/proc/devices",
        False,
    )
    ours = driver_root(host, "/", {"NVDRA_SYSFS": "/x/sys/", "NVDRA_PROCFS": "/x/proc"})
    assert (ours.sysfs, ours.procfs, ours.devices_file) == ("/x/sys", "/x/proc", "/x/proc/devices")
    assert ours.is_stand_in
    theirs = driver_root(host, "/", {"NVDRA_PROCFS": "/x/proc", "ALT_PROC_DEVICES_PATH": "/y"})
    assert theirs.devices_file == "/y"


@pytest.mark.parametrize(
    "folder",
    ["", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/lib/x86_64-linux-gnu"],
)
def test_a_library_is_found_where_distributions_put_it(host: FakeHost, root: DriverRoot, folder: str) -> None:
    host.link(f"/driver-root{folder}/{NVML}", "libnvidia-ml.so.580.65")
    host.write(f"/driver-root{folder}/libnvidia-ml.so.580.65")
    assert find_library(host, root) == f"/driver-root{folder}/libnvidia-ml.so.580.65"


def test_the_first_folder_wins_and_shadows_of_files_do_not_count(host: FakeHost, root: DriverRoot) -> None:
    host.write(f"/driver-root/{NVML}/a-folder-of-that-name")
    host.link(f"/driver-root/usr/lib64/{NVML}", "broken")
    host.put_device(f"/driver-root/usr/lib/x86_64-linux-gnu/{NVML}", 1, 3)
    host.write(f"/driver-root/lib64/{NVML}")
    host.write(f"/driver-root/lib/x86_64-linux-gnu/{NVML}")
    assert find_library(host, root) == f"/driver-root/lib64/{NVML}"


def test_absolute_links_stay_in_the_root(host: FakeHost, root: DriverRoot) -> None:
    host.link("/driver-root/usr/bin/nvidia-smi", "/etc/alternatives/nvidia-smi")
    host.link("/driver-root/etc/alternatives/nvidia-smi", "/usr/lib/nvidia/current/nvidia-smi")
    host.write("/driver-root/usr/lib/nvidia/current/nvidia-smi")
    assert find_program(host, root, "nvidia-smi") == "/driver-root/usr/lib/nvidia/current/nvidia-smi"


def test_a_library_elsewhere_is_found_by_the_loaders_cache(host: FakeHost, root: DriverRoot) -> None:
    host.write("/driver-root/opt/nvidia/lib/libnvidia-ml.so.580.65")
    host.link(f"/driver-root/opt/nvidia/lib/{NVML}", "libnvidia-ml.so.580.65")
    host.write("/driver-root/etc/ld.so.cache", cache([f"/opt/nvidia/lib/{NVML}"]))
    assert find_library(host, root) == "/driver-root/opt/nvidia/lib/libnvidia-ml.so.580.65"


def test_a_missing_file_is_named_with_its_root(host: FakeHost, root: DriverRoot) -> None:
    with pytest.raises(DriverFileMissing, match=r'error locating "libnvidia-ml.so.1": .* /driver-root; is the NVIDIA'):
        find_library(host, root)
    with pytest.raises(DriverFileMissing, match='error locating "nvidia-smi"'):
        find_program(host, root, "nvidia-smi")


def test_a_library_without_its_link_is_named_with_what_makes_the_link(host: FakeHost, root: DriverRoot) -> None:
    host.write("/driver-root/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.159.04")
    text = r"libnvidia-ml\.so\.580\.159\.04 is there, but no link .* run ldconfig"
    with pytest.raises(DriverFileMissing, match=text):
        find_library(host, root)


# ── what the kernel says ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025\n", "550.163.01"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs@host)  Mon\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
            "580.159.04",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build\n", "580.65.06"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  390.157  Wed\n", "390.157"),
    ],
)
def test_the_loaded_modules_version_is_what_procfs_says(
    host: FakeHost, root: DriverRoot, text: str, version: str
) -> None:
    host.write("/sys/module/nvidia/version", "1.2\n")
    host.write("/proc/driver/nvidia/version", text)
    assert module_version(host, root) == version


def test_sysfs_says_it_where_procfs_does_not(host: FakeHost, root: DriverRoot) -> None:
    assert module_version(host, root) is None
    host.write("/sys/module/nvidia/version", "580.65.06\n")
    assert module_version(host, root) == "580.65.06"
    host.write("/proc/driver/nvidia/version", "something else\n")
    assert module_version(host, root) == "580.65.06"


DEVICES = """Character devices:
  1 mem
195 nvidia
195 nvidiactl
234 nvidia-caps-imex-channels
510 nvidia-uvm

Block devices:
  8 sd
259 blkext
777 nvidia-caps
"""


@pytest.mark.parametrize(
    ("name", "major"),
    [("nvidia-uvm", 510), ("nvidia", 195), ("mem", 1), ("nvidia-caps", None), ("sd", None), ("uvm", None), ("", None)],
)
def test_a_major_is_that_of_the_character_device(
    host: FakeHost, root: DriverRoot, name: str, major: int | None
) -> None:
    host.write("/proc/devices", DEVICES)
    assert device_major(host, root, name) == major


def test_without_a_list_there_is_no_major(host: FakeHost, root: DriverRoot) -> None:
    assert device_major(host, root, "nvidia-uvm") is None
    host.write("/proc/devices", "Block devices:\n510 nvidia-uvm\n")
    assert device_major(host, root, "nvidia-uvm") is None
    host.write("/proc/devices", f"Character devices:\n{1 << 31} nvidia-uvm\n")
    assert device_major(host, root, "nvidia-uvm") is None


# ── the loader's cache ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("old", [None, 0, 1, 2, 7])
def test_the_cache_is_read_in_both_its_formats(old: int | None) -> None:
    paths = ["/usr/lib/libc.so.6", f"/opt/{NVML}", "/usr/lib/libc.so.6"]
    assert parse(cache(paths, old=old)) == ["/usr/lib/libc.so.6", f"/opt/{NVML}"]


@pytest.mark.parametrize(
    ("flags", "counts"), [(0x0303, True), (0x0A03, True), (0x0003, False), (0x0803, False), (0x0300, False)]
)
def test_only_libraries_of_64_bits_count(flags: int, counts: bool) -> None:
    assert parse(cache(["/lib/a.so"], flags)) == (["/lib/a.so"] if counts else [])


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_damaged_cache_is_no_cache(tail: bytes, cut: int) -> None:
    whole = cache(["/lib/a.so", "/lib/b.so"])
    for content in (tail, whole[:cut], whole[:20] + tail, whole[:60] + tail, b"ld.so-1.7.0\0" + tail):
        assert all(path.startswith("/") for path in parse(content))
