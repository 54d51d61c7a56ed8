"""Devices that a device plugin has given to pods, as kubelet tells of them, and what follows for ours.

A device plugin and this driver may serve the same node, and neither knows what the other gave out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nvdra.gpu.extents import GpuExtent, extent
from nvdra.gpu.inventory import Inventory

TAINT = "gpu.nvidia.com/device-plugin"

# A replica of a shared device has a number behind its id.
_REPLICA = re.compile(r"(?P<id>.+)::[0-9]+", re.ASCII)
# With ids by index: a GPU's, or a GPU's and that of a MIG device on it.
_INDEX = re.compile(r"(?P<gpu>[0-9]{1,4})(:[0-9]{1,4})?", re.ASCII)
# Resources whose ids may be indexes. Other plugins of the vendor name IOMMU groups, which look the same.
_INDEXED = re.compile(r"nvidia\.com/(gpu|mig-)[^/]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One device that a container of a pod has from a device plugin.

    device_id   UUID of a GPU or MIG device, or an index; for a replica with "::<number>" behind it
    """

    namespace: str
    pod: str
    container: str
    resource: str
    device_id: str

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod} (container {self.container}, {self.resource} {self.device_id})"


def given_out(assignments: Iterable[Assignment], inventory: Inventory) -> dict[str, Assignment]:
    """Names of this node's devices that overlap one of a device plugin, each with the first assignment that says so.

    Ids of other hardware, and of GPUs that this node does not know, count for nothing.
    """
    found: dict[str, Assignment] = {}
    for assignment in assignments:
        taken = _extent(assignment, inventory)
        if taken is None:
            continue
        for name in inventory.devices:
            if (own := extent(name, inventory)) is not None and own.overlaps(taken):
                found.setdefault(name, assignment)
    return found


def refusal(device: str, assignment: Assignment) -> str:
    """Why a claim does not get the device."""
    return (
        f"requested device {device} is in use by {assignment}, which has it from a device plugin: "
        "delete that pod, or keep the device plugin off this node's GPUs"
    )


def taints(given: Mapping[str, Assignment]) -> dict[str, tuple[Mapping[str, str], ...]]:
    """The taint of each device, by name."""
    return dict.fromkeys(given, ({"key": TAINT, "effect": "NoSchedule"},))


def _extent(assignment: Assignment, inventory: Inventory) -> GpuExtent | None:
    replica = _REPLICA.fullmatch(assignment.device_id)
    device_id = replica["id"] if replica else assignment.device_id
    for address, gpu in inventory.known():
        if gpu.uuid == device_id:
            return GpuExtent(address)
    for address, uuid, slices in _partitions(inventory):
        if uuid == device_id:
            return GpuExtent(address, slices)
    if (index := _INDEX.fullmatch(device_id)) and _INDEXED.fullmatch(assignment.resource):
        # The index of a MIG device depends on the order in which the plugin found them: its whole GPU is taken.
        return next((GpuExtent(a) for a, gpu in inventory.gpus.items() if gpu.index == int(index["gpu"])), None)
    return None


def _partitions(inventory: Inventory) -> Iterator[tuple[str, str, range]]:
    """PCI address, UUID and memory slices of every MIG device there is."""
    for address, partitions in inventory.partitions.items():
        for instance in partitions.instances:
            for compute in instance.compute:
                yield address, compute.uuid, range(instance.start, instance.start + instance.size)
