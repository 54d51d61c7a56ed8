"""Lays out a driver root: what a driver installation looks like on disk, with the mock library in it."""

import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nvdra_mock_nvml import calls, elf, shipped, stand_ins
from nvdra_mock_nvml.portraits import Gpu, Portrait, load

DeviceFiles = Literal["auto", "mknod", "regular", "none"]

_PROGRAMS = (
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-debugdump",
    "nvidia-imex",
    "nvidia-imex-ctl",
    "nvidia-persistenced",
)
_FILES = {
    "etc/vulkan/icd.d/nvidia_icd.json": '{"file_format_version": "1.0.1"}\n',
    "usr/lib/xorg/modules/drivers/nvidia_drv.so": "",
    "usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json": '{"file_format_version": "1.0.0"}\n',
    "usr/share/glvnd/egl_vendor.d/10_nvidia.json": '{"file_format_version": "1.0.0"}\n',
    "usr/share/nvidia/nvoptix.bin": "nvoptix of the mock\n",
}
_FIRMWARE = ("gsp_ga10x.bin", "gsp_tu10x.bin")
_FAULTS = "etc/nvdra-mock-faults.json"
_CALLS = "nvdra-mock-calls"
_LIBRARY = "libnvidia-ml.so"
_PORTRAIT = "libnvdra-mock-portrait.so"
_FAULTS_SEEN_S = 0.01  # the library looks at the fault file every 5 ms


class LayoutError(Exception):
    """The root cannot be laid out as asked: the text names the file and the way out."""


@dataclass(frozen=True, slots=True)
class _Library:
    """A driver library: the name before `.so`, its soname, the links to it (name and target)."""

    name: str
    soname: str
    links: tuple[tuple[str, str], ...]


def _linked(name: str, number: str, *, bare: bool = False) -> _Library:
    soname = f"{name}.so.{number}"
    links = [(soname, "{file}")]
    if bare:
        links.append((f"{name}.so", soname))
    return _Library(name, soname, tuple(links))


_LIBRARIES = (
    _linked("libGLX_nvidia", "0"),
    _linked("libcuda", "1", bare=True),
    _linked("libnvcuvid", "1"),
    _linked("libnvidia-allocator", "1"),
    _Library("libnvidia-gpucomp", "{file}", ()),
    _linked("libnvidia-opticalflow", "1"),
    _linked("libnvidia-ptxjitcompiler", "1"),
    _Library("libnvidia-vulkan-producer", "{file}", (("libnvidia-vulkan-producer.so", "{file}"),)),
    _linked("vdpau/libvdpau_nvidia", "1"),
)


