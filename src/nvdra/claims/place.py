"""Where devices lie, so that what overlaps is found under whatever names it has."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nvdra.checkpoint import Entry, Foreign
from nvdra.claims.entries import allocation, answers, exclusive_names, names
from nvdra.devices import Gpu, GpuName, Inventory, MigDevice, MigName, MigSpec, Partitions, VfioName, parse_name


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device lies: a GPU, and which of its memory slices; `slices` is empty for the whole of it."""

    gpu: str  # UUID
    slices: range = range(0)

    def meets(self, other: Place) -> bool:
        if self.gpu != other.gpu:
            return False
        if not (self.slices and other.slices):
            return True
        return self.slices[0] <= other.slices[-1] and other.slices[0] <= self.slices[-1]


def gpu_of(uuid: str, inventory: Inventory) -> Gpu | None:
    """The GPU of this UUID, whatever its minor number is now."""
    return next((gpu for gpu in inventory.gpus.values() if gpu.uuid == uuid), None)


def place(name: str, inventory: Inventory) -> Place | None:
    """Where a device of this name lies on this node; None if that is not known now."""
    match inventory.devices.get(name) or parse_name(name):
        case Gpu(uuid=uuid):
            return Place(uuid)
        case MigSpec(parent=gpu, start=start, size=size) | MigDevice(parent=gpu, start=start, size=size):
            return Place(gpu.uuid, range(start, start + size))
        case MigName() as partition if (known := inventory.gpus.get(partition.parent_minor)) is not None:
            return _partition(partition, known.uuid, inventory)
        case GpuName(minor=minor) if minor in inventory.gpus:
            return Place(inventory.gpus[minor].uuid)
    return None


def partitions(entry: Entry, inventory: Inventory) -> Iterator[tuple[MigName, str]]:
    """The partitions that an entry speaks of, in the order of their names, and the UUID of each one's GPU.

    The UUID is the record's word where it has one: minor numbers change with a driver reload. "" if nobody knows it.
    """
    recorded = {device.device: device.mig.parent_uuid for device in answers(entry) if device.mig is not None}
    for text in sorted(names(entry)):
        if isinstance(name := parse_name(text), MigName):
            gpu = inventory.gpus.get(name.parent_minor)
            yield name, recorded.get(text) or ("" if gpu is None else gpu.uuid)


def holds(entry: Entry, wanted: Place, inventory: Inventory) -> bool:
    """Whether a completed claim keeps others from this place."""
    if isinstance(entry.prepared, Foreign):
        return any(wanted.meets(held) for held in foreign_places(entry, entry.prepared, inventory))
    for group in entry.prepared:
        for device in group.devices:
            # The record's word for the GPU: minor numbers change with a driver reload.
            if wanted.gpu != (device.uuid if device.mig is None else device.mig.parent_uuid):
                continue
            name = parse_name(device.device)
            held = Place(wanted.gpu)
            if device.mig is not None and isinstance(name, MigName):
                held = _partition(name, wanted.gpu, inventory)
            if wanted.meets(held) and any(r.device == device.device for r in allocation(entry.status).exclusive):
                return True
    return False


def places_begun(entry: Entry, inventory: Inventory) -> Iterator[Place]:
    """Where there may be something of a claim that was begun and not completed, or is being undone."""
    for name, gpu_uuid in partitions(entry, inventory):
        if gpu_uuid:
            yield _partition(name, gpu_uuid, inventory)
    for text in exclusive_names(entry):
        if isinstance(parse_name(text), GpuName) and (known := place(text, inventory)) is not None:
            yield known


def _partition(name: MigName, gpu_uuid: str, inventory: Inventory) -> Place:
    gpu = gpu_of(gpu_uuid, inventory)
    size = None
    if gpu is not None and gpu.partitioning is not None:
        size = gpu.partitioning.size(name.profile_id, name.start)
    if size is None:
        live = inventory.partitions.get(gpu_uuid, Partitions()).instances
        size = next((i.size for i in live if (i.profile_id, i.start) == (name.profile_id, name.start)), None)
    # A partition whose size nobody knows any more: at least where it begins.
    return Place(gpu_uuid, range(name.start, name.start + (size or 1)))


def foreign_places(entry: Entry, foreign: Foreign, inventory: Inventory) -> Iterator[Place]:
    """Full GPUs of this node that a foreign entry holds, as MIG devices or passed through.

    A GPU that was passed through for an administrator is away from its driver all the same.
    """
    exclusive = exclusive_names(entry)
    for name in foreign.device_names:
        match parse_name(name):
            case MigName(parent_minor=minor) if minor in inventory.gpus and name in exclusive:
                yield Place(inventory.gpus[minor].uuid)
            case VfioName():
                yield from (Place(gpu.uuid) for gpu in _passed_through(foreign, inventory.gpus.values()))


def _passed_through(foreign: Foreign, gpus: Iterable[Gpu]) -> Iterator[Gpu]:
    # A passed-through GPU's UUID is made from its PCI address: that finds it again under its full-GPU name.
    uuids = {device.uuid for device in foreign.devices}
    return (gpu for gpu in gpus if vfio_uuid(gpu.pci_bus_id) in uuids)


def vfio_uuid(pci_bus_id: str) -> str:
    """The UUID a passed-through GPU is published with: version 5, DNS namespace, name = PCI address."""
    digest = hashlib.sha1(uuid.NAMESPACE_DNS.bytes + pci_bus_id.encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))
