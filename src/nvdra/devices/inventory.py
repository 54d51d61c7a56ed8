"""The inventory: which devices this node offers, by name, and which it does not and why.

One odd GPU is left out with a reason; it never takes the others with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nvdra.devices.gpu import (
    Gpu,
    OddDeviceError,
    PciFacts,
    addressing_mode_text,
    architecture_text,
    brand_text,
    cuda_version,
    pci_bus_id,
    version,
)
from nvdra.devices.mig import Device
from nvdra.devices.names import GpuName, parse_name
from nvdra.devices.scan import GpuInstanceScan, GpuScan, LeftOut, NodeScan

# GPUs that drive a workstation's own screen: never offered, never mentioned.
_DISPLAYS = frozenset(("DGX Display", "NVIDIA DGX Display"))

_TEXT_LIMIT = 64  # bytes of a string attribute that the API server takes

_NO_DEVICES: Mapping[str, Device] = MappingProxyType({})
_NO_GPUS: Mapping[int, Gpu] = MappingProxyType({})
_NO_PARTITIONS: Mapping[str, Partitions] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NotOffered:
    """A GPU that is there and not offered. `device` is its name, or what else is known of it."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Partitions:
    """How a GPU is partitioned now, whoever did it.

    is_on      MIG mode
    instances  ascending by start, half made ones included
    """

    is_on: bool = False
    instances: tuple[GpuInstanceScan, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """Devices by name, in the order of their minor numbers.

    unread      why nothing could be read (driver absent, NVML refused); "" after a scan
    gpus        by minor: every GPU that could be read, offered itself or not
    partitions  by UUID of the MIG-capable GPU
    """

    devices: Mapping[str, Device] = field(default_factory=lambda: _NO_DEVICES)
    not_offered: tuple[NotOffered, ...] = ()
    unread: str = ""
    gpus: Mapping[int, Gpu] = field(default_factory=lambda: _NO_GPUS)
    partitions: Mapping[str, Partitions] = field(default_factory=lambda: _NO_PARTITIONS)

    def why_absent(self, device: str) -> str:
        """Why a device of this name is not offered; "" if nothing is known of it."""
        for left in self.not_offered:
            if left.device == device:
                return left.reason
        if self.unread:
            return self.unread
        # A GPU that refused before it told its minor number may be the one.
        unnamed = [f"{left.device}: {left.reason}" for left in self.not_offered if parse_name(left.device) is None]
        return f"GPUs that are not offered: {'; '.join(unnamed)}" if unnamed else ""


def from_scan(scan: NodeScan, pci: Mapping[str, PciFacts]) -> Inventory:
    """What this node offers according to one scan.

    pci   by bus id in sysfs' form; a GPU without facts has no NUMA node and no PCIe root
    """
    devices: dict[str, Gpu] = {}
    not_offered = [_refused(left) for left in scan.left_out]
    for seen in sorted(scan.gpus, key=lambda gpu: (gpu.minor, gpu.index)):
        if seen.name in _DISPLAYS:
            continue
        try:
            gpu = _gpu(seen, scan, pci)
            if gpu.name in devices:
                raise OddDeviceError(f"{devices[gpu.name].uuid} has minor number {gpu.minor} too")
        except OddDeviceError as odd:
            not_offered.append(NotOffered(str(GpuName(seen.minor)), str(odd)))
        else:
            devices[gpu.name] = gpu
    return Inventory(MappingProxyType(devices), tuple(not_offered))


def _gpu(seen: GpuScan, scan: NodeScan, pci: Mapping[str, PciFacts]) -> Gpu:
    if not seen.uuid or len(seen.uuid.encode()) > _TEXT_LIMIT:
        raise OddDeviceError(f'UUID "{seen.uuid}" cannot be published')
    if seen.mig_mode is not None and seen.mig_mode[0] == 1:
        raise OddDeviceError(
            "MIG mode is on: a full GPU is offered only with MIG off, and MIG devices are not offered yet"
        )
    address = pci_bus_id(seen.pci_bus_id)
    major, minor = seen.cuda_compute_capability
    return Gpu(
        minor=seen.minor,
        uuid=seen.uuid,
        product_name=_clip(seen.name),
        brand=brand_text(seen.brand),
        architecture=architecture_text(seen.architecture),
        cuda_compute_capability=version(f"{major}.{minor}"),
        driver_version=version(scan.driver_version),
        cuda_driver_version=cuda_version(scan.cuda_driver_version),
        pci_bus_id=address,
        memory_bytes=seen.memory_bytes,
        addressing_mode=None if seen.addressing_mode is None else addressing_mode_text(seen.addressing_mode),
        pci=pci.get(address, PciFacts()),
    )


def _refused(left: LeftOut) -> NotOffered:
    device = left.uuid or f"GPU with index {left.index}"
    if left.minor is not None:
        device = str(GpuName(left.minor))
    return NotOffered(device, f"{left.function}: {left.text} ({left.code})")


def _clip(text: str) -> str:
    return text.encode()[:_TEXT_LIMIT].decode(errors="ignore")
