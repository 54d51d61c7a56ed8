"""Who holds what: the record's entries read as allocations of this driver's devices.

Only reads: what to do about a holder is decided in `plan`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from nvdra.api.claim import ClaimRef, OpaqueConfig, Result, decode_status
from nvdra.checkpoint import Entry, Foreign, PreparedDevice, Record
from nvdra.devices import GpuName, Inventory, MigName, VfioName, parse_name

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


def holder(result: Result, claim: ClaimRef, inventory: Inventory, record: Record) -> str | None:
    """UID of another completed claim that holds the result's device, or the GPU behind it; None if it is free.

    A device is held by name (the allocation's word). Its GPU is also held by whoever has it under another name:
    as a MIG device, passed through, or with the minor number it had before a driver reload.
    """
    gpu = inventory.devices.get(result.device)
    for uid, entry in record.entries.items():
        if uid == claim.uid or entry.state != "PrepareCompleted":
            continue
        if any(other.device == result.device for other in allocation(entry.status).exclusive):
            return uid
        if gpu is None:
            continue
        if isinstance(entry.prepared, Foreign):
            if gpu.name in _parents(entry.prepared, inventory):
                return uid
        elif any(device.uuid == gpu.uuid for device in _exclusive_devices(entry)):
            return uid
    return None


def withdrawn(inventory: Inventory, record: Record) -> frozenset[str]:
    """Names to hold back from publication, because a claim holds the name or its GPU as something else.

    A name whose UUID changed while claimed, the new name of the claimed GPU, and a full GPU whose parts or whole
    another release has handed out. They come back when the claim is unprepared.
    """
    names: set[str] = set()
    by_uuid = {gpu.uuid: name for name, gpu in inventory.devices.items()}
    for entry in record.entries.values():
        if isinstance(entry.prepared, Foreign):
            names |= _parents(entry.prepared, inventory)
            continue
        for device in answers(entry):
            here = inventory.devices.get(device.device)
            if here is not None and here.uuid != device.uuid:
                names.add(here.name)
            now = by_uuid.get(device.uuid)
            if now is not None and now != device.device:
                names.add(now)
    return frozenset(names)


def _exclusive_devices(entry: Entry) -> Iterator[PreparedDevice]:
    names = {result.device for result in allocation(entry.status).exclusive}
    return (device for device in answers(entry) if device.device in names)


def _parents(foreign: Foreign, inventory: Inventory) -> set[str]:
    """Full GPUs of this node that a foreign entry holds as MIG devices or passed through."""
    found: set[str] = set()
    for name in foreign.device_names:
        match parse_name(name):
            case MigName(parent_minor=minor):
                found |= {gpu.name for gpu in inventory.devices.values() if gpu.minor == minor}
            case VfioName():
                found |= _passed_through(foreign, inventory)
    return found


def _passed_through(foreign: Foreign, inventory: Inventory) -> set[str]:
    # A passed-through GPU's UUID is made from its PCI address: that finds it again under its full-GPU name.
    uuids = {device.uuid for device in foreign.devices}
    return {gpu.name for gpu in inventory.devices.values() if vfio_uuid(gpu.pci_bus_id) in uuids}


def vfio_uuid(pci_bus_id: str) -> str:
    """The UUID a passed-through GPU is published with: version 5, DNS namespace, name = PCI address."""
    digest = hashlib.sha1(uuid.NAMESPACE_DNS.bytes + pci_bus_id.encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))
