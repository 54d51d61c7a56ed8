"""nvdra devices: the devices of this node, those not published and why, and the claims that hold them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvdra.api.gates import DYNAMIC_MIG, PASSTHROUGH_SUPPORT, Gates
from nvdra.checkpoint import Checkpoint, Unreadable
from nvdra.gpu import (
    Gpu,
    GpuName,
    Inventory,
    MigDevice,
    MigName,
    MigSpec,
    NotPublished,
    Partitioning,
    Partitions,
    VfioGpu,
    VfioName,
    parent,
    parse_name,
    published,
)
from nvdra.gpu.unpublished import withdrawn
from nvdra.host import PciBus
from nvdra.programs.flags import GATES
from nvdra.programs.people.local_node import LocalNode, gates_of, open_local_node
from nvdra.programs.people.paper import as_json, gibibytes, table
from nvdra.programs.people.partitions import Divided, as_values, divided, holders_of, picture

UNPUBLISHED = "held back: a claim holds its GPU under another name, or a partition that nobody here made overlaps it"

_ABOUT = """\
The GPUs and MIG devices of this node as gpu-kubelet-plugin publishes them, those that it does not publish and why, and
which claim holds each (from the plugin's checkpoint); how GPUs are partitioned, as a picture of their memory slices.
Opens NVML for a moment. With the feature gate DynamicMIG, partitions that could be made are summed up (--output json
lists them all).

Exit status: 0, or 1 if the GPUs cannot be read."""


def main(argv: Sequence[str]) -> int:
    here, values, _ = open_local_node("devices", _ABOUT, argv, os.environ, more=GATES)
    gates = gates_of(values)
    bus = here.bus()
    inventory = asyncio.run(
        here.inventory(bus, dynamic_mig=gates.enabled(DYNAMIC_MIG), passthrough=gates.enabled(PASSTHROUGH_SUPPORT))
    )
    checkpoint, unreadable = _checkpoint(here)
    left_out = list(_left_out(inventory, bus, checkpoint))
    shown = _Shown(inventory, holders_of(checkpoint), left_out, unreadable, divided(inventory, checkpoint))
    if here.output == "json":
        print(as_json(_json(shown, gates)), end="")
    else:
        _print(shown)
    if inventory.unread:
        print(f"Error: the GPUs cannot be read: {inventory.unread} (nvdra doctor tells more)", file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class _Shown:
    """The content of the page.

    holders     claims by the device they hold
    left_out    unpublished devices: (device, reason)
    unreadable  why the checkpoint cannot be read
    """

    inventory: Inventory
    holders: Mapping[str, list[str]]
    left_out: Sequence[tuple[str, str]]
    unreadable: str
    divided: Sequence[Divided]


def _checkpoint(here: LocalNode) -> tuple[Checkpoint | None, str]:
    """The checkpoint, or why it cannot be read."""
    try:
        return here.checkpoint() or Checkpoint(""), ""
    except (OSError, Unreadable) as error:
        return None, f"who holds what is not known: {here.checkpoint_path}: {error}"


def _left_out(inventory: Inventory, bus: PciBus, checkpoint: Checkpoint | None) -> Iterator[tuple[str, str]]:
    """Unpublished devices: (device, reason)."""
    for left in inventory.not_published:
        yield left.device, left.reason
    for address, stuck in inventory.stuck.items():
        name = inventory.gpus[address].name
        yield f"partitions of {name}" if stuck.on else f"{name} as a whole", str(stuck)
    if checkpoint is not None:
        for name in sorted(withdrawn(inventory, checkpoint)):
            yield name, UNPUBLISHED
    told = {left.reason for left in inventory.not_published}
    for gpu in inventory.hidden.values():
        # If NVML refuses a GPU, the bus does not show which of the GPUs with its driver that is.
        if gpu.reason not in told and not (gpu.driver == "nvidia" and refused(inventory)):
            yield gpu.address, gpu.reason
    yield from bus.left_out


def refused(inventory: Inventory) -> list[NotPublished]:
    """GPUs that could not be read, without readable GPUs that have missing or unusable MIG devices."""
    read = {gpu.name for gpu in inventory.gpus.values() if inventory.partitions.get(gpu.pci_bus_id, Partitions()).is_on}
    return [
        left
        for left in inventory.not_published
        if left.device not in read and not isinstance(parse_name(left.device), MigName | VfioName)
    ]


def _print(shown: _Shown) -> None:
    inventory, holders = shown.inventory, shown.holders
    if inventory.gpus:
        any_gpu = next(iter(inventory.gpus.values()))
        print(f"driver {inventory.driver_version}, CUDA {any_gpu.cuda_driver_version.removesuffix('.0')}\n")
    rows = [_row(device, holders) for device in inventory.devices.values() if not isinstance(device, MigSpec)]
    if rows:
        print(table(["NAME", "PRODUCT", "MEMORY", "PCI", "NUMA", "UUID", "HELD BY"], rows), end="")
    elif not inventory.unread and not inventory.devices:
        print("no device would be published")
    for line in _could_be_made(inventory):
        print(line)
    if shown.divided:
        print("\nmemory slices:\n", *picture(shown.divided), sep="\n")
    absent = sorted(holders.keys() - inventory.devices.keys())
    # If the driver cannot be read, a held device may still be there.
    there = "" if inventory.unread else ", and not there now"
    left = [[what, why] for what, why in shown.left_out]
    left += [[name, f"held by {', '.join(holders[name])}{there}"] for name in absent]
    if left:
        print(f"\nnot published:\n{table(['WHAT', 'WHY'], _gathered(left), '  ')}", end="")
    if shown.unreadable:
        print(f"\n{shown.unreadable}")


def _row(device: Gpu | MigDevice | VfioGpu, holders: Mapping[str, list[str]]) -> list[str]:
    held_by = ", ".join(holders.get(device.name, [])) or "-"
    if isinstance(device, VfioGpu):
        numa = "-" if device.pci.numa_node is None else str(device.pci.numa_node)
        return [device.name, device.facts.product_name, "-", device.pci_bus_id, numa, device.uuid, held_by]
    gpu = parent(device)
    match device:
        case Gpu():
            product, memory_bytes = gpu.product_name, gpu.memory_bytes
        case MigDevice():
            product, memory_bytes = f"{gpu.product_name} {device.profile.text}", device.profile.memory_bytes
    return [
        device.name,
        product,
        gibibytes(memory_bytes),
        gpu.pci_bus_id,
        "-" if gpu.pci.numa_node is None else str(gpu.pci.numa_node),
        device.uuid,
        held_by,
    ]


def _gathered(left: Sequence[Sequence[str]]) -> list[list[str]]:
    """The same rows, with one row for all partitions of a GPU that have the same reason."""
    lines: dict[tuple[str, int | str], list[str]] = {}
    for what, why in left:
        name = parse_name(what)
        lines.setdefault((why, name.parent_minor if isinstance(name, MigName) else what), []).append(what)
    return [
        [f"{len(names)} partitions of {GpuName(place)}" if len(names) > 1 else names[0], why]
        if isinstance(place, int)
        else [names[0], why]
        for (why, place), names in lines.items()
    ]


def _could_be_made(inventory: Inventory) -> Iterator[str]:
    """The published devices that are created on demand, one line for each GPU model."""
    models: dict[Partitioning, list[str]] = {}
    for gpu in inventory.gpus.values():
        if gpu.partitioning is not None:
            models.setdefault(gpu.partitioning, []).append(gpu.name)
    for whole, names in models.items():
        profiles = ", ".join(f"{profile.text} ({len(placements)})" for profile, placements in whole.profiles)
        yield f"\npublished, to be created on demand (placements):\n  {', '.join(names)}: {profiles}"


def _json(shown: _Shown, gates: Gates) -> dict[str, Any]:
    devices = shown.inventory.devices
    return {
        "devices": [
            {**published(device, gates), "heldBy": shown.holders.get(device.name, [])} for device in devices.values()
        ],
        "notPublished": [{"device": what, "reason": why} for what, why in shown.left_out],
        "heldAndAbsent": {name: who for name, who in shown.holders.items() if name not in devices},
        "partitions": [as_values(each) for each in shown.divided],
        "error": shown.inventory.unread,
        "recordError": shown.unreadable,
    }
