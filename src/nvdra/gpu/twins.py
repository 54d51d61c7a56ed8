"""Twins: GPUs that are published both as full GPUs and for virtual machines, and what keeps both from being in use.

The scheduler counts: a full GPU and its twin consume the same counter. Where the API server keeps no counters, the one
of the two that a claim does not have is withdrawn, as the Go driver does; the checkpoint says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from nvdra.api.gates import Gates
from nvdra.checkpoint import Checkpoint
from nvdra.gpu.attributes import published
from nvdra.gpu.extents import held_extents, names
from nvdra.gpu.gpu import Gpu, PciFacts
from nvdra.gpu.inventory import Inventory, NotPublished, Partitions
from nvdra.gpu.mig import GpuDevice, address_of_device
from nvdra.gpu.names import VfioName, parse_name
from nvdra.gpu.shares import Shares, shared
from nvdra.gpu.vfio import Passthrough, VfioGpu, is_vfio_driver

_COUNTER = {"gpu": {"value": "1"}}

# Drivers that a GPU may have when it is passed through; "" for none. Another one is somebody's choice.
_NVIDIA = ("nvidia", "")


def with_twins(inventory: Inventory, pci: Mapping[str, PciFacts], passthrough: Passthrough) -> Inventory:
    """The inventory with the devices for virtual machines, and with the reasons for those that are not offered.

    pci   of NVIDIA's functions by address
    """
    order = tuple(sorted((address for address, facts in pci.items() if facts.is_gpu), key=_number))
    devices: dict[str, GpuDevice] = {
        name: device for name, device in inventory.devices.items() if not isinstance(device, VfioGpu)
    }
    left_out = []
    for position, address in enumerate(order if not passthrough.unavailable else ()):
        facts = passthrough.gpus.get(address)
        is_display = not inventory.unread and address not in inventory.gpus and address not in inventory.hidden
        if facts is None or is_display:
            continue
        if reason := facts.refused or _refused(address, pci[address].driver, inventory):
            left_out.append(NotPublished(str(VfioName(position)), reason))
        else:
            device = VfioGpu(position, address, pci[address], facts, passthrough.has_iommufd)
            devices[device.name] = device
    return replace(
        inventory,
        devices=MappingProxyType(devices),
        not_published=(*(left for left in inventory.not_published if not _is_twin(left)), *left_out),
        pci_gpus=order,
        no_passthrough=passthrough.unavailable,
    )


def counter_sets(inventory: Inventory) -> tuple[dict[str, Any], ...]:
    """One set for each GPU that has a twin, by PCI bus id; v1-shaped."""
    return tuple({"counters": _COUNTER, "name": _set_name(twin)} for twin in inventory.twins)


def counted(published: dict[str, Any], device: GpuDevice, inventory: Inventory) -> dict[str, Any]:
    """A published device that consumes the counter which it shares with its twin; as it is if it has none."""
    if not isinstance(device, Gpu | VfioGpu):
        return published
    address = address_of_device(device)
    twin = next((each for each in inventory.twins if each.pci_bus_id == address), None)
    if twin is None:
        return published
    consumes = [*published.get("consumesCounters", ()), {"counterSet": _set_name(twin), "counters": _COUNTER}]
    return dict(sorted({**published, "consumesCounters": consumes}.items()))


def offered(device: GpuDevice, inventory: Inventory, gates: Gates, shares: Shares) -> dict[str, Any]:
    """The device as it stands in a ResourceSlice, with shares and with the counter of twins."""
    made = published(device, gates, inventory.topology.get(device.name), inventory.fabric)
    return counted(made if isinstance(device, VfioGpu) else shared(made, shares), device, inventory)


def taken_twins(inventory: Inventory, checkpoint: Checkpoint) -> frozenset[str]:
    """Names of devices whose twin an entry of the checkpoint has: not to be published where nobody counts."""
    if not inventory.twins:
        return frozenset()
    taken: set[str] = set()
    for entry in checkpoint.entries.values():
        held, own = {extent.gpu for extent in held_extents(entry, inventory)}, names(entry)
        are_passed_through = {
            device.pci_bus_id for device in inventory.twins if device.name in own and device.pci_bus_id in held
        }
        for name, device in inventory.devices.items():
            address = address_of_device(device)
            if address in held and isinstance(device, VfioGpu) != (address in are_passed_through):
                taken.add(name)
    return frozenset(taken)


def _is_twin(left: NotPublished) -> bool:
    return isinstance(parse_name(left.device), VfioName)


def _refused(address: str, driver: str, inventory: Inventory) -> str:
    if inventory.partitions.get(address, Partitions()).instances:
        return "MIG devices are on its GPU: destroy them first (nvidia-smi mig -dci, -dgi)"
    if driver not in _NVIDIA and not is_vfio_driver(driver):
        # DROP-IN: the Go driver says so when the device is prepared.
        return f'GPU "{address}" is bound to "{driver}" driver, expected "vfio-pci" or "nvidia"'
    return ""


def _set_name(twin: VfioGpu) -> str:
    return f"{twin.name}-counter-set"


def _number(address: str) -> int:
    try:
        return int(address.replace(":", "").replace(".", ""), 16)
    except ValueError:
        return 0
