"""The driver roots of the mock NVML, and the programs in them."""

import ctypes
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvdra_mock_nvml import LayoutError, Root, cli, lay_out, load
from nvdra_mock_nvml.portraits import PortraitError

from tests.contract.mock_node import PORTRAITS, Library, smi

GOLDEN = Path(__file__).parent.parent / "golden/recordings"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return lay_out(tmp_path / "root", "h100x8", device_files="regular")


def test_smi_lists_what_is_visible(root: Root) -> None:
    root.hide_gpu(0)
    gpus = [gpu for gpu in root.portrait.gpus if gpu.minor]
    assert smi(root, "-L") == "".join(f"GPU {index}: {gpu.name} (UUID: {gpu.uuid})\n" for index, gpu in enumerate(gpus))


def test_smi_answers_queries(root: Root) -> None:
    fields = "index,uuid,name,pci.bus_id,memory.total,driver_version"
    lines = smi(root, f"--query-gpu={fields}", "--format=csv").splitlines()
    assert lines[0] == "index, uuid, name, pci.bus_id, memory.total [MiB], driver_version"
    uuid = root.portrait.gpus[1].uuid
    assert lines[2] == f"1, {uuid}, NVIDIA H100 80GB HBM3, 00000000:43:00.0, 81559 MiB, 580.159.04"
    for choice in ("1", uuid, "00000000:43:00.0", "0000:43:00.0"):
        assert smi(root, "-i", choice, "--query-gpu=uuid", "--format=csv,noheader") == f"{uuid}\n"
    assert smi(root, "-i", "1", "--query-gpu=memory.total", "--format=csv,noheader,nounits") == "81559\n"
    assert "not a valid field" in smi(root, "--query-gpu=mood", "--format=csv", status=2)
    assert smi(root, "--query-gpu=uuid", status=2).startswith("Invalid combination")


def test_smi_shows_a_table(root: Root) -> None:
    table = smi(root)
    assert table.count("NVIDIA H100 80GB HBM3") == 8
    assert "Driver Version: 580.159.04" in table


def test_smi_without_gpus_or_library(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "h100x8", gpus=[], device_files="regular")
    assert smi(root, "-L", status=6) == "No devices were found\n"
    assert "NVIDIA-SMI version  : 580.159.04" in smi(root, "--version")
    shutil.rmtree(root.library.parent)
    assert "couldn't communicate with the NVIDIA driver" in smi(root, "--version", status=9)


def test_smi_needs_no_links_and_no_loader(root: Root) -> None:
    """As in a container: versioned files only, no hook has made the links yet."""
    for link in root.library.parent.iterdir():
        if link.is_symlink():
            link.unlink()
    assert smi(root, "-L").count("GPU ") == 8
    kind = subprocess.run(["readelf", "-l", str(root.nvidia_smi)], capture_output=True, text=True, check=True)
    assert "INTERP" not in kind.stdout


def test_modprobe_makes_missing_nodes(root: Root) -> None:
    dev = root.root / "dev"
    for name in ("nvidia-uvm", "nvidia-uvm-tools", "nvidia3"):
        (dev / name).unlink()
    modprobe = str(root.root / "usr/bin/nvidia-modprobe")
    subprocess.run([modprobe, "-u", "-c", "3"], check=True)
    assert all((dev / name).exists() for name in ("nvidia-uvm", "nvidia-uvm-tools", "nvidia3"))
    assert subprocess.run([modprobe, "--what"], capture_output=True, check=False).returncode == 2


def listing(folder: Path) -> Iterator[str]:
    """As `driver-root.txt` lists: mode, path, link target, numbers of devices."""
    for path in folder.rglob("*"):
        about = path.lstat()
        name = f"{stat.filemode(about.st_mode)} '/{path.relative_to(folder)}'"
        if path.is_symlink():
            yield f"{name} -> '{os.readlink(path)}'"
        elif stat.S_ISCHR(about.st_mode):
            yield f"{name} {os.major(about.st_rdev):x}:{os.minor(about.st_rdev):x}"
        elif not path.is_dir():
            yield name


def test_the_recorded_root_comes_out_as_it_was(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "recorded-a100x8", stand_in_dir=tmp_path / "stand-ins")
    if root.device_files != "mknod":
        pytest.skip("device nodes may not be made here")
    recorded = (GOLDEN / "driver-root.txt").read_text().splitlines()
    portrait = "-rw-r--r-- '/etc/nvdra-mock-portrait.json'"
    assert sorted(listing(root.root)) == sorted([*recorded, portrait])


def test_the_recorded_identities_come_out_as_they_were(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "recorded-a100x8", device_files="regular")
    slices = json.loads((GOLDEN / "v0.4.1-plain/slices.json").read_text())
    recorded = sorted(
        (device["name"], attributes["uuid"]["string"], attributes["resource.kubernetes.io/pciBusID"]["string"])
        for published in slices
        for device in published["spec"]["devices"]
        for attributes in [device["attributes"]]
    )
    assert sorted((f"gpu-{gpu.minor}", gpu.uuid, gpu.pci_bus_id) for gpu in root.portrait.gpus) == recorded
    assert list((root.sysfs / "bus/pci/devices").iterdir()) == []


def soname(file: Path) -> str | None:
    dynamic = subprocess.run(["readelf", "-d", str(file)], capture_output=True, text=True, check=True)
    assert dynamic.stderr == ""
    lines = [line for line in dynamic.stdout.splitlines() if "(SONAME)" in line]
    return lines[0].rpartition("[")[2].rstrip("]") if lines else None


