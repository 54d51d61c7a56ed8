"""Who holds what: the record's entries read as allocations of this driver's devices.

Only reads: what to do about a holder is decided in `plan`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from nvdra.api.claim import ClaimRef, OpaqueConfig, Result, decode_status
from nvdra.checkpoint import Entry, Foreign, PreparedDevice, Record
from nvdra.claims.outcome import Concrete
from nvdra.devices import (
    Gpu,
    GpuName,
    Inventory,
    MigDevice,
    MigName,
    MigSpec,
    Partitions,
    VfioName,
    overlapping,
    parse_name,
)

DRIVER = "gpu.nvidia.com"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a claim's status gives it of this driver.

    Two claims' allocations are the same if these are equal; timestamps, reservations and other drivers do not count.
    """

    results: tuple[Result, ...]
    configs: tuple[OpaqueConfig, ...]

    @property
    def exclusive(self) -> Iterator[Result]:
        """Results that keep others away: all but those for administrators."""
        return (result for result in self.results if not result.admin_access)


# More claims than a node has pods for; no more, because every claim that comes and goes leaves a status here.
@lru_cache(maxsize=256)
def allocation(status: bytes) -> Allocation:
    """The allocation in a claim's status; empty if it has none.

    status   JSON as the record keeps it
    """
    results, configs = decode_status(status)
    return Allocation(
        tuple(result for result in results if result.driver == DRIVER),
        tuple(config for config in configs if config.driver == DRIVER),
    )


def answers(entry: Entry) -> tuple[PreparedDevice, ...]:
    """What was answered to kubelet for a completed claim, whoever prepared it."""
    if isinstance(entry.prepared, Foreign):
        return entry.prepared.devices
    return tuple(device for group in entry.prepared for device in group.devices)


def device_types(record: Record) -> Counter[str]:
    """How many devices are prepared, by type: "gpu", "mig", "vfio" or "unknown"."""
    completed = (entry for entry in record.entries.values() if entry.state == "PrepareCompleted")
    return Counter(_device_type(device.device) for entry in completed for device in answers(entry))


