"""nvdra cdi render: the document a claim would get, from the driver root as it is now."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence

from nvdra import cdi
from nvdra.gpu import Gpu, Inventory, MigDevice, MigSpec, parent
from nvdra.gpu.edits import CapabilityNode, common_edits, gpu_edits, mig_edits
from nvdra.host import CapabilityUnknown, DriverVersionUnknown, capability_nodes, gpu_files, look_up
from nvdra.programs.flags import Flag, UsageError
from nvdra.programs.people.local_node import LocalNode, open_local_node

_ABOUT = """\
The CDI document that gpu-kubelet-plugin would write for a claim with these devices: what a container runtime adds to
the claim's containers. Nothing is written, and nothing missing is made: where the plugin would first make a device
node, this names it.

Exit status: 0, 1 if it cannot be rendered, 2 if called wrongly."""

_UID = Flag(("claim-uid",), (), "00000000-0000-0000-0000-000000000000", "the claim's UID, part of every name in it")


class Incomplete(Exception):
    """The document cannot be made: the text names what is missing."""


def main(argv: Sequence[str]) -> int:
    here, values, names = open_local_node(
        "cdi render", _ABOUT, argv, os.environ, outputs=("yaml", "json"), more=(_UID,), words="DEVICE [DEVICE ...]"
    )
    if not names:
        raise UsageError("nvdra cdi render needs the names of devices, for instance gpu-0 (nvdra devices lists them)")
    try:
        document = asyncio.run(_document(here, str(values["claim_uid"]), names))
        content = cdi.render(document, "json" if here.output == "json" else "yaml").decode()
    except (Incomplete, cdi.InvalidDocument) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if here.output == "json":
        content = json.dumps(json.loads(content), indent=2) + "\n"
    print(content, end="")
    return 0


async def _document(here: LocalNode, uid: str, names: Sequence[str]) -> cdi.Document:
    """The claim's document in its final form. Raises Incomplete."""
    inventory = await here.inventory(here.bus())
    if inventory.unread:
        raise Incomplete(f"the GPUs cannot be read: {inventory.unread} (nvdra doctor tells more)")
    try:
        files = look_up(here.host, here.root)
    except (DriverVersionUnknown, OSError) as error:
        raise Incomplete(f"the driver's files cannot be looked up: {error}") from None
    missing = list(files.missing)
    devices = []
    for device in [_named(name, inventory) for name in names]:
        gpu = parent(device)
        own = gpu_files(here.host, here.root, gpu.minor, gpu.pci_bus_id)
        missing += own.missing
        edits = gpu_edits(own, here.hook)
        if isinstance(device, MigDevice):
            edits = mig_edits(edits, _capabilities(here, device))
        devices.append((device.name, edits))
    if missing:
        raise Incomplete(f"missing below {here.root.path}: {', '.join(missing)} (nvdra doctor tells more)")
    document = cdi.claim_document(cdi.GPU_CLAIMS, uid, devices, common_edits(files, here.hook))
    return cdi.transform_root(cdi.simplify(document), here.root.path, here.host_root)


def _named(name: str, inventory: Inventory) -> Gpu | MigDevice:
    match inventory.devices.get(name):
        case None:
            why = inventory.why_absent(name)
            known = ", ".join(inventory.devices) or "none"
            raise Incomplete(f"this node has no device {name}{f': {why}' if why else f'; it has {known}'}")
        case MigSpec():
            raise Incomplete(f"{name} is not made yet, and has device nodes only then: a claim for it makes it")
        case device:
            return device


def _capabilities(here: LocalNode, device: MigDevice) -> tuple[CapabilityNode, ...]:
    try:
        return capability_nodes(here.host, here.root, device.parent.minor, device.gi_id, device.ci_id)
    except CapabilityUnknown as error:
        raise Incomplete(f"the device nodes of {device.name} are not known: {error}") from None