def test_libraries_have_the_sonames_of_their_links(root: Root, tmp_path: Path) -> None:
    folder = root.library.parent
    for link in (link for link in folder.rglob("*.so.?") if link.is_symlink()):
        assert soname(link) == link.name
        ctypes.CDLL(str(link))
    for name in ("libnvidia-gpucomp", "libnvidia-vulkan-producer", "libnvdra-mock-portrait"):
        assert soname(folder / f"{name}.so.580.159.04") == f"{name}.so.580.159.04"
    recorded = lay_out(tmp_path / "recorded", "recorded-a100x8", device_files="regular")
    assert soname(recorded.library) is None
    assert Library(recorded).minors() == list(range(8))


@pytest.mark.parametrize("name", ["h100x8", "gpus16", "h200x1"])
def test_sysfs_shows_each_gpu_below_its_root(name: str, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", name, device_files="regular")
    for gpu in root.portrait.gpus:
        device = root.sysfs / "bus/pci/devices" / gpu.pci_bus_id
        path = device.resolve().relative_to(root.sysfs.resolve()).parts
        assert path == ("devices", *gpu.pcie_path, gpu.pci_bus_id)
        assert not os.path.isabs(os.readlink(device))
        assert (device / "vendor").read_text() == "0x10de\n"
        assert (device / "class").read_text() == "0x030200\n"
        assert (device / "numa_node").read_text() == f"{gpu.numa_node}\n"
        assert os.path.basename(os.readlink(device / "driver")) == "nvidia"
        regions = [[int(word, 16) for word in line.split()] for line in (device / "resource").read_text().splitlines()]
        assert len(regions) == 13
        sizes = [end - start + 1 for start, end, flags in regions if flags & 0x6 == 0x4]
        assert sizes == [bar.size_bytes for bar in gpu.bars]
        about = (root.procfs / f"driver/nvidia/gpus/{gpu.pci_bus_id}/information").read_text()
        assert f"GPU UUID: \t {gpu.uuid}\n" in about
        assert f"Device Minor: \t {gpu.minor}\n" in about


def test_procfs_lists_the_majors(root: Root) -> None:
    characters, _, blocks = (root.procfs / "devices").read_text().partition("Block devices:")
    assert blocks
    for line in ("195 nvidia\n", "195 nvidiactl\n", "510 nvidia-uvm\n", "234 nvidia-caps\n"):
        assert line in characters


def test_gpus_come_and_go(root: Root) -> None:
    gpu = root.gpu(3)
    places = [
        root.device_node(3),
        root.sysfs / "bus/pci/devices" / gpu.pci_bus_id,
        root.procfs / f"driver/nvidia/gpus/{gpu.pci_bus_id}",
        root.procfs / "driver/nvidia/capabilities/gpu3",
    ]
    root.remove_gpu(3)
    assert [place for place in places if place.exists() or place.is_symlink()] == []
    assert Library(root).minors() == [0, 1, 2, 4, 5, 6, 7]
    root.add_gpu(3)
    assert all(place.exists() for place in places)
    with pytest.raises(LayoutError, match="no GPU with minor 9"):
        root.remove_gpu(9)


def test_graphics_nodes_on_request(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", "h100x8", device_files="regular", drm=True)
    gpu = root.gpu(2)
    assert sorted(node.name for node in (root.sysfs / f"bus/pci/devices/{gpu.pci_bus_id}/drm").iterdir()) == [
        "card3",
        "renderD130",
    ]
    assert os.readlink(root.root / f"dev/dri/by-path/pci-{gpu.pci_bus_id}-render") == "../renderD130"
    assert (root.root / "dev/dri/renderD130").exists()


def test_device_files_as_asked(tmp_path: Path) -> None:
    none = lay_out(tmp_path / "none", "h100x8", device_files="none")
    assert list((none.root / "dev").iterdir()) == []
    regular = lay_out(tmp_path / "regular", "h100x8", device_files="regular", gpus=[1, 4])
    assert sorted(node.name for node in (regular.root / "dev").glob("nvidia?")) == ["nvidia1", "nvidia4"]
    assert stat.S_ISREG(regular.device_node(1).lstat().st_mode)


def test_the_command_lays_out_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["root", "--portrait", "h100x8", "--driver-version", "570.1.2", "--lib-dir", "usr/lib64"]
    assert cli.main([*arguments, "--gpus", "0,1,3", "--device-files", "regular", str(out)]) == 0
    assert str(out / "usr/lib64/libnvidia-ml.so.1") in capsys.readouterr().out
    assert os.readlink(out / "usr/lib64/libnvidia-ml.so.1") == "libnvidia-ml.so.570.1.2"
    assert cli.main(["portraits"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(PORTRAITS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--portrait", "h100x9", "OUT"], "no portrait 'h100x9'"),
        (["--portrait", "h100x8", "--gpus", "8", "OUT"], "no GPU with minor 8"),
        (["--portrait", "h100x8", "FULL"], "is not empty"),
        (["--portrait", "h100x8", "--driver-version", "../580", "OUT"], "no driver version"),
        (["--portrait", "h100x8", "--lib-dir", "opt/lib", "OUT"], "usr/lib64"),
        (["--portrait", "BAD.json", "OUT"], "KeyError: 'models'"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL/file").touch()
    (tmp_path / "BAD.json").write_text("{}")
    words = [str(tmp_path / word) if word.rstrip(".json").isupper() else word for word in arguments]
    assert cli.main(["root", "--device-files", "regular", *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("nvdra-mock-nvml: ")


def test_a_portrait_of_ones_own(tmp_path: Path) -> None:
    text = json.loads(load("h200x1").text)
    text["name"] = "mine"
    text["gpus"][0]["minor"] = 5
    (tmp_path / "mine.json").write_text(json.dumps(text))
    root = lay_out(tmp_path / "root", str(tmp_path / "mine.json"), device_files="regular")
    assert Library(root).minors() == [5]
    with pytest.raises(PortraitError, match="no portrait"):
        load("yours")
