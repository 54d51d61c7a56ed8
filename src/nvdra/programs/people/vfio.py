"""nvdra vfio: GPUs of this node that are bound for virtual machines, given back before an uninstall."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from nvdra.checkpoint import Checkpoint, Unreadable
from nvdra.gpu import BindVfio, Inventory, Passthrough, with_twins
from nvdra.gpu.extents import held_extents
from nvdra.host import PciBus, look_at_slot
from nvdra.node.clock import LoopClock
from nvdra.node.gpu.vfio_parts import VfioParts
from nvdra.node.locks import ResourceLocks
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.nvml import Nvml
from nvdra.ports import LockError
from nvdra.programs.flags import Flag, boolean
from nvdra.programs.people.local_node import LocalNode, open_local_node

_ABOUT = """\
Gives GPUs that claims bound to vfio-pci back to the drivers from before, with the other functions of their slots, and
those that a crash left without driver. For an uninstall while virtual machines' pods still exist, and for what is left
of one. First stop the virtual machines: a GPU that one still has open stays, and is named with who holds it. A GPU that
an administrator bound stays as it is.

The checkpoint keeps its entries: a plugin that is installed again unprepares those claims when kubelet asks."""

_MORE = (Flag(("yes", "y"), (), False, "do not ask", boolean),)

# How long a virtual machine that still has a GPU open is waited for.
TIMEOUT_S = 10.0

_SELF = "nvdra-vfio"


def main(argv: Sequence[str]) -> int:
    """0 if no GPU is left bound by a claim; 1 if one could not be given back, or should not be."""
    here, values, _ = open_local_node("vfio give-back", _ABOUT, argv, os.environ, outputs=("text",), more=_MORE)
    return asyncio.run(_give_back(here, yes=bool(values["yes"])))


async def _give_back(here: LocalNode, *, yes: bool) -> int:
    bus = here.bus()
    inventory = with_twins(Inventory(), bus.facts, Passthrough("not looked for"))
    locks = ResourceLocks(here.host, here.plugin_dir)
    try:
        await locks.make_folder()
        found = _bound(here, bus, inventory, locks)
    except (OSError, LockError, Unreadable) as error:
        print(f"Error: which GPUs claims have bound cannot be read: {error}", file=sys.stderr)
        return 1
    if not found:
        print("no GPU of this node is bound to vfio-pci by a claim, and none is without driver")
        return 0
    print(f"GPUs to give back: {', '.join(found)}")
    if not yes and not _agreed("Give them back to the drivers from before?"):
        return 1
    clock = LoopClock()
    parts = VfioParts(here.host, clock, here.root, here.node_root, Nvml(here.library, clock), lambda: None)
    return int(not all([await _give_back_one(parts, locks, clock, address) for address in found]))


def _bound(here: LocalNode, bus: PciBus, inventory: Inventory, locks: ResourceLocks) -> list[str]:
    """Addresses of GPUs that a claim has bound, by the journal or the checkpoint, or that have no driver."""
    checkpoint = here.checkpoint() or Checkpoint("")
    by_entry = {
        extent.gpu
        for entry in checkpoint.entries.values()
        for extent in held_extents(entry, inventory)
        if extent.gpu in inventory.pci_gpus
    }
    found = []
    for function in bus.gpus:
        step = BindVfio("", function.address)
        slot = look_at_slot(here.host, here.root, function.address)
        if slot is None or slot.gpu.driver == "nvidia":
            continue
        if not locks.try_take(_SELF, step.resources):
            print(f"{function.address}: a plugin works on it now, so it is left to that", file=sys.stderr)
            continue
        is_journaled = locks.left_by_others(step, ()) is not None
        locks.give_back(_SELF, is_done=True)
        if not slot.gpu.driver or is_journaled or function.address in by_entry:
            found.append(function.address)
    return found


async def _give_back_one(parts: VfioParts, locks: ResourceLocks, clock: LoopClock, address: str) -> bool:
    step, waiting = BindVfio("", address), dict[str, str]()
    try:
        if not locks.try_take(_SELF, step.resources):
            raise StepFailed("a plugin works on it now")
        if before := locks.left_by_others(step, ()):
            locks.touch(_SELF, step, before)
        async with clock.deadline(TIMEOUT_S):
            await parts.actor.roll_back(step, StepJournal(locks, _SELF, step, waiting))
    except TimeoutError:
        print(f"{address}: {waiting.get(_SELF) or 'not given back in time'}", file=sys.stderr)
        return False
    except (StepFailed, LockError) as error:
        print(f"{address}: {error}", file=sys.stderr)
        return False
    finally:
        locks.give_back(_SELF, is_done=True)
    print(f"{address}: given back")
    return True


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
