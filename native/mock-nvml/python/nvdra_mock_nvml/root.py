"""Driver roots: laid out once, changed while programs use them."""

import json
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nvdra_mock_nvml import calls, elf, partitions, stand_ins, tree
from nvdra_mock_nvml.partitions import MigDevice
from nvdra_mock_nvml.portraits import Gpu, Portrait, load
from nvdra_mock_nvml.tree import DeviceFiles, LayoutError

_FAULTS = "etc/nvdra-mock-faults.json"
_CALLS = "nvdra-mock-calls"
_FABRIC = "etc/nvdra-mock-fabric.json"
_SMI_RUNS = "var/log/nvdra-mock-smi.log"
_FAULTS_SEEN_S = 0.01  # the library looks at the fault file every 5 ms


@dataclass(frozen=True, slots=True)
class Root:
    """A driver root on disk. Its methods change it as an administrator, or bad luck, would."""

    root: Path
    procfs: Path
    sysfs: Path
    library: Path  # libnvidia-ml.so.1
    portrait: Portrait
    driver_version: str
    device_files: DeviceFiles
    drm: bool = False
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
        """The GPU plugged in: its device node, its PCI function, its entries in procfs."""
        gpu = self.gpu(minor)
        self.show_gpu(minor)
        stand_ins.add_proc(self.procfs, gpu, self.driver_version)
        if not self.portrait.is_recorded:
            stand_ins.add_sys(self.sysfs, gpu, tree.drm_nodes(gpu) if self.drm else {})

    def remove_gpu(self, minor: int) -> None:
        """The GPU gone from the node altogether; `hide_gpu` takes away its device node only."""
        gpu = self.gpu(minor)
        if partitions.gpu_instances(self.root, minor):
            self.stop_processes(minor)
            self.reset_gpu(minor)
        self.hide_gpu(minor)
        stand_ins.remove_sys(self.sysfs, gpu)
        shutil.rmtree(self.procfs / f"driver/nvidia/gpus/{gpu.pci_bus_id}", ignore_errors=True)
        shutil.rmtree(self.procfs / f"driver/nvidia/capabilities/gpu{minor}", ignore_errors=True)

    def show_gpu(self, minor: int) -> None:
        """The GPU's device node made: the library sees it from its next first init on."""
        tree.lay_gpu(self.root, self.gpu(minor), self.device_files, drm=self.drm)

    def hide_gpu(self, minor: int) -> None:
        """The GPU's device node gone: the library does not see it from its next first init on."""
        self.device_node(minor).unlink(missing_ok=True)

    def set_mig_mode(self, minor: int, on: bool) -> None:
        """MIG mode as an administrator changes it, with the reset that a GPU before Hopper needs.

        Raises MigError: the GPU has partitions, or a program uses it.
        """
        self._smi(minor, "-mig", str(int(on)))
        if partitions.mode(self.root, minor)[0] != on:
            self.reset_gpu(minor)

    def reset_gpu(self, minor: int) -> None:
        """A pending MIG mode counts, partitions are gone. Raises MigError: a program uses the GPU."""
        self._smi(minor, "--gpu-reset")

    def mig_mode(self, minor: int) -> tuple[bool, bool]:
        """MIG mode of the GPU, current and pending."""
        return partitions.mode(self.root, minor)

    def create_mig(self, minor: int, profile: str | int, start: int | None = None) -> MigDevice:
        """A GPU instance and the compute instance that takes all of it, as an administrator makes them.

        profile   its text (`1g.10gb`) or its id
        start     the memory slice it begins at; else the lowest that is free
        Raises MigError: no such profile or placement, no room, MIG mode off.
        """
        wanted = str(profile) if start is None else f"{profile}:{start}"
        before = set(self.mig_devices(minor))
        self._smi(minor, "-cgi", wanted, "-C", mig=True)
        return next(device for device in self.mig_devices(minor) if device not in before)

    def destroy_mig(self, device: MigDevice) -> None:
        """The compute instance gone, and its GPU instance with the last one. Raises MigError: a program is in it."""
        gi = ("-gi", str(device.gi))
        self._smi(device.minor, "-dci", *gi, "-ci", str(device.ci), mig=True)
        if not any(other.gi == device.gi for other in self.mig_devices(device.minor)):
            self._smi(device.minor, "-dgi", *gi, mig=True)

    def mig_devices(self, minor: int | None = None) -> list[MigDevice]:
        """The MIG devices of a GPU, or of all, by ids."""
        all_devices = partitions.devices(self.root, self.portrait)
        return [device for device in all_devices if minor in (None, device.minor)]

    def gpu_instances(self, minor: int) -> dict[int, tuple[int, int]]:
        """The GPU instances, those without a compute instance too: start and size by id."""
        return partitions.gpu_instances(self.root, minor)

    def capability_minor(self, minor: int, gi: int, ci: int | None = None) -> int:
        """The minor of the capability node of a GPU instance, or of a compute instance in it."""
        return stand_ins.capability_minor(self.portrait, self.gpu(minor).minor, gi, ci)

    def capability_node(self, minor: int, gi: int, ci: int | None = None) -> Path:
        return self.root / f"dev/nvidia-caps/nvidia-cap{self.capability_minor(minor, gi, ci)}"

    def compute_mode(self, minor: int) -> int:
        """NVML's number of the GPU's compute mode: 0 default, 2 prohibited, 3 exclusive process."""
        return partitions.settings(self.root, self.gpu(minor).minor)["compute_mode"]

    def time_slice(self, minor: int) -> int:
        """The GPU's time slice: 0 default, 1 short, 2 medium, 3 long."""
        return partitions.settings(self.root, self.gpu(minor).minor)["time_slice"]

    def forget_settings(self) -> None:
        """Every GPU has the default compute mode and time slice, as on a driver that was just loaded."""
        partitions.forget_settings(self.root)

    def smi_runs(self) -> list[str]:
        """The arguments of each nvidia-smi run that was to list or change settings, refused runs and hung ones too."""
        log = self.root / _SMI_RUNS
        return log.read_text().splitlines() if log.exists() else []

    def set_processes(self, processes: Iterable[Mapping[str, Any]]) -> None:
        """These programs, and no others, use the GPUs.

        Each has `minor` and `pid`, and if wanted `gi`, `ci`, `memory_bytes`, `hidden`.
        A hidden one is in use and in no list, as a program of another PID namespace.
        """
        partitions.set_processes(self.root, processes)

    def stop_processes(self, minor: int | None = None) -> None:
        """No program uses this GPU any more; without a minor, any."""
        left = [process for process in partitions.processes(self.root) if minor not in (None, process["minor"])]
        partitions.set_processes(self.root, left)

    def fire_event(
        self, minor: int, kind: str | int, data: int = 0, gi: int | None = None, ci: int | None = None
    ) -> None:
        """An event on a GPU, or on an instance of it: whoever waits for it wakes up.

        kind   `xid` (data: its number), `single-bit-ecc`, `double-bit-ecc`, or NVML's bit
        """
        partitions.fire(self.root, self.gpu(minor).minor, kind, data, gi, ci)

    def set_recovery_action(self, minor: int, action: int) -> None:
        """What NVML says that a GPU needs in order to recover: 0 nothing, 1 a GPU reset, 2 a reboot, 3 to drain P2P,
        4 to drain and reset. A reset of the GPU brings it back to 0."""
        partitions.set_recovery_action(self.root, self.gpu(minor).minor, action)

    def delay_realistically(self) -> None:
        """Changes of partitions take about as long as on hardware, and there are no other faults."""
        self.set_faults(partitions.realistic_delays())

    def _smi(self, minor: int, *arguments: str, mig: bool = False) -> str:
        return partitions.smi(self.nvidia_smi, *(["mig"] if mig else []), "-i", self.gpu(minor).uuid, *arguments)

    def replace_driver(self, version: str) -> "Root":
        """Another driver version in the same place: new library files and versions, and settings are forgotten.

        A program that has the old library loaded gets LIB_RM_VERSION_MISMATCH from its next first init.
        """
        _version(version)
        tree.remove_driver(self.root, self.library.parent, self.portrait, self.driver_version)
        tree.lay_driver(self.root, self.library.parent, self.portrait, version, self.without)
        stand_ins.lay_version(self.procfs, version)
        stand_ins.lay_module(self.sysfs, version)
        self.forget_settings()
        return replace(self, driver_version=version)

    def set_faults(self, faults: Iterable[Mapping[str, Any]]) -> None:
        """These faults, and no others, for every call that starts after this returns, in all programs of this root.

        A fault says which calls (`function`, `minor`), which of them (`after`, `times`) and what happens (`code`,
        `lost`, `delay_ms`, `hang`); README.md explains each. Calls are counted from now on, see `calls`.
        """
        file = self.root / _FAULTS
        new = file.with_name(file.name + ".new")
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps({"faults": [dict(fault) for fault in faults], "calls": _CALLS}, indent=1) + "\n")
        new.replace(file)
        time.sleep(_FAULTS_SEEN_S)

    def set_fabric(self, *overrides: Mapping[str, Any]) -> None:
        """What the GPUs say of their NVLink fabric where it differs from the portrait, from the next call on.

        Each has what differs of `cluster_uuid`, `clique_id`, `status` and `state`, and `minor` if it is of one GPU.
        Without any, all is as in the portrait.
        """
        file = self.root / _FABRIC
        new = file.with_name(file.name + ".new")
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps([dict(each) for each in overrides]) + "\n")
        new.replace(file)

    def clear_faults(self) -> None:
        """No faults for every call that starts after this returns; counting goes on."""
        self.set_faults([])

    def count_calls(self) -> None:
        """Every call that starts after this returns is counted."""
        self.set_faults([])

    def calls(self) -> dict[str, int]:
        """How often each function was called since counting began, in all programs of this root together."""
        return calls.read_calls(self.root / _CALLS)


