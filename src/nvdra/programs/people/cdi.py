"""nvdra cdi render: the CDI document of a claim, made by the plugin's code from the current driver root."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence

from nvdra import cdi, claims
from nvdra.api import Claim, ClaimRef
from nvdra.api.claim import Result
from nvdra.api.gates import defaults
from nvdra.checkpoint import Unreadable
from nvdra.gpu import Inventory
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.sharing import Sharing
from nvdra.node.cdi_files import CdiFiles
from nvdra.node.claim_files import ClaimFiles
from nvdra.node.edits import EditsMissing, EditsProvider
from nvdra.node.gpu.edits_provider import GpuEditsProvider
from nvdra.node.metadata_files import MetadataFiles
from nvdra.programs.flags import Flag, UsageError
from nvdra.programs.people.local_node import LocalNode, open_local_node

_ABOUT = """\
The CDI document that gpu-kubelet-plugin would write for a claim with these devices: what a container runtime adds to
the claim's containers. Without devices: what the file of the prepared claim that --claim-uid names should say now.
Nothing is written. If the plugin would first have to make a device node, the command names it and fails.

Exit status: 0, 1 if it cannot be rendered, 2 if called wrongly."""

_NO_UID = "00000000-0000-0000-0000-000000000000"
_UID = Flag(("claim-uid",), (), _NO_UID, "the claim's UID, part of every name in it")


class Incomplete(Exception):
    """The document cannot be made: the text names what is missing."""


def main(argv: Sequence[str]) -> int:
    here, values, names = open_local_node(
        "cdi render", _ABOUT, argv, os.environ, outputs=("yaml", "json"), more=(_UID,), words="[DEVICE ...]"
    )
    uid = str(values["claim_uid"])
    if not names and uid == _NO_UID:
        raise UsageError(
            "nvdra cdi render needs the names of devices, for instance gpu-0 (nvdra devices lists them), or the "
            "--claim-uid of a prepared claim"
        )
    try:
        content = asyncio.run(_content(here, uid, names))
    except (Incomplete, EditsMissing, cdi.InvalidDocument) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    text = content.decode()
    if here.output == "json":
        text = json.dumps(json.loads(cdi.render(cdi.parse(content), "json")), indent=2) + "\n"
    print(text, end="")
    return 0


async def _content(here: LocalNode, uid: str, names: Sequence[str]) -> bytes:
    """The claim's file. Raises Incomplete, EditsMissing and cdi.InvalidDocument."""
    inventory = await here.inventory(here.bus())
    if inventory.unread:
        raise Incomplete(f"the GPUs cannot be read: {inventory.unread} (nvdra doctor tells more)")
    driver = GpuDriver(defaults(), Sharing(mps_folder=f"{here.plugin_dir}/mps"))
    sealed = _of_devices(driver, uid, names, inventory) if names else _of_entry(driver, here, uid, inventory)
    edits_provider: EditsProvider = GpuEditsProvider(
        here.host, here.root, hook_path=here.hook, host_root=here.host_root, makes_nodes=False
    )
    await edits_provider.refresh(sealed.devices, common=sealed.has_common)
    metadata = MetadataFiles(here.host, here.plugin_dir, here.cdi_root, driver.name, is_on=False)
    own = ClaimFiles(here.host, here.cdi_root, driver.cdi)
    files = CdiFiles(driver, own, edits_provider, lambda: inventory, metadata)
    return files.content(sealed.cdi_devices)


def _of_devices(driver: GpuDriver, uid: str, names: Sequence[str], inventory: Inventory) -> claims.Sealed:
    """The sealed claim for these devices, without a config."""
    results = tuple(Result("", driver.name, "", name) for name in names)
    found = claims.adopted(driver, Claim(ClaimRef("", "", uid), results, (), b""), inventory, "")
    if isinstance(found, claims.Missing):
        known = ", ".join(inventory.devices) or "none"
        why = f": {found.reason}" if found.reason else f"; it has {known}"
        raise Incomplete(f"this node has no device {found.device}{why}")
    return found


def _of_entry(driver: GpuDriver, here: LocalNode, uid: str, inventory: Inventory) -> claims.Sealed:
    """The sealed claim of a checkpoint entry."""
    try:
        checkpoint = here.checkpoint()
    except (OSError, Unreadable) as error:
        raise Incomplete(f"{here.checkpoint_path} cannot be read: {error} (nvdra checkpoint show tells more)") from None
    entry = checkpoint.entries.get(uid) if checkpoint is not None else None
    if entry is None or entry.state != "PrepareCompleted":
        raise Incomplete(f"claim {uid} is not prepared here (nvdra checkpoint show lists the claims that are)")
    found = claims.restored(driver, ClaimRef(entry.namespace, entry.name, uid), entry, inventory)
    if isinstance(found, claims.Missing):
        because = f": {found.reason}" if found.reason else ""
        raise Incomplete(f"device {found.device} of claim {uid} is not known here{because}")
    if not found.cdi_devices:
        raise Incomplete(f"claim {uid} has no CDI file: none of its devices changes a container")
    return found
