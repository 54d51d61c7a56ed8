"""NVIDIA's functions on the bus, and what belongs to one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra.gpu import PciFacts
from nvdra.gpu.edits import FoundNode, GpuFiles, gpu_edits
from nvdra.host import BusListing, DriverRoot, driver_root, gpu_files, look_at_bus
from nvdra.testing.host import FakeHost

GPU = "0000:9f:00.0"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.write("/r/dev/null")
    return host


@pytest.fixture
def root(host: FakeHost) -> DriverRoot:
    return driver_root(host, "/r", {})


def put(host: FakeHost, address: str, path: str = "pci0000:9e/0000:9e:01.0", **attributes: str | None) -> None:
    values = {"vendor": "0x10de", "device": "0x2335", "class": "0x030200", "numa_node": "1"} | attributes
    for name, value in values.items():
        if value is not None:
            host.write(f"/sys/devices/{path}/{address}/{name}", f"{value}\n")
    host.link(f"/sys/bus/pci/devices/{address}", f"../../../devices/{path}/{address}")


def test_a_gpu_is_seen_with_its_facts(host: FakeHost, root: DriverRoot) -> None:
    put(host, GPU)
    host.link(f"/sys/bus/pci/devices/{GPU}/driver", "../../../../bus/pci/drivers/nvidia")
    bus = look_at_bus(host, root)
    (gpu,) = bus.functions
    assert (gpu.address, gpu.device, gpu.driver, gpu.is_gpu) == (GPU, 0x2335, "nvidia", True)
    assert bus.facts == {GPU: PciFacts(numa_node=1, pcie_root="pci0000:9e", driver="nvidia", is_gpu=True)}
    assert bus.gpus == bus.functions
    assert bus.left_out == ()


def test_without_a_bus_there_is_nothing(host: FakeHost, root: DriverRoot) -> None:
    assert look_at_bus(host, root).functions == ()


def test_others_functions_do_not_count(host: FakeHost, root: DriverRoot) -> None:
    put(host, "0000:01:00.0", vendor="0x15b3")
    put(host, "0000:02:00.0", vendor=None)
    assert look_at_bus(host, root).functions == ()


@pytest.mark.parametrize(
    ("code", "is_gpu"), [("0x030000", True), ("0x030200", True), ("0x040300", False), ("0x068000", False)]
)
def test_a_gpu_is_told_by_its_class(host: FakeHost, root: DriverRoot, code: str, is_gpu: bool) -> None:
    put(host, GPU, **{"class": code})
    assert bool(look_at_bus(host, root).gpus) is is_gpu


def test_a_virtual_function_is_no_gpu_of_this_node(host: FakeHost, root: DriverRoot) -> None:
    put(host, GPU)
    host.link(f"/sys/bus/pci/devices/{GPU}/physfn", "../0000:9f:00.1")
    assert [function.is_gpu for function in look_at_bus(host, root).functions] == [False]


@pytest.mark.parametrize("text", ["-1", "", "none", None])
def test_an_unknown_numa_node_is_none(host: FakeHost, root: DriverRoot, text: str | None) -> None:
    put(host, GPU, numa_node=text)
    assert look_at_bus(host, root).facts[GPU].numa_node is None


@pytest.mark.parametrize(
    ("path", "pcie_root"),
    [
        ("pci0000:00", "pci0000:00"),
        ("LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/1234-5678/pci0a5b:00", "pci0a5b:00"),
        ("pci10000:e1/10000:e0:01.0", "pci10000:e1"),
        ("platform/soc", None),
    ],
)
def test_the_pcie_root_is_found_below_other_buses_too(
    host: FakeHost, root: DriverRoot, path: str, pcie_root: str | None
) -> None:
    put(host, GPU, path)
    assert look_at_bus(host, root).facts[GPU].pcie_root == pcie_root


def test_a_link_that_leads_to_another_device_says_nothing(host: FakeHost, root: DriverRoot) -> None:
    put(host, "0000:01:00.0")
    host.link(f"/sys/bus/pci/devices/{GPU}", "../../../devices/pci0000:9e/0000:9e:01.0/0000:01:00.0")
    assert look_at_bus(host, root).facts[GPU].pcie_root is None


def test_a_function_that_cannot_be_read_is_left_out_with_its_reason(host: FakeHost, root: DriverRoot) -> None:
    put(host, "0000:01:00.0", device=None)
    put(host, "0000:02:00.0", **{"class": "garbage"})
    put(host, GPU)
    bus = look_at_bus(host, root)
    assert [function.address for function in bus.functions] == [GPU]
    reasons = dict(bus.left_out)
    assert set(reasons) == {"0000:01:00.0", "0000:02:00.0"}
    assert "No such file" in reasons["0000:01:00.0"]
    assert reasons["0000:02:00.0"].endswith('class says "garbage", which is no number')


def test_the_listing_follows_what_comes_and_goes(host: FakeHost, root: DriverRoot, tmp_path: Path) -> None:
    listing = BusListing(host, root)
    assert listing.look() == []
    put(host, GPU)
    put(host, "0000:01:00.0", vendor="0x8086")
    assert listing.look() == [GPU]
    put(host, "0000:02:00.0")
    assert listing.look() == ["0000:02:00.0", GPU]
    (tmp_path / "sys/bus/pci/devices" / GPU).unlink()
    assert listing.look() == ["0000:02:00.0"]
    # Seen while it was not readable yet: asked again.
    host.link(f"/sys/bus/pci/devices/{GPU}", "nowhere")
    assert listing.look() == ["0000:02:00.0"]
    (tmp_path / "sys/bus/pci/devices" / GPU).unlink()
    put(host, GPU)
    assert listing.look() == ["0000:02:00.0", GPU]


# ── one GPU's files ───────────────────────────────────────────────────────────────────────────────────────────


def put_graphics(host: FakeHost, root: str = "/r") -> None:
    put(host, GPU)
    for name, minor, mode, gid in (("card1", 1, 0o660, 44), ("renderD128", 128, 0o666, 105)):
        host.write(f"/sys/bus/pci/devices/{GPU}/drm/{name}/dev")
        host.put_device(f"{root}/dev/dri/{name}", 226, minor, mode=mode, gid=gid)
    host.link(f"{root}/dev/dri/by-path/pci-{GPU}-card", "../card1")
    host.link(f"{root}/dev/dri/by-path/pci-{GPU}-render", "../renderD128")


def test_a_gpu_has_its_node_and_those_of_its_graphics(host: FakeHost, root: DriverRoot) -> None:
    host.put_device("/r/dev/nvidia3", 195, 3)
    put_graphics(host)
    host.put_device("/r/dev/dri/card0", 226, 0)  # another GPU's
    assert gpu_files(host, root, 3, GPU) == GpuFiles(
        nodes=(
            FoundNode("/r/dev/nvidia3", "/dev/nvidia3", 195, 3, 0o666, 0),
            FoundNode("/r/dev/dri/card1", "/dev/dri/card1", 226, 1, 0o660, 44),
            FoundNode("/r/dev/dri/renderD128", "/dev/dri/renderD128", 226, 128, 0o666, 105),
        ),
        by_path=(
            ("../card1", f"/dev/dri/by-path/pci-{GPU}-card"),
            ("../renderD128", f"/dev/dri/by-path/pci-{GPU}-render"),
        ),
    )


def test_nodes_are_taken_from_the_containers_dev_where_the_root_has_none(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.put_device("/dev/nvidia3", 195, 3)
    put_graphics(host, "")
    files = gpu_files(host, driver_root(host, "/r", {}), 3, GPU)
    assert [node.host_path for node in files.nodes] == ["/dev/nvidia3", "/dev/dri/card1", "/dev/dri/renderD128"]
    assert len(files.by_path) == 2
    # What lies at its own path needs no second one.
    assert {node.host_path for node in gpu_edits(files, "/hook").device_nodes} == {""}


def test_a_missing_node_is_named(host: FakeHost, root: DriverRoot) -> None:
    put_graphics(host)
    files = gpu_files(host, root, 3, GPU)
    assert files.missing == ("/dev/nvidia3",)
    host.write("/r/dev/nvidia3", "a file is no device")
    assert gpu_files(host, root, 3, GPU).missing == ("/dev/nvidia3",)


def test_in_a_stand_in_a_file_may_be_a_device(host: FakeHost) -> None:
    host.write("/r/dev/nvidia3")
    root = driver_root(host, "/r", {"NVDRA_PROCFS": "/r/proc"})
    files = gpu_files(host, root, 3, "")
    assert files == GpuFiles((FoundNode("/r/dev/nvidia3", "/dev/nvidia3", 0, 0, 0, 0),))


@pytest.mark.parametrize("target", ["../card0", "../none", "/dev/dri/card0", "../../../../dev/dri/card0"])
def test_links_to_others_nodes_are_left_out(host: FakeHost, root: DriverRoot, tmp_path: Path, target: str) -> None:
    host.put_device("/r/dev/nvidia3", 195, 3)
    put_graphics(host)
    host.put_device("/r/dev/dri/card0", 226, 0)
    (tmp_path / f"r/dev/dri/by-path/pci-{GPU}-card").unlink()
    host.link(f"/r/dev/dri/by-path/pci-{GPU}-card", target)
    assert [target for target, _ in gpu_files(host, root, 3, GPU).by_path] == ["../renderD128"]


def test_a_gpus_edits_restore_its_graphics_links(host: FakeHost, root: DriverRoot) -> None:
    host.put_device("/r/dev/nvidia3", 195, 3)
    put_graphics(host)
    edits = gpu_edits(gpu_files(host, root, 3, GPU), "/opt/nvidia-cdi-hook")
    (hook,) = edits.hooks
    assert (hook.name, hook.path) == ("createContainer", "/opt/nvidia-cdi-hook")
    assert hook.args == (
        "nvidia-cdi-hook",
        "create-symlinks",
        "--link",
        f"../card1::/dev/dri/by-path/pci-{GPU}-card",
        "--link",
        f"../renderD128::/dev/dri/by-path/pci-{GPU}-render",
    )
    assert hook.env == ("NVIDIA_CTK_DEBUG=false",)
    assert edits.additional_gids == (44,)  # the render node is open to the world
    assert [node.gid for node in edits.device_nodes] == [0, 44, 105]
    assert (edits.env, edits.mounts) == ((), ())