def _device_type(device: str) -> str:
    match parse_name(device):
        case GpuName():
            return "gpu"
        case MigName():
            return "mig"
        case VfioName():
            return "vfio"
        case None:
            return "unknown"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device lies: a GPU, and which of its memory slices; `slices` is empty for the whole of it."""

    gpu: str  # UUID
    slices: range = range(0)

    def meets(self, other: Place) -> bool:
        if self.gpu != other.gpu:
            return False
        return not (self.slices and other.slices) or bool(
            range(max(self.slices[0], other.slices[0]), min(self.slices[-1], other.slices[-1]) + 1)
        )


def place(name: str, inventory: Inventory) -> Place | None:
    """Where a device of this name lies on this node; None if that is not known now."""
    device = inventory.devices.get(name)
    if device is not None:
        if isinstance(device, Gpu):
            return Place(device.uuid)
        return Place(device.parent.uuid, range(device.start, device.start + device.size))
    match parse_name(name):
        case MigName(parent_minor=minor, profile_id=profile_id, start=start):
            gpu = inventory.gpus.get(minor)
            if gpu is None:
                return None
            size = gpu.partitioning.size(profile_id, start) if gpu.partitioning else None
            # A partition whose size nobody knows any more: at least where it began.
            return Place(gpu.uuid, range(start, start + (size or 1)))
        case GpuName(minor=minor) if minor in inventory.gpus:
            return Place(inventory.gpus[minor].uuid)
    return None


def holder(result: Result, claim: ClaimRef, inventory: Inventory, record: Record) -> str | None:
    """UID of another completed claim that holds the result's device, or its place; None if it is free.

    A device is held by name (the allocation's word). Its place is also held by whoever has it under another name:
    the GPU by its partitions and they by the GPU, a GPU passed through, or with the minor number it had before a driver
    reload.
    """
    wanted = place(result.device, inventory)
    for uid, entry in record.entries.items():
        if uid == claim.uid or entry.state != "PrepareCompleted":
            continue
        if any(other.device == result.device for other in allocation(entry.status).exclusive):
            return uid
        if wanted is not None and any(wanted.meets(held) for held in _held_places(entry, inventory)):
            return uid
    return None


def in_the_way(result: Result, claim: ClaimRef, inventory: Inventory, record: Record) -> Iterator[str]:
    """UIDs of other claims that were begun and not completed, or are being undone, on the place of the result."""
    wanted = place(result.device, inventory)
    for uid, entry in record.entries.items():
        if uid == claim.uid or entry.state != "PrepareStarted":
            continue
        names = {other.device for other in allocation(entry.status).results}
        names |= {device.device for device in answers(entry)}
        if result.device in names or any(
            wanted is not None and held is not None and wanted.meets(held)
            for held in (place(name, inventory) for name in names)
        ):
            yield uid


def withdrawn(inventory: Inventory, record: Record) -> frozenset[str]:
    """Names to hold back from publication, because what they name is something else now, or taken.

    A name whose UUID changed while claimed, the new name of the claimed device, a full GPU whose parts or whole another
    release has handed out, and whatever overlaps a partition that nobody here made. They come back when the claim is
    unprepared and the partition gone.
    """
    names: set[str] = set()
    by_uuid = {device.uuid: name for name, device in inventory.devices.items() if not isinstance(device, MigSpec)}
    for entry in record.entries.values():
        if isinstance(entry.prepared, Foreign):
            uuids = {place.gpu for place in _foreign_places(entry.prepared, inventory)}
            names |= {gpu.name for gpu in inventory.gpus.values() if gpu.uuid in uuids}
            continue
        for device in answers(entry):
            here = inventory.devices.get(device.device)
            if here is not None and not isinstance(here, MigSpec) and here.uuid != device.uuid:
                names.add(here.name)
            now = by_uuid.get(device.uuid)
            if now is not None and now != device.device:
                names.add(now)
    for unknown in unknown_partitions(inventory, record):
        names |= overlapping(inventory, unknown.gpu.uuid, unknown.start, unknown.size)
    return frozenset(names & inventory.devices.keys())


@dataclass(frozen=True, slots=True)
class UnknownPartition:
    """A GPU instance on a GPU that is partitioned on demand, at a place that no entry names: somebody else's."""

    gpu: Gpu
    gi_id: int
    profile_id: int
    start: int
    size: int

    @property
    def place(self) -> Place:
        return Place(self.gpu.uuid, range(self.start, self.start + self.size))

    def __str__(self) -> str:
        last = self.start + self.size - 1
        slices = f"memory slice {self.start}" if self.size == 1 else f"memory slices {self.start} to {last}"
        return f"GPU instance {self.gi_id} (profile {self.profile_id}, {slices}) of {self.gpu.name} ({self.gpu.uuid})"


def unknown_partitions(inventory: Inventory, record: Record) -> tuple[UnknownPartition, ...]:
    """Partitions nobody here made, where partitions are made on demand."""
    ours = {
        (name.parent_minor, name.profile_id, name.start)
        for entry in record.entries.values()
        for text in names(entry)
        if isinstance(name := parse_name(text), MigName)
    }
    return tuple(
        UnknownPartition(gpu, instance.gi_id, instance.profile_id, instance.start, instance.size)
        for gpu in inventory.gpus.values()
        if gpu.partitioning is not None and gpu.uuid in inventory.partitions
        for instance in inventory.partitions[gpu.uuid].instances
        if (gpu.minor, instance.profile_id, instance.start) not in ours
    )


def partitions_of_others(claim: ClaimRef, record: Record, inventory: Inventory) -> dict[str, MigDevice]:
    """Partitions that other completed claims have, by device name: one more claim for such a device makes nothing."""
    return {
        device.device: known
        for uid, entry in record.entries.items()
        if uid != claim.uid and entry.state == "PrepareCompleted"
        for device in answers(entry)
        if device.mig is not None and isinstance(known := concrete(device, inventory), MigDevice)
    }


def concrete(device: PreparedDevice, inventory: Inventory) -> Concrete | None:
    """The device behind an answer, as this node knows it now; None if it does not know it, or only as another one."""
    here = inventory.devices.get(device.device)
    if here is not None and not isinstance(here, MigSpec):
        return here if here.uuid == device.uuid else None
    name = parse_name(device.device)
    if device.mig is None or not isinstance(name, MigName):
        return None
    gpu = next((gpu for gpu in inventory.gpus.values() if gpu.uuid == device.mig.parent_uuid), None)
    if gpu is None or gpu.partitioning is None:
        return None
    profile, size = gpu.partitioning.profile(name.profile_id), gpu.partitioning.size(name.profile_id, name.start)
    if profile is None or size is None:
        return None
    return MigDevice(gpu, profile, name.start, size, device.mig.gi_id, device.mig.ci_id, device.uuid)


def live(name: str, inventory: Inventory) -> Concrete | None:
    """The device of this name as it stands on the node now; None if there is none, or a partition not made."""
    device = inventory.devices.get(name)
    if not isinstance(device, MigSpec):
        return device
    for instance in inventory.partitions.get(device.parent.uuid, Partitions()).instances:
        if (instance.profile_id, instance.start) == (device.profile.profile_id, device.start):
            for compute in instance.compute:
                return MigDevice(
                    device.parent,
                    device.profile,
                    device.start,
                    device.size,
                    instance.gi_id,
                    compute.ci_id,
                    compute.uuid,
                )
    return None


def names(entry: Entry) -> frozenset[str]:
    """Device names that an entry of any state speaks of."""
    prepared = entry.prepared.device_names if isinstance(entry.prepared, Foreign) else ()
    return frozenset(
        (
            *prepared,
            *(device.device for device in answers(entry)),
            *(r.device for r in allocation(entry.status).results),
        )
    )


def _held_places(entry: Entry, inventory: Inventory) -> Iterator[Place]:
    if isinstance(entry.prepared, Foreign):
        yield from _foreign_places(entry.prepared, inventory)
        return
    exclusive = {result.device for result in allocation(entry.status).exclusive}
    for device in answers(entry):
        if device.device not in exclusive:
            continue
        if device.mig is None:
            yield Place(device.uuid)
        elif (known := place(device.device, inventory)) is not None:
            # The record's word for the GPU: minor numbers change with a driver reload.
            yield Place(device.mig.parent_uuid, known.slices)


def _foreign_places(foreign: Foreign, inventory: Inventory) -> Iterator[Place]:
    """Full GPUs of this node that a foreign entry holds, as MIG devices or passed through."""
    for name in foreign.device_names:
        match parse_name(name):
            case MigName(parent_minor=minor) if minor in inventory.gpus:
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
