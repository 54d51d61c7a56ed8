"""Stand-ins for the parts of `/proc` and `/sys` that a driver and its GPUs show."""

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from nvdra_mock_nvml.portraits import Gpu, Portrait

MAJOR_NVIDIA = 195
MAJOR_DRM = 226
MAJOR_CAPS = 234
MAJOR_CAPS_IMEX = 235
MAJOR_UVM = 510
FABRIC_MINOR = 2047  # of fabric-imex-mgmt among the capability nodes; assumed, above all of MIG's

_CHARACTER = {1: "mem", 5: "/dev/tty", 10: "misc", MAJOR_DRM: "drm"}
_GPU_INSTANCES, _COMPUTE_INSTANCES = 15, 8
_BLOCK = {7: "loop", 8: "sd", 259: "blkext"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def lay_proc(proc: Path, portrait: Portrait, version: str) -> None:
    """`/proc/devices` and `/proc/driver/nvidia` without any GPU."""
    write(proc / "devices", _devices())
    lay_version(proc, version)
    driver = proc / "driver/nvidia"
    write(driver / "params", "ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\n")
    capabilities = [("mig/config", 1, 0o400), ("mig/monitor", 2, 0o444)]
    if portrait.has_fabric:
        capabilities.append(("fabric-imex-mgmt", FABRIC_MINOR, 0o400))
    for name, minor, mode in capabilities:
        write(
            driver / "capabilities" / name,
            f"DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n",
        )
    write(proc / "driver/nvidia-caps/mig-minors", _mig_minors(portrait))


def lay_version(proc: Path, version: str) -> None:
    """The loaded kernel module's version, as procfs tells it."""
    module = f"NVIDIA UNIX Open Kernel Module for {platform.machine()}  {version}  Release Build"
    compiler = "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)"
    write(proc / "driver/nvidia/version", f"NVRM version: {module}  (mock)\n{compiler}\n")


def add_proc(proc: Path, gpu: Gpu, version: str) -> None:
    """What procfs shows of one GPU, with MIG off."""
    lines = {
        "Model": f"\t\t {gpu.name}",
        "IRQ": f"  \t\t {64 + gpu.minor}",
        "GPU UUID": f"\t {gpu.uuid}",
        "Video BIOS": f"\t {gpu.vbios or '??.??.??.??.??'}",
        "Bus Type": "\t PCIe",
        "DMA Size": "\t 52 bits",
        "DMA Mask": "\t 0xfffffffffffff",
        "Bus Location": f"\t {gpu.pci_bus_id}",
        "Device Minor": f"\t {gpu.minor}",
        "GPU Firmware": f"\t {version}",
        "GPU Excluded": "\t No",
    }
    text = "".join(f"{name}: {value}\n" for name, value in lines.items())
    write(proc / f"driver/nvidia/gpus/{gpu.pci_bus_id}/information", text)
    (proc / f"driver/nvidia/capabilities/gpu{gpu.minor}/mig").mkdir(parents=True, exist_ok=True)


def lay_sys(sys: Path, portrait: Portrait, version: str) -> None:
    """An empty PCI bus, the driver on it, the loaded module, and the sockets by the first CPU of each range."""
    for folder in ("bus/pci/devices", "bus/pci/drivers/nvidia", "devices"):
        (sys / folder).mkdir(parents=True, exist_ok=True)
    lay_module(sys, version)
    for each in portrait.sockets:
        for span in each.cpus.split(","):
            topology = sys / f"devices/system/cpu/cpu{span.partition('-')[0]}/topology"
            write(topology / "physical_package_id", f"{each.number}\n")
            write(topology / "package_cpus_list", f"{each.cpus}\n")


def lay_module(sys: Path, version: str) -> None:
    write(sys / "module/nvidia/version", f"{version}\n")
    write(sys / "module/nvidia/initstate", "live\n")


def add_sys(sys: Path, gpu: Gpu, drm_nodes: Mapping[str, tuple[str, int, int]]) -> None:
    """A GPU's PCI function, bound to the driver, below the bridges of its path.

    drm_nodes   its graphics nodes by kind: name, minor, mode
    """
    bus = sys / "bus/pci"
    device = sys / "devices" / Path(*gpu.pcie_path) / gpu.pci_bus_id
    device.mkdir(parents=True, exist_ok=True)
    vendor, product = gpu.pci_device_id & 0xFFFF, gpu.pci_device_id >> 16
    sub_vendor, sub_product = gpu.pci_subsystem_id & 0xFFFF, gpu.pci_subsystem_id >> 16
    attributes = {
        "vendor": f"0x{vendor:04x}",
        "device": f"0x{product:04x}",
        "subsystem_vendor": f"0x{sub_vendor:04x}",
        "subsystem_device": f"0x{sub_product:04x}",
        "class": f"0x{gpu.pci_class:06x}",
        "revision": "0xa1",
        "numa_node": str(gpu.numa_node),
        "local_cpulist": gpu.near_cpus,
        "enable": "1",
        "modalias": f"pci:v{vendor:08X}d{product:08X}sv{sub_vendor:08X}sd{sub_product:08X}"
        f"bc{gpu.pci_class >> 16:02X}sc{gpu.pci_class >> 8 & 0xFF:02X}i{gpu.pci_class & 0xFF:02X}",
        "resource": _resource(gpu),
    }
    for name, value in attributes.items():
        write(device / name, value.rstrip("\n") + "\n")
    _link(device / "driver", bus / "drivers/nvidia")
    _link(device / "subsystem", bus)
    _link(bus / "devices" / gpu.pci_bus_id, device)
    _link(bus / "drivers/nvidia" / gpu.pci_bus_id, device)
    for name, minor, _ in drm_nodes.values():
        write(device / "drm" / name / "dev", f"{MAJOR_DRM}:{minor}\n")
    for depth, port in enumerate(gpu.pcie_path[1:], start=2):
        bridge = sys / "devices" / Path(*gpu.pcie_path[:depth])
        for name, value in (
            ("vendor", "0x1000"),
            ("device", "0xc030"),
            ("class", "0x060400"),
            ("numa_node", str(gpu.numa_node)),
        ):
            write(bridge / name, f"{value}\n")
        _link(bus / "devices" / port, bridge)


def remove_sys(sys: Path, gpu: Gpu) -> None:
    """The GPU's function gone from the bus, its bridges left."""
    link = sys / "bus/pci/devices" / gpu.pci_bus_id
    (sys / "bus/pci/drivers/nvidia" / gpu.pci_bus_id).unlink(missing_ok=True)
    if link.is_symlink():
        device = link.resolve()
        link.unlink()
        shutil.rmtree(device)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))


