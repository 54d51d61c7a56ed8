"""What lies in a driver root: libraries, programs, firmware, configurations, device nodes."""

import os
import platform
import shutil
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nvdra_mock_nvml import elf, shipped
from nvdra_mock_nvml.portraits import Gpu, Portrait
from nvdra_mock_nvml.stand_ins import MAJOR_DRM, MAJOR_NVIDIA, MAJOR_UVM

LIBRARY_FOLDERS = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    ".",
)
DEFAULT_LIBRARY_FOLDER = f"usr/lib/{platform.machine()}-linux-gnu"
DeviceFiles = Literal["auto", "mknod", "regular", "none"]

_MANAGEMENT, _PORTRAIT = "libnvidia-ml.so", "libnvdra-mock-portrait.so"
_MARK = b"\nnvdra mock portrait\n"
_PORTRAIT_IN_ETC = "etc/nvdra-mock-portrait.json"
_PROGRAMS = (
    "nvidia-cuda-mps-server",
    "nvidia-debugdump",
    "nvidia-persistenced",
)
_STAND_INS = ("nvidia-cuda-mps-control", "nvidia-imex", "nvidia-imex-ctl")
_CONFIGURATIONS = {
    "etc/vulkan/icd.d/nvidia_icd.json": '{"file_format_version": "1.0.1"}\n',
    "usr/lib/xorg/modules/drivers/nvidia_drv.so": "",
    "usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json": '{"file_format_version": "1.0.0"}\n',
    "usr/share/glvnd/egl_vendor.d/10_nvidia.json": '{"file_format_version": "1.0.0"}\n',
    "usr/share/nvidia/nvoptix.bin": "nvoptix of the mock\n",
}
_FIRMWARE = ("gsp_ga10x.bin", "gsp_tu10x.bin")
_CONTROL_NODES = {
    "nvidiactl": (MAJOR_NVIDIA, 255, 0o666),
    "nvidia-modeset": (MAJOR_NVIDIA, 254, 0o666),
    "nvidia-uvm": (MAJOR_UVM, 0, 0o666),
    "nvidia-uvm-tools": (MAJOR_UVM, 1, 0o666),
    "dri/card0": (MAJOR_DRM, 0, 0o660),
}


class LayoutError(Exception):
    """The root cannot be laid out as asked: the text names the file and the way out."""


@dataclass(frozen=True, slots=True)
class _Library:
    """A driver library below the library folder: file, soname, and the links to it (name and target)."""

    file: str
    soname: str
    links: tuple[tuple[str, str], ...]


def _libraries(version: str) -> list[_Library]:
    """The libraries of a driver of this version, without the management library itself."""

    def linked(base: str, number: str, *bare: str) -> _Library:
        file, soname = f"{base}.so.{version}", f"{base.rpartition('/')[2]}.so.{number}"
        folder = base.rpartition("/")[0]
        links = [(f"{folder}/{soname}".lstrip("/"), file.rpartition("/")[2]), *((link, soname) for link in bare)]
        return _Library(file, soname, tuple(links))

    def named_by_file(base: str, *links: str) -> _Library:
        file = f"{base}.so.{version}"
        return _Library(file, file, tuple((link, file) for link in links))

    return [
        linked("libGLX_nvidia", "0"),
        linked("libcuda", "1", "libcuda.so"),
        linked("libnvcuvid", "1"),
        linked("libnvidia-allocator", "1"),
        named_by_file("libnvidia-gpucomp"),
        linked("libnvidia-opticalflow", "1"),
        linked("libnvidia-ptxjitcompiler", "1"),
        named_by_file("libnvidia-vulkan-producer", "libnvidia-vulkan-producer.so"),
        linked("vdpau/libvdpau_nvidia", "1"),
    ]


def lay_driver(root: Path, folder: Path, portrait: Portrait, version: str, without: tuple[str, ...]) -> None:
    """Everything that has the driver's version in its name: libraries, the portrait, firmware.

    without   functions the library shall not have
    """
    for library in _libraries(version):
        write(folder / library.file, elf.shared_object(library.soname), 0o755)
        for link, target in library.links:
            _link(folder / link, target)
    compiled = shipped.native("libnvidia-ml.so.1").read_bytes()
    if portrait.is_recorded:
        compiled = elf.without_soname(compiled)
    write(folder / f"{_MANAGEMENT}.{version}", elf.without_symbols(compiled, without), 0o644)
    write(*_portrait_file(root, folder, portrait, version), 0o644)
    _link(folder / f"{_MANAGEMENT}.1", f"{_MANAGEMENT}.{version}")
    _link(folder / _MANAGEMENT, f"{_MANAGEMENT}.1")
    for name in _FIRMWARE:
        write(root / f"lib/firmware/nvidia/{version}/{name}", b"firmware of the mock\n", 0o644)