def lay_out(
    root: Path,
    portrait: str,
    *,
    driver_version: str | None = None,
    gpus: Iterable[int] | None = None,
    device_files: DeviceFiles = "auto",
    lib_dir: str = tree.DEFAULT_LIBRARY_FOLDER,
    stand_in_dir: Path | None = None,
    drm: bool = False,
    without: Iterable[str] = (),
) -> Root:
    """A driver root at `root`, with the mock library and the node that the portrait describes.

    driver_version   else the portrait's own
    gpus             minors of the GPUs that are there; else all
    device_files     `mknod`: character devices; `regular`: empty files; `none`; `auto`: mknod where it is permitted
    lib_dir          where the libraries go, below `root`
    stand_in_dir     where `proc` and `sys` go; else `root/stand-ins`
    drm              graphics nodes for each GPU, in `dev/dri` and in sysfs
    without          functions the library shall not have, as an older one
    Raises LayoutError (also for a root that is not empty), PortraitError, NotBuiltError.
    """
    node = load(portrait)
    root = root.absolute()
    version = _version(driver_version or node.driver_version)
    folder = _library_folder(root, lib_dir)
    if root.is_dir() and any(root.iterdir()):
        raise LayoutError(f"{root} is not empty: give a folder that does not exist yet, or empty it first")
    minors = _minors(node, gpus)
    stand_in = (stand_in_dir or root / "stand-ins").absolute()
    laid = Root(
        root=root,
        procfs=stand_in / "proc",
        sysfs=stand_in / "sys",
        library=folder / "libnvidia-ml.so.1",
        portrait=node,
        driver_version=version,
        device_files=tree.chosen(device_files),
        drm=drm,
        without=tuple(without),
    )
    try:
        tree.lay_driver(root, laid.library.parent, node, laid.driver_version, laid.without)
        tree.lay_programs(root, node)
        tree.lay_devices(root, laid.device_files)
        partitions.lay(root, None if node.is_recorded else laid.procfs)
        stand_ins.lay_proc(laid.procfs, node, laid.driver_version)
        stand_ins.lay_sys(laid.sysfs, node, laid.driver_version)
        for minor in minors:
            laid.add_gpu(minor)
    except OSError as error:
        raise LayoutError(f"{error.filename or root}: {error.strerror}; the root is incomplete") from error
    except elf.ElfError as error:
        raise LayoutError(str(error)) from error
    return laid


def _version(version: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)+", version):
        raise LayoutError(f"{version!r} is no driver version: it is numbers with dots between, such as 580.159.04")
    return version


def _library_folder(root: Path, lib_dir: str) -> Path:
    """Where the libraries go: a place from which the library finds the root above it."""
    if lib_dir.strip("/") not in tree.LIBRARY_FOLDERS:
        known = ", ".join(tree.LIBRARY_FOLDERS)
        raise LayoutError(f"libraries cannot go to {lib_dir!r}: drivers keep them in one of {known}")
    return root / lib_dir.strip("/")


def _minors(node: Portrait, gpus: Iterable[int] | None) -> list[int]:
    known = sorted(gpu.minor for gpu in node.gpus)
    wanted = known if gpus is None else sorted(set(gpus))
    if unknown := [minor for minor in wanted if minor not in known]:
        raise LayoutError(f"portrait {node.name} has no GPU with minor {unknown[0]}, only {known}")
    return wanted