@dataclass(frozen=True, slots=True)
class Root:
    """A driver root on disk. Its methods change it while programs use it, as an administrator would."""

    root: Path
    procfs: Path
    sysfs: Path
    library: Path  # libnvidia-ml.so.1
    portrait: Portrait
    driver_version: str
    device_files: DeviceFiles
    without: tuple[str, ...] = ()

    @property
    def nvidia_smi(self) -> Path:
        return self.root / "usr/bin/nvidia-smi"

    def gpu(self, minor: int) -> Gpu:
        """The portrait's GPU with this minor."""
        for gpu in self.portrait.gpus:
            if gpu.minor == minor:
                return gpu
        known = sorted(gpu.minor for gpu in self.portrait.gpus)
        raise LayoutError(f"portrait {self.portrait.name} has no GPU with minor {minor}, only {known}")

    def device_node(self, minor: int) -> Path:
        return self.root / f"dev/nvidia{self.gpu(minor).minor}"

    def add_gpu(self, minor: int) -> None:
        """The GPU plugged in: its device node, its PCI function, its line in procfs."""
        gpu = self.gpu(minor)
        _make_device(self.device_node(minor), stand_ins.MAJOR_NVIDIA, minor, 0o666, self.device_files)
        stand_ins.add_proc(self.procfs, gpu, self.driver_version)
        if self.portrait.is_in_sysfs:
            stand_ins.add_sys(self.sysfs, gpu)

    def remove_gpu(self, minor: int) -> None:
        """The GPU gone from the node altogether. Only the device node: `hide_gpu`."""
        gpu = self.gpu(minor)
        self.hide_gpu(minor)
        stand_ins.remove_sys(self.sysfs, gpu)
        shutil.rmtree(self.procfs / f"driver/nvidia/gpus/{gpu.pci_bus_id}", ignore_errors=True)
        shutil.rmtree(self.procfs / f"driver/nvidia/capabilities/gpu{minor}", ignore_errors=True)

    def hide_gpu(self, minor: int) -> None:
        """The GPU's device node gone: the library does not see it from its next first init on."""
        self.device_node(minor).unlink(missing_ok=True)

    def replace_driver(self, version: str) -> "Root":
        """Another driver version in the same place: new library files, new `/proc` and `/sys` versions."""
        folder = self.library.parent
        for library in (*(known.name for known in _LIBRARIES), "libnvidia-ml", "libnvdra-mock-portrait"):
            (folder / f"{library}.so.{self.driver_version}").unlink(missing_ok=True)
        shutil.rmtree(self.root / f"lib/firmware/nvidia/{self.driver_version}", ignore_errors=True)
        new = replace(self, driver_version=version)
        _lay_versioned(new)
        stand_ins.lay_version(self.procfs, version)
        stand_ins.lay_module(self.sysfs, version)
        return new

    def set_faults(self, faults: Iterable[Mapping[str, Any]], *, count_calls: bool = True) -> None:
        """Faults for every call that starts after this returns, in all programs that use this root.

        A fault has `function`, `minor` (which calls), `after`, `times` (which of them), and `code`, `lost`,
        `delay_ms`, `hang` (what happens); README.md explains each.
        """
        content: dict[str, Any] = {"faults": [dict(fault) for fault in faults]}
        if count_calls:
            content["calls"] = _CALLS
        _replace_file(self.root / _FAULTS, json.dumps(content, indent=1) + "\n")
        time.sleep(_FAULTS_SEEN_S)

    def clear_faults(self) -> None:
        """No faults from now on."""
        (self.root / _FAULTS).unlink(missing_ok=True)
        time.sleep(_FAULTS_SEEN_S)

    def count_calls(self) -> Path:
        """Calls are counted from now on, in the file this returns (`calls` reads it)."""
        self.set_faults([])
        return self.root / _CALLS

    def calls(self) -> dict[str, int]:
        """How often each function was called since counting began."""
        return calls.read_calls(self.root / _CALLS)


def lay_out(
    root: Path,
    portrait: str,
    *,
    driver_version: str | None = None,
    gpus: Iterable[int] | None = None,
    device_files: DeviceFiles = "auto",
    lib_dir: str = "usr/lib/x86_64-linux-gnu",
    stand_in_dir: Path | None = None,
    without: Iterable[str] = (),
) -> Root:
    """A driver root at `root`, with the mock library and the node that the portrait describes.

    driver_version   else the portrait's own
    gpus             minors of the GPUs that are there; else all
    device_files     `mknod`: character devices; `regular`: empty files; `none`; `auto`: mknod where it is permitted
    lib_dir          where the libraries go, below `root`
    stand_in_dir     where `proc` and `sys` go; else `root/stand-ins`
    without          functions the library shall not have, as an older one
    Raises LayoutError (also for a root that is not empty), PortraitError, NotBuiltError.
    """
    node = load(portrait)
    if root.is_dir() and any(root.iterdir()):
        raise LayoutError(f"{root} is not empty: give a folder that does not exist yet, or empty it first")
    minors = _minors(node, gpus)
    stand_in = stand_in_dir or root / "stand-ins"
    laid = Root(
        root=root,
        procfs=stand_in / "proc",
        sysfs=stand_in / "sys",
        library=root / lib_dir / f"{_LIBRARY}.1",
        portrait=node,
        driver_version=driver_version or node.driver_version,
        device_files=_chosen(device_files),
        without=tuple(without),
    )
    try:
        _lay_versioned(laid)
        _lay_fixed(laid)
        _lay_devices(laid, minors)
        stand_ins.lay_proc(laid.procfs, node, laid.driver_version, minors)
        stand_ins.lay_sys(laid.sysfs, node, laid.driver_version, minors)
    except OSError as error:
        raise LayoutError(f"{error.filename or root}: {error.strerror}; the root is incomplete") from error
    except elf.ElfError as error:
        raise LayoutError(str(error)) from error
    return laid


