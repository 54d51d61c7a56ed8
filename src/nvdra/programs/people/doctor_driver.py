"""nvdra doctor, driver: checks the driver from its root to its GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nvdra.gpu import Gpu, Inventory, MigDevice, MigSpec, VfioGpu, bound
from nvdra.host import (
    DriverFileMissing,
    DriverVersionUnknown,
    PciBus,
    PciFunction,
    device_major,
    gpu_files,
    look_up,
    module_version,
)
from nvdra.programs.people.devices import refused
from nvdra.programs.people.finding import Finding
from nvdra.programs.people.local_node import LocalNode
from nvdra.programs.people.paper import counted

_LIBRARY = re.compile(r"libnvidia-ml\.so\.(\d+(?:\.\d+)+)", re.ASCII)
_WHERE = "say where the driver is: --container-driver-root here, nvidiaDriverRoot in the chart"


def look(here: LocalNode, bus: PciBus, inventory: Inventory) -> Iterator[Finding]:
    root = here.root
    if here.host.resolve("/", root.path) is None:
        yield Finding("driver root", "problem", f"{root.path} is no folder", _WHERE)
        return
    where = f"{root.path}, device nodes in {root.dev.rstrip('/')}/dev"
    yield Finding("driver root", "ok", f"{where} (a stand-in, nothing here is real)" if root.is_stand_in else where)
    library: str | None = None
    try:
        library = here.library()
        yield Finding("NVML library", "ok", library)
    except DriverFileMissing as error:
        yield Finding("NVML library", "problem", str(error), f"install the driver, or {_WHERE}")
    yield _module(here, library)
    if inventory.unread:
        next_step = "put right what is above" if library is None else "nvidia-smi should say the same; see dmesg"
        yield Finding("NVML", "problem", f"gives no answer: {inventory.unread}", next_step)
    else:
        driver = inventory.driver_version
        yield Finding("NVML", "ok", f"answers{f', driver {driver}' if driver else ''}")
    yield from _files(here, inventory)
    yield from _gpus(bus, inventory)


def _module(here: LocalNode, library: str | None) -> Finding:
    version = module_version(here.host, here.root)
    if version is None:
        return Finding(
            "kernel module",
            "problem",
            "nvidia is not loaded",
            "modprobe nvidia, then look at dmesg (Secure Boot refuses modules that are not signed)",
        )
    named = _LIBRARY.search(library or "")
    if named is not None and named[1] != version:
        return Finding(
            "kernel module",
            "problem",
            f"nvidia {version} is loaded, but the library is of {named[1]}: the driver was replaced while in use",
            "drain the node, then load the new module (or reboot)",
        )
    return Finding("kernel module", "ok", f"nvidia {version}, as the library" if named else f"nvidia {version}")


def _files(here: LocalNode, inventory: Inventory) -> Iterator[Finding]:
    """Device nodes and driver files that every container gets."""
    host, root = here.host, here.root
    try:
        files = look_up(host, root)
    except (DriverVersionUnknown, OSError) as error:
        yield Finding("driver files", "problem", str(error), "put right what is above")
        return
    absent = [path for path in files.missing if path.startswith("/dev/")]
    for gpu in inventory.gpus.values():
        absent += gpu_files(host, root, gpu.minor, gpu.pci_bus_id).missing
    if absent:
        text = f"missing below {root.dev}: {', '.join(absent)}"
        if "/dev/nvidia-uvm" in absent and device_major(host, root, "nvidia-uvm") is None:
            text += "; the kernel module nvidia_uvm is not loaded"
        yield Finding("device nodes", "problem", text, "nvidia-modprobe -u -c 0 (the plugin tries it with each claim)")
    else:
        nodes = [node.container_path for node in files.control_nodes]
        nodes += [f"/dev/nvidia{gpu.minor}" for gpu in inventory.gpus.values()]
        yield Finding("device nodes", "ok", f"{len(nodes)} are there, {', '.join(nodes[:2])} and so on")
    lost = [name for name in files.missing if not name.startswith("/dev/")]
    if lost:
        text = f"{', '.join(lost)} is not in {files.library_dir}"
        yield Finding("driver files", "problem", text, "install the whole driver, CUDA's libraries too")
    else:
        found = [counted(len(files.libraries), "library").replace("librarys", "libraries")]
        found.append(counted(len(files.binaries), "program"))
        yield Finding("driver files", "ok", f"{' and '.join(found)} of {files.version} for containers")


def _gpus(bus: PciBus, inventory: Inventory) -> Iterator[Finding]:
    seen = {gpu.pci_bus_id for gpu in inventory.gpus.values()}
    hidden = [function for function in bus.gpus if function.address not in seen]
    unread = refused(inventory)
    for left in inventory.not_published:
        next_step = "nvidia-smi -q shows its state" if left in unread else ""
        yield Finding("GPUs", "warning", f"{left.device} is not offered: {left.reason}", next_step)
    if len(hidden) > len(unread) and not inventory.unread:
        for function in hidden:
            yield _hidden(function)
    for address, reason in bus.left_out:
        yield Finding("GPUs", "warning", f"{address} on the PCI bus cannot be read: {reason}")
    yield from _gpus_published(inventory)
    if inventory.devices:
        return
    if not bus.gpus:
        yield Finding("GPUs", "problem", "no NVIDIA GPU is on the PCI bus", "lspci -d 10de: shows what the kernel sees")
    elif not inventory.unread:
        yield Finding("GPUs", "problem", f"none of {counted(len(bus.gpus), 'GPU')} on the PCI bus can be offered")


def _gpus_published(inventory: Inventory) -> Iterator[Finding]:
    devices = inventory.devices.values()
    for kind, word in ((Gpu, "GPU"), (MigDevice, "MIG device"), (VfioGpu, "VFIO device")):
        if names := [device.name for device in devices if isinstance(device, kind)]:
            yield Finding("GPUs", "ok", f"{counted(len(names), word)} offered: {', '.join(names)}")
    if inventory.pci_gpus and inventory.no_passthrough:
        next_step = "turn it on in the firmware and on the kernel's command line (intel_iommu=on), then reboot"
        yield Finding(
            "GPUs", "warning", f"no GPU is offered to virtual machines: {inventory.no_passthrough}", next_step
        )
    if count := sum(isinstance(device, MigSpec) for device in devices):
        yield Finding("GPUs", "ok", f"{counted(count, 'partition')} offered, to be made when a claim has one")


def _hidden(function: PciFunction) -> Finding:
    text = f"{function.address} is on the PCI bus, {bound(function.driver)}, and not seen by NVML"
    match function.driver:
        case "nvidia":
            next_step = "dmesg tells why (look for NVRM and Xid); a GPU that fell off the bus needs a reset or a reboot"
            return Finding("GPUs", "problem", text, next_step)
        case "vfio-pci":
            return Finding("GPUs", "warning", text, "nothing, if a virtual machine is to have it")
        case "":
            next_step = "dmesg tells why the driver did not take it; nvdra vfio give-back lets the kernel try again"
            return Finding("GPUs", "warning", text, next_step)
        case _:
            return Finding("GPUs", "problem", text, f"keep {function.driver} from loading, then reboot")
