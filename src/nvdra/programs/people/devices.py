"""nvdra devices: what this node has and publishes, what it leaves out and why, and who holds what."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nvdra import checkpoint, claims
from nvdra.api import gates as feature_gates
from nvdra.checkpoint import Record
from nvdra.devices import Inventory, published
from nvdra.host import PciBus
from nvdra.programs.flags import GATES, UsageError
from nvdra.programs.people.paper import as_json, gibibytes, table
from nvdra.programs.people.place import Place, place

_ABOUT = """\
The GPUs of this node as gpu-kubelet-plugin publishes them, those that it does not publish and why, and which claim
holds each (from the plugin's record). Opens NVML for a moment.

Exit status: 0, or 1 if the GPUs cannot be read."""


def main(argv: Sequence[str]) -> int:
    here, values, _ = place("devices", _ABOUT, argv, os.environ, more=GATES)
    try:
        gates = feature_gates.parse(str(values["feature_gates"]))
    except feature_gates.GateError as error:
        raise UsageError(f'invalid value "{values["feature_gates"]}" for flag -feature-gates: {error}') from None
    bus = here.bus()
    inventory = asyncio.run(here.inventory(bus))
    record, unreadable = _record(here)
    holders = _holders(record)
    left_out = list(_left_out(inventory, bus, record))
    if here.output == "json":
        print(as_json(_json(inventory, gates, holders, left_out, unreadable)), end="")
    else:
        _print(inventory, holders, left_out, unreadable)
    if inventory.unread:
        print(f"Error: the GPUs cannot be read: {inventory.unread} (nvdra doctor tells more)", file=sys.stderr)
        return 1
    return 0


def _record(here: Place) -> tuple[Record | None, str]:
    """The record, or why it cannot be read."""
    try:
        return here.record(), ""
    except (OSError, checkpoint.Unreadable) as error:
        return None, f"who holds what is not known: {here.record_path}: {error}"


def _holders(record: Record | None) -> dict[str, list[str]]:
    """Claims by the device they hold, each as "namespace/name" or its UID."""
    holders: dict[str, list[str]] = {}
    for uid, entry in record.entries.items() if record is not None else ():
        names = {result.device for result in claims.allocation(entry.status).results}
        names |= {device.device for device in claims.answers(entry)}
        for name in sorted(names):
            holders.setdefault(name, []).append(f"{entry.namespace}/{entry.name}" if entry.name else uid)
    return holders


def _left_out(inventory: Inventory, bus: PciBus, record: Record | None) -> Iterator[tuple[str, str]]:
    """What is there and not published: (what, why)."""
    for left in inventory.not_offered:
        yield left.device, left.reason
    if record is not None:
        for name in sorted(claims.withdrawn(inventory, record)):
            yield name, "held back until the claim that holds its GPU under another name is unprepared"
    if not inventory.unread and not inventory.not_offered:
        # With a GPU that NVML refuses, the bus cannot tell which of the two it is.
        seen = {gpu.pci_bus_id for gpu in inventory.devices.values()}
        for function in bus.gpus:
            if function.address not in seen:
                yield function.address, f"on the PCI bus, {bound(function.driver)}, and not seen by NVML"
    yield from bus.left_out


def bound(driver: str) -> str:
    """A PCI function's driver in words."""
    return f"bound to {driver}" if driver else "bound to no kernel driver"


def _print(
    inventory: Inventory, holders: Mapping[str, list[str]], left_out: Sequence[tuple[str, str]], unreadable: str
) -> None:
    gpus = inventory.devices.values()
    if gpus:
        any_gpu = next(iter(gpus))
        print(f"driver {any_gpu.driver_version}, CUDA {any_gpu.cuda_driver_version}\n")
        rows = [
            [
                gpu.name,
                gpu.product_name,
                gibibytes(gpu.memory_bytes),
                gpu.pci_bus_id,
                "-" if gpu.pci.numa_node is None else str(gpu.pci.numa_node),
                gpu.uuid,
                ", ".join(holders.get(gpu.name, [])) or "-",
            ]
            for gpu in gpus
        ]
        print(table(["NAME", "PRODUCT", "MEMORY", "PCI", "NUMA", "UUID", "HELD BY"], rows), end="")
    elif not inventory.unread:
        print("no device would be published")
    absent = sorted(holders.keys() - inventory.devices.keys())
    # With no driver to ask, a device that is held may well be there.
    there = "" if inventory.unread else ", and not there now"
    rows = [[what, why] for what, why in left_out]
    rows += [[name, f"held by {', '.join(holders[name])}{there}"] for name in absent]
    if rows:
        print(f"\nnot published:\n{table(['WHAT', 'WHY'], rows, '  ')}", end="")
    if unreadable:
        print(f"\n{unreadable}")


def _json(
    inventory: Inventory,
    gates: feature_gates.Gates,
    holders: Mapping[str, list[str]],
    left_out: Sequence[tuple[str, str]],
    unreadable: str,
) -> dict[str, Any]:
    return {
        "devices": [
            {**published(gpu, gates), "heldBy": holders.get(gpu.name, [])} for gpu in inventory.devices.values()
        ],
        "notPublished": [{"device": what, "reason": why} for what, why in left_out],
        "heldAndAbsent": {name: who for name, who in holders.items() if name not in inventory.devices},
        "error": inventory.unread,
        "recordError": unreadable,
    }
