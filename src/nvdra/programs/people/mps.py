"""nvdra mps: the MPS control daemons of this node, and their end before an uninstall."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from nvdra.checkpoint import Checkpoint, Unreadable
from nvdra.gpu import Gpu, Inventory
from nvdra.gpu.mps_deployment import MpsPods
from nvdra.gpu.sharing import daemons_of
from nvdra.host import MpsControl, find_nvidia_smi
from nvdra.kube import ConfigError, HttpKube, access
from nvdra.node.clock import LoopClock
from nvdra.node.gpu.actors.mps import MpsActor, MpsPlace
from nvdra.node.gpu.mps_pods import Pods
from nvdra.node.steps import StepFailed
from nvdra.programs.flags import KUBE, Flag, boolean
from nvdra.programs.gpu_flags import FLAGS
from nvdra.programs.people.local_node import LocalNode, open_local_node

_ABOUT = """\
Ends the MPS control daemons of this node and gives back what they had: their Deployments, the tmpfs that containers
share with them, the compute modes of GPUs from before. For an uninstall while pods still use MPS, and for what is left
of one. Containers that still run lose their daemon; first delete the pods that use MPS where you can.

A plugin that runs starts the daemons of prepared claims again within ten minutes: uninstall it after this."""

_MORE = (
    Flag(("yes", "y"), (), False, "do not ask", boolean),
    next(flag for flag in FLAGS if flag.names == ("namespace",)),
    KUBE[0],
)


def main(argv: Sequence[str]) -> int:
    """0 if no daemon is left; 1 if one could not be ended, or should not be."""
    here, values, _ = open_local_node("mps remove", _ABOUT, argv, os.environ, outputs=("text",), more=_MORE)
    try:
        return asyncio.run(_remove(here, str(values["namespace"]), str(values["kubeconfig"]), yes=bool(values["yes"])))
    except ConfigError as error:
        print(f"Error: the API server cannot be reached: {error}", file=sys.stderr)
        return 1


async def _remove(here: LocalNode, namespace: str, kubeconfig: str, *, yes: bool) -> int:
    inventory = await here.inventory(here.bus())
    folder = f"{here.plugin_dir}/mps"
    async with HttpKube(access(kubeconfig, os.environ), user_agent="nvdra-mps") as kube:
        actor = MpsActor(
            here.host,
            LoopClock(),
            kube,
            lambda: find_nvidia_smi(here.host, here.root),
            MpsControl(here.host, here.root),
            MpsPlace(folder, here.root.path),
            Pods(kube, MpsPods("", namespace, "", folder), pod_uid=""),
            lambda: inventory,
        )
        found = actor.daemons()
        if not found:
            print(f"no MPS control daemon has a folder in {folder}")
            return 0
        if inventory.unread:
            print(f"Error: compute modes cannot be restored: {inventory.unread}", file=sys.stderr)
            return 1
        gpus = _gpus(here, inventory)
        print(f"MPS control daemons of this node: {', '.join(found)}")
        if not yes and not _agreed("End them and give back what they had?"):
            return 1
        return int(not all([await _end(actor, daemon, gpus.get(daemon, ())) for daemon in found]))


async def _end(actor: MpsActor, daemon: str, gpus: Sequence[Gpu]) -> bool:
    try:
        await actor.stop(daemon, gpus)
    except StepFailed as error:
        print(f"{daemon}: {error}", file=sys.stderr)
        return False
    print(f"{daemon}: ended")
    return True


def _gpus(here: LocalNode, inventory: Inventory) -> dict[str, list[Gpu]]:
    """Full GPUs that daemons serve, by what the checkpoint says."""
    try:
        checkpoint = here.checkpoint() or Checkpoint("")
    except (OSError, Unreadable) as error:
        print(f"the checkpoint cannot be read, so daemons alone say which GPUs they serve: {error}", file=sys.stderr)
        return {}
    by_uuid = {gpu.uuid: gpu for gpu in inventory.gpus.values()}
    return {
        daemon: [by_uuid[device.uuid] for device in group.devices if device.uuid in by_uuid]
        for entry in checkpoint.entries.values()
        for daemon, group in daemons_of(entry).items()
    }


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