def remove_driver(root: Path, folder: Path, portrait: Portrait, version: str) -> None:
    """What `lay_driver` wrote for this version, gone; the links stay and point nowhere."""
    for library in _libraries(version):
        (folder / library.file).unlink(missing_ok=True)
    (folder / f"{_MANAGEMENT}.{version}").unlink(missing_ok=True)
    _portrait_file(root, folder, portrait, version)[0].unlink(missing_ok=True)
    shutil.rmtree(root / f"lib/firmware/nvidia/{version}", ignore_errors=True)


def lay_programs(root: Path, portrait: Portrait) -> None:
    """Programs, configurations, and the persistence daemon's socket."""
    for name in _PROGRAMS:
        write(root / "usr/bin" / name, b"#!/bin/sh\nexit 0\n", 0o755)
    tool = shipped.native("nvidia-smi").read_bytes()
    write(root / "usr/bin/nvidia-smi", tool, 0o755)
    for name in _STAND_INS:
        content = b"#!/bin/sh\nexit 0\n" if portrait.is_recorded else shipped.native(name).read_bytes()
        write(root / "usr/bin" / name, content, 0o755)
    if not portrait.is_recorded:
        write(root / "usr/bin/nvidia-modprobe", tool, 0o755)  # the same program, told apart by its name
    for name, text in _CONFIGURATIONS.items():
        write(root / name, text.encode(), 0o644)
    _make_socket(root / "run/nvidia-persistenced/socket")


def lay_devices(root: Path, how: DeviceFiles) -> None:
    """The device nodes that belong to no GPU."""
    (root / "dev").mkdir(parents=True, exist_ok=True)
    for name, (major, minor, mode) in _CONTROL_NODES.items():
        make_device(root / "dev" / name, major, minor, mode, how)


def lay_gpu(root: Path, gpu: Gpu, how: DeviceFiles, *, drm: bool) -> None:
    """The device node of a GPU, and with `drm` its two graphics nodes and the links by path."""
    make_device(root / f"dev/nvidia{gpu.minor}", MAJOR_NVIDIA, gpu.minor, 0o666, how)
    if drm and how != "none":
        for kind, (name, minor, mode) in drm_nodes(gpu).items():
            make_device(root / "dev/dri" / name, MAJOR_DRM, minor, mode, how)
            by_path = root / f"dev/dri/by-path/pci-{gpu.pci_bus_id}-{kind}"
            by_path.parent.mkdir(exist_ok=True)
            _link(by_path, f"../{name}")


def drm_nodes(gpu: Gpu) -> dict[str, tuple[str, int, int]]:
    """Name, minor and mode of a GPU's graphics nodes, by kind; card 0 is the console's."""
    card, render = gpu.minor + 1, 128 + gpu.minor
    return {"card": (f"card{card}", card, 0o660), "render": (f"renderD{render}", render, 0o666)}


def chosen(how: DeviceFiles) -> DeviceFiles:
    """`auto` decided: character devices where this process may make them."""
    if how != "auto":
        return how
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.mknod(Path(folder) / "node", stat.S_IFCHR | 0o600, os.makedev(MAJOR_NVIDIA, 255))
        except OSError:
            return "regular"
    return "mknod"


def make_device(path: Path, major: int, minor: int, mode: int, how: DeviceFiles) -> None:
    if how == "none":
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if how == "regular":
        path.touch()
    else:
        try:
            os.mknod(path, stat.S_IFCHR | mode, os.makedev(major, minor))
        except PermissionError as error:
            raise LayoutError(f"{path}: making device nodes is not permitted; use regular files instead") from error
    path.chmod(mode)


def write(path: Path, content: bytes, mode: int) -> None:
    """A new file under this name; programs that have the old one open keep it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _portrait_file(root: Path, folder: Path, portrait: Portrait, version: str) -> tuple[Path, bytes]:
    """Where the portrait goes, and what it looks like there.

    Beside the library it begins as a shared object: CDI tools read the soname of every `*.so.<version>`.
    """
    if portrait.is_recorded:
        return root / _PORTRAIT_IN_ETC, portrait.text.encode()
    name = f"{_PORTRAIT}.{version}"
    return folder / name, elf.shared_object(name) + _MARK + portrait.text.encode()


def _make_socket(path: Path) -> None:
    """A socket file nobody listens on, made under a short name: socket paths may have 107 bytes only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_DIRECTORY | os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    path.chmod(0o755)


def _link(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