def _minors(node: Portrait, gpus: Iterable[int] | None) -> set[int]:
    known = {gpu.minor for gpu in node.gpus}
    if gpus is None:
        return known
    wanted = set(gpus)
    if unknown := sorted(wanted - known):
        raise LayoutError(f"portrait {node.name} has no GPU with minor {unknown[0]}, only {sorted(known)}")
    return wanted


def _lay_versioned(laid: Root) -> None:
    """Everything with the driver's version in its name."""
    folder, version = laid.library.parent, laid.driver_version
    for library in _LIBRARIES:
        file = f"{library.name.rpartition('/')[2]}.so.{version}"
        where = (folder / library.name).parent
        soname = library.soname.rpartition("/")[2].format(file=file)
        _write(where / file, elf.shared_object(soname), 0o755)
        for link, target in library.links:
            _link(where / link.rpartition("/")[2], target.rpartition("/")[2].format(file=file))
    compiled = shipped.native("libnvidia-ml.so.1").read_bytes()
    if not laid.portrait.library_has_soname:
        compiled = elf.without_soname(compiled)
    _write(folder / f"{_LIBRARY}.{version}", elf.without_symbols(compiled, laid.without), 0o644)
    portrait = (
        folder / f"{_PORTRAIT}.{version}" if laid.portrait.kept == "lib" else laid.root / "etc/nvdra-mock-portrait.json"
    )
    _write(portrait, laid.portrait.text.encode(), 0o644)
    _link(laid.library, f"{_LIBRARY}.{version}")
    _link(folder / _LIBRARY, f"{_LIBRARY}.1")
    for name in _FIRMWARE:
        _write(laid.root / f"lib/firmware/nvidia/{version}/{name}", b"firmware of the mock\n", 0o644)


def _lay_fixed(laid: Root) -> None:
    for name in _PROGRAMS:
        _write(laid.root / "usr/bin" / name, b"#!/bin/sh\nexit 0\n", 0o755)
    _write(laid.nvidia_smi, shipped.native("nvidia-smi").read_bytes(), 0o755)
    for name, text in _FILES.items():
        _write(laid.root / name, text.encode(), 0o644)
    _make_socket(laid.root / "run/nvidia-persistenced/socket")


def _lay_devices(laid: Root, minors: set[int]) -> None:
    dev = laid.root / "dev"
    dev.mkdir(parents=True, exist_ok=True)
    fixed = {
        "nvidiactl": (stand_ins.MAJOR_NVIDIA, 255, 0o666),
        "nvidia-modeset": (stand_ins.MAJOR_NVIDIA, 254, 0o666),
        "nvidia-uvm": (stand_ins.MAJOR_UVM, 0, 0o666),
        "nvidia-uvm-tools": (stand_ins.MAJOR_UVM, 1, 0o666),
        "dri/card0": (stand_ins.MAJOR_DRM, 0, 0o660),
    }
    for name, (major, minor, mode) in fixed.items():
        _make_device(dev / name, major, minor, mode, laid.device_files)
    for minor in minors:
        _make_device(dev / f"nvidia{minor}", stand_ins.MAJOR_NVIDIA, minor, 0o666, laid.device_files)


def _chosen(device_files: DeviceFiles) -> DeviceFiles:
    """`auto` decided: character devices where this process may make them."""
    if device_files != "auto":
        return device_files
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.mknod(Path(folder) / "node", stat.S_IFCHR | 0o600, os.makedev(stand_ins.MAJOR_NVIDIA, 255))
        except OSError:
            return "regular"
    return "mknod"


def _make_device(path: Path, major: int, minor: int, mode: int, how: DeviceFiles) -> None:
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


def _write(path: Path, content: bytes, mode: int) -> None:
    """A new file under this name; programs that have the old one open keep it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _replace_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def _link(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
