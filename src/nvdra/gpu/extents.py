"""Where devices lie on GPUs, so that overlaps are found under whatever names devices have.

A GPU is its PCI address, also while NVML does not show it; UUID and minor number change or may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nvdra.checkpoint import Entry, Unsupported
from nvdra.claims import allocation, answers
from nvdra.claims import exclusive_names as exclusive_names_of
from nvdra.claims import names as names_of
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.inventory import Inventory, Partitions
from nvdra.gpu.mig import MigDevice, MigSpec
from nvdra.gpu.names import GpuName, MigName, VfioName, parse_name
from nvdra.gpu.vfio import VfioGpu, vfio_address

DRIVER = "gpu.nvidia.com"


@dataclass(frozen=True, slots=True)
class GpuExtent:
    """This GPU, these memory slices; `slices` is empty for the whole GPU.

    gpu   PCI address; the UUID of a GPU that this node does not know
    """

    gpu: str
    slices: range = range(0)

    def overlaps(self, other: GpuExtent) -> bool:
        if self.gpu != other.gpu:
            return False
        if not (self.slices and other.slices):
            return True
        return self.slices[0] <= other.slices[-1] and other.slices[0] <= self.slices[-1]


def names(entry: Entry) -> frozenset[str]:
    """Names of this driver's devices that an entry of any state speaks of."""
    return names_of(entry, DRIVER)


def exclusive_names(entry: Entry) -> frozenset[str]:
    """The same without devices that the claim has only with admin access."""
    return exclusive_names_of(entry, DRIVER)


def extent(name: str, inventory: Inventory) -> GpuExtent | None:
    """Where a device of this name lies on this node; None if that is not known now."""
    match inventory.devices.get(name) or parse_name(name):
        case Gpu(pci_bus_id=address) | VfioGpu(pci_bus_id=address):
            return GpuExtent(address)
        case MigSpec(parent=gpu, start=start, size=size) | MigDevice(parent=gpu, start=start, size=size):
            return GpuExtent(gpu.pci_bus_id, range(start, start + size))
        case MigName() as partition if address := inventory.address_by_minor(partition.parent_minor):
            return _placement(partition, address, inventory)
        case GpuName(minor=minor) if address := inventory.address_by_minor(minor):
            return GpuExtent(address)
        case VfioName(position=position) if position < len(inventory.positions):
            return GpuExtent(inventory.positions[position])
    return None


def partitions(entry: Entry, inventory: Inventory) -> Iterator[tuple[MigName, str]]:
    """The partitions that an entry speaks of, in the order of their names, and each one's GPU as in `GpuExtent`.

    The GPU is the one the entry recorded, where it recorded one: minor numbers change with a driver reload.
    "" if the GPU is not known.
    """
    recorded = {device.device: device.mig.parent_uuid for device in answers(entry) if device.mig is not None}
    for text in sorted(names(entry)):
        if isinstance(name := parse_name(text), MigName):
            if uuid_of_gpu := recorded.get(text):
                yield name, inventory.address_of(uuid_of_gpu)
            else:
                yield name, inventory.address_by_minor(name.parent_minor)


def conflicts(entry: Entry, wanted: GpuExtent, inventory: Inventory) -> bool:
    """Whether a completed entry keeps others from this extent."""
    if isinstance(entry.prepared, Unsupported):
        return any(wanted.overlaps(held) for held in unsupported_extents(entry, entry.prepared, inventory))
    uuid_of_gpu = inventory.uuid_of(wanted.gpu) or wanted.gpu
    for group in entry.prepared:
        for device in group.devices:
            # The entry's UUID finds the GPU: minor numbers change with a driver reload.
            known = device.uuid if device.mig is None else device.mig.parent_uuid
            if uuid_of_gpu != known and wanted.gpu != vfio_address(device.info, inventory.positions):
                continue
            name = parse_name(device.device)
            held = GpuExtent(wanted.gpu)
            if device.mig is not None and isinstance(name, MigName):
                held = _placement(name, wanted.gpu, inventory)
            if wanted.overlaps(held) and any(
                r.device == device.device for r in allocation(entry.status, DRIVER).exclusive
            ):
                return True
    return False


def half_prepared_extents(entry: Entry, inventory: Inventory) -> Iterator[GpuExtent]:
    """Where a claim that is half prepared, or half torn down, may have changed a GPU."""
    for name, gpu in partitions(entry, inventory):
        if gpu:
            yield _placement(name, gpu, inventory)
    for text in exclusive_names(entry):
        if isinstance(parse_name(text), GpuName | VfioName) and (known := extent(text, inventory)) is not None:
            yield known


def _placement(name: MigName, address: str, inventory: Inventory) -> GpuExtent:
    gpu = inventory.gpus.get(address)
    size = None
    if gpu is not None and gpu.partitioning is not None:
        size = gpu.partitioning.size(name.profile_id, name.start)
    if size is None:
        live = inventory.partitions.get(address, Partitions()).instances
        size = next((i.size for i in live if (i.profile_id, i.start) == (name.profile_id, name.start)), None)
    # Where the size is not known any more, the partition has at least its first slice.
    return GpuExtent(address, range(name.start, name.start + (size or 1)))


def unsupported_extents(entry: Entry, unsupported: Unsupported, inventory: Inventory) -> Iterator[GpuExtent]:
    """GPUs of this node that an unsupported entry holds, as MIG devices or passed through.

    A GPU that was passed through for a claim with admin access is away from its driver all the same.
    """
    exclusive = exclusive_names(entry)
    for name in unsupported.device_names:
        match parse_name(name):
            case MigName(parent_minor=minor) if name in exclusive and (address := inventory.address_by_minor(minor)):
                yield GpuExtent(address)
    for device in unsupported.devices:
        if address := vfio_address(device.info, inventory.positions):
            yield GpuExtent(address)


def held_extents(entry: Entry, inventory: Inventory) -> Iterator[GpuExtent]:
    """GPUs that an entry of any state has, in whole or in part, unless with admin access only."""
    if isinstance(entry.prepared, Unsupported):
        yield from unsupported_extents(entry, entry.prepared, inventory)
        return
    exclusive, told = exclusive_names(entry), answers(entry)
    for device in told:
        if address := vfio_address(device.info, inventory.positions):
            yield GpuExtent(address)
        elif device.device in exclusive:
            known = device.uuid if device.mig is None else device.mig.parent_uuid
            yield GpuExtent(inventory.address_of(known))
    for name in exclusive - {device.device for device in told}:
        if (found := extent(name, inventory)) is not None:
            yield found
