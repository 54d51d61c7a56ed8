"""Shows how GPUs are partitioned: which memory slices belong to which partition and claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from nvdra.checkpoint import Checkpoint, Entry
from nvdra.gpu import Gpu, GpuInstanceScan, Inventory, MigDevice, MigName, Partitions
from nvdra.gpu.extents import exclusive_names, names, partitions
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.programs.people.paper import table

# held       by claims
# free       an administrator made it, a claim may have it
# unmanaged  without an entry, on a GPU that is partitioned on demand: devices that overlap it are unpublished
# half made  a GPU instance without compute instance
# unknown    the checkpoint, which names the holder, cannot be read
State = Literal["held", "free", "unmanaged", "half made", "unknown"]

_WORDS: Mapping[State, str] = {
    "held": "held",
    "free": "free",
    "unmanaged": "nobody here made it: what overlaps it is not offered",
    "half made": "half made: it has no compute instance",
    "unknown": "not known",
}


@dataclass(frozen=True, slots=True)
class Partition:
    """A GPU instance. `device` is its name in claims, `holders` the claims that have it."""

    instance: GpuInstanceScan
    device: str
    profile: str
    holders: tuple[str, ...]
    state: State


@dataclass(frozen=True, slots=True)
class Divided:
    """A GPU that is or can be divided."""

    gpu: Gpu
    is_on: bool
    memory_slices: int
    partitions: tuple[Partition, ...]


def holders_of(checkpoint: Checkpoint | None) -> dict[str, list[str]]:
    """Claims by the device they hold, each as "namespace/name" or its UID; claims with admin access are marked."""
    holders: dict[str, list[str]] = {}
    for uid, entry in checkpoint.entries.items() if checkpoint is not None else ():
        for name in sorted(names(entry)):
            holders.setdefault(name, []).append(_called_by(uid, entry, name))
    return holders


def _called_by(uid: str, entry: Entry, device: str) -> str:
    looks = "" if device in exclusive_names(entry) else " (adminAccess)"
    return f"{entry.namespace}/{entry.name}{looks}" if entry.name else f"{uid}{looks}"


def divided(inventory: Inventory, checkpoint: Checkpoint | None) -> list[Divided]:
    """Every GPU with MIG mode on or partitioned on demand.

    checkpoint   None: it cannot be read
    """
    holders = _holders_by_placement(checkpoint, inventory)
    unmanaged = unmanaged_partitions(inventory, checkpoint) if checkpoint is not None else ()
    unmanaged_keys = {(each.gpu.pci_bus_id, each.gi_id) for each in unmanaged}
    devices = {(d.parent.pci_bus_id, d.gi_id): d for d in inventory.devices.values() if isinstance(d, MigDevice)}

    def partition(gpu: Gpu, instance: GpuInstanceScan) -> Partition:
        key = (gpu.pci_bus_id, instance.gi_id)
        profile, device = _called(gpu, instance, devices.get(key))
        who = tuple(holders.get((gpu.pci_bus_id, instance.profile_id, instance.start), ()))
        state: State = "free" if checkpoint is not None else "unknown"
        if key in unmanaged_keys:
            state = "unmanaged"
        elif not instance.compute:
            state = "half made"
        elif who:
            state = "held"
        return Partition(instance, device, profile, who, state)

    found = []
    for gpu in inventory.gpus.values():
        now = inventory.partitions.get(gpu.pci_bus_id, Partitions())
        if now.is_on or gpu.partitioning is not None:
            end = max((each.start + each.size for each in now.instances), default=0)
            slices = max(inventory.memory_slices.get(gpu.pci_bus_id, 0), end)
            found.append(Divided(gpu, now.is_on, slices, tuple(partition(gpu, each) for each in now.instances)))
    return found


def _holders_by_placement(checkpoint: Checkpoint | None, inventory: Inventory) -> dict[tuple[str, int, int], list[str]]:
    """Claims by the GPU's PCI address, profile id and first memory slice; the text of a profile is only for people."""
    holders: dict[tuple[str, int, int], list[str]] = {}
    for uid, entry in checkpoint.entries.items() if checkpoint is not None else ():
        for name, address in partitions(entry, inventory):
            holders.setdefault((address, name.profile_id, name.start), []).append(_called_by(uid, entry, str(name)))
    return holders


def _called(gpu: Gpu, instance: GpuInstanceScan, device: MigDevice | None) -> tuple[str, str]:
    """A partition's profile and name, as far as they are known."""
    profile = device.profile if device is not None else None
    if profile is None and gpu.partitioning is not None:
        profile = gpu.partitioning.profile(instance.profile_id)
    if profile is None:
        text = f"profile {instance.profile_id}"
        return text, str(MigName(gpu.minor, "unknown", instance.profile_id, instance.start))
    return profile.text, str(MigName(gpu.minor, profile.name_text, profile.profile_id, instance.start))


def picture(gpus: Sequence[Divided]) -> Iterator[str]:
    """Lines that show each GPU as its memory slices, one character each, followed by a legend of the partitions."""
    width = max((len(each.gpu.name) for each in gpus), default=0)
    for each in gpus:
        mode = "" if each.is_on else "  MIG mode is off"
        yield f"{each.gpu.name:{width}}  {_bar(each)}{mode}"
        rows = [
            [letter, part.device, part.profile, in_words(part.instance), _who(part)]
            for letter, part in zip(_letters(each), each.partitions, strict=True)
        ]
        if rows:
            yield from table(rows[0], rows[1:], f"{'':{width}}  ").splitlines()


def _bar(each: Divided) -> str:
    """ "|A A A A|B|. .|c|": a block is one partition, "." is free, a small letter is unmanaged."""
    blocks = []
    at = 0
    for letter, part in zip(_letters(each), each.partitions, strict=True):
        if part.instance.start > at:
            blocks.append(["."] * (part.instance.start - at))
        blocks.append([letter] * part.instance.size)
        at = part.instance.start + part.instance.size
    if at < each.memory_slices:
        blocks.append(["."] * (each.memory_slices - at))
    return f"|{'|'.join(' '.join(block) for block in blocks)}|"


def _letters(each: Divided) -> Iterator[str]:
    for number, part in enumerate(each.partitions):
        letter = ascii_uppercase[number % len(ascii_uppercase)]
        yield letter.lower() if part.state == "unmanaged" else letter


def in_words(instance: GpuInstanceScan) -> str:
    """ "slice 5", "slices 0-3"."""
    last = instance.start + instance.size - 1
    return f"slice {instance.start}" if instance.size == 1 else f"slices {instance.start}-{last}"


def _who(part: Partition) -> str:
    if part.state == "held":
        return ", ".join(part.holders)
    return f"{_WORDS[part.state]}, for {', '.join(part.holders)}" if part.holders else _WORDS[part.state]


def as_values(each: Divided) -> dict[str, Any]:
    """The same as values for JSON output."""
    return {
        "gpu": each.gpu.name,
        "uuid": each.gpu.uuid,
        "migMode": each.is_on,
        "memorySlices": each.memory_slices,
        "partitions": [
            {
                "device": part.device,
                "profile": part.profile,
                "start": part.instance.start,
                "size": part.instance.size,
                "gpuInstance": part.instance.gi_id,
                "uuids": [compute.uuid for compute in part.instance.compute],
                "state": part.state,
                "heldBy": list(part.holders),
            }
            for part in each.partitions
        ],
    }