def _devices() -> str:
    nvidia = [(MAJOR_NVIDIA, name) for name in ("nvidia", "nvidia-modeset", "nvidiactl")]
    others = [(MAJOR_CAPS, "nvidia-caps"), (MAJOR_CAPS_IMEX, "nvidia-caps-imex-channels"), (MAJOR_UVM, "nvidia-uvm")]
    character = sorted([*_CHARACTER.items(), *nvidia, *others])
    lines = ["Character devices:", *(f"{major:3} {name}" for major, name in character), ""]
    lines += ["Block devices:", *(f"{major:3} {name}" for major, name in _BLOCK.items())]
    return "\n".join(lines) + "\n"


def capability_minor(portrait: Portrait, minor: int, gi: int, ci: int | None = None) -> int:
    """The minor of an instance's capability node: a fixed function of the portrait, the GPU and the ids."""
    before = sum(gpu.minor < minor for gpu in portrait.gpus)
    per_instance = 1 + _COMPUTE_INSTANCES
    return 3 + (before * _GPU_INSTANCES + gi) * per_instance + (0 if ci is None else 1 + ci)


def _mig_minors(portrait: Portrait) -> str:
    """The minors of all capability nodes there can be: 15 GPU instances of 8 compute instances on each GPU."""
    lines = ["config 1", "monitor 2"]
    for gpu in sorted(gpu.minor for gpu in portrait.gpus):
        for gi in range(_GPU_INSTANCES):
            lines.append(f"gpu{gpu}/gi{gi}/access {capability_minor(portrait, gpu, gi)}")
            for ci in range(_COMPUTE_INSTANCES):
                lines.append(f"gpu{gpu}/gi{gi}/ci{ci}/access {capability_minor(portrait, gpu, gi, ci)}")
    return "\n".join(lines) + "\n"


def _resource(gpu: Gpu) -> str:
    """Thirteen regions; a 64-bit one takes two lines, the second empty. Each starts at a multiple of its size."""
    lines = []
    at = 0x200000000000 + gpu.minor * 0x10000000000
    for bar in sorted(gpu.bars, key=lambda bar: bar.size_bytes, reverse=True):
        lines.append((gpu.bars.index(bar) * 2, at, at + bar.size_bytes - 1, bar.flags))
        at += bar.size_bytes
    regions = {line: (start, end, flags) for line, start, end, flags in lines}
    return "".join("0x{:016x} 0x{:016x} 0x{:016x}\n".format(*regions.get(line, (0, 0, 0))) for line in range(13))
