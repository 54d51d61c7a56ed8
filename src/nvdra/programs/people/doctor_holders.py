"""nvdra doctor, GPU holders: names the processes that have a GPU open, with container and pod."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from nvdra import claims
from nvdra.gpu import Inventory
from nvdra.host import Holder, Holders, find_holders, gpu_device, host_proc
from nvdra.programs.people.doctor_mig import readable_checkpoint
from nvdra.programs.people.finding import Finding
from nvdra.programs.people.local_node import LocalNode

CHECK = "GPU holders"
_POD_LOGS = "/var/log/pods"  # kubelet keeps a folder <namespace>_<name>_<uid> for each pod of the node
_MOST_NAMED = 4


async def find(here: LocalNode, inventory: Inventory) -> Holders | OSError:
    """The processes that have a GPU open, by the GPU's name; the error if /proc cannot be read."""
    gpus = {gpu.name: gpu_device(here.host, here.root, gpu.minor) for gpu in inventory.gpus.values()}
    try:
        return await find_holders(here.host, gpus, proc=host_proc(here.host, _roots(here)))
    except OSError as error:
        return error


def look(here: LocalNode, inventory: Inventory, found: Holders | OSError) -> Iterator[Finding]:
    """The findings: one for each GPU that is open, or one that says that none is.

    found   the result of `find`
    """
    if not inventory.gpus:
        return
    if isinstance(found, OSError):
        raise found
    unseen = "".join(f"; {spot}" for spot in found.blind_spots)
    pods = _pod_names(here) if found.holders else {}
    for gpu in inventory.gpus.values():
        if holders := found.of(gpu.name):
            named = [_named(holder, pods) for holder in holders[:_MOST_NAMED]]
            more = f" and {len(holders) - len(named)} more" if len(holders) > len(named) else ""
            yield Finding(CHECK, "ok", f"{gpu.name} is open in {', '.join(named)}{more}{unseen}")
    if not found.holders:
        yield Finding(CHECK, "ok", f"no process has a GPU open{unseen}")


def _named(holder: Holder, pods: Mapping[str, str]) -> str:
    uid = holder.owner.pod_uid
    return f"{holder} of pod {pods.get(uid, uid)}" if uid else str(holder)


def _pod_names(here: LocalNode) -> dict[str, str]:
    """Namespace and name of pods by UID: from kubelet's log folders, and from the claims prepared for them."""
    names: dict[str, str] = {}
    for root in (*_roots(here), "/"):
        try:
            folders = here.host.list(root.rstrip("/") + _POD_LOGS)
        except OSError:
            continue
        parts = (folder.split("_") for folder in folders)
        names |= {part[2]: f"{part[0]}/{part[1]}" for part in parts if len(part) == 3}
        break
    checkpoint = readable_checkpoint(here)
    for entry in checkpoint.entries.values() if checkpoint is not None else ():
        prefix = f"{entry.namespace}/" if entry.namespace else ""
        names |= {uid: prefix + name for uid, name in claims.pods(entry).items() if uid not in names}
    return names


def _roots(here: LocalNode) -> tuple[str, ...]:
    """Folders of this process that may show the host's root."""
    return os.environ.get("HOST_ROOT") or "/host-root", here.root.path
