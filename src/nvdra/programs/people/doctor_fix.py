"""nvdra doctor --fix: rolls half-prepared claims back by the plugin's own rules, after a question about each.

Only claims with an entry `PrepareStarted` are rolled back, in the plugin's order: under the locks of the checkpoint and
of the GPU, and only if the entry is still the one that was shown. Devices of completed claims and unmanaged partitions
stay.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from nvdra import claims
from nvdra.api import Gates
from nvdra.gpu import Inventory
from nvdra.host import find_nvidia_smi
from nvdra.node.checkpoint_writer import CheckpointError
from nvdra.node.clock import LoopClock
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.gpu.actors.timeslice import TimeSliceActor
from nvdra.node.gpu.edits_provider import GpuEditsProvider
from nvdra.node.gpu.parts import gpu_context
from nvdra.node.parts import NodePaths
from nvdra.node.unprepare_flow import UnprepareFlow
from nvdra.nvml import Nvml
from nvdra.programs.people.doctor_mig import Leftover
from nvdra.programs.people.local_node import LocalNode


async def fix(
    here: LocalNode, gates: Gates, inventory: Inventory, leftovers: list[Leftover], ask: Callable[[str], bool]
) -> bool:
    """Roll back the leftovers to which `ask` agrees, and print the results; whether all of them succeeded."""
    chosen = [left for left in leftovers if ask(f"{left.text}. Take it away?")]
    if not chosen:
        return True
    all_done = True
    async with AsyncExitStack() as stack:
        clock = LoopClock()
        nvml = Nvml(here.library, clock)
        stack.push_async_callback(_close, nvml)
        context, _ = gpu_context(
            gates,
            "",
            NodePaths(here.plugin_dir, here.cdi_root),
            here.host,
            GpuEditsProvider(here.host, here.root, hook_path=here.hook, host_root=here.host_root),
            MigActor(nvml, lambda _address, _partitions: None),
            TimeSliceActor(lambda: find_nvidia_smi(here.host, here.root), lambda: inventory),
            lambda: inventory,
            clock=clock,
            rescan=_nothing,
        )
        await context.locks.make_folder()
        context.checkpoint_writer.start()
        stack.push_async_callback(context.checkpoint_writer.stop)
        flow = UnprepareFlow(context, LoopClock().wall)
        for left in chosen:
            done, text = await _release(flow, left)
            print(text)
            all_done &= done
    return all_done


async def _release(flow: UnprepareFlow, left: Leftover) -> tuple[bool, str]:
    who = f"claim {left.who}"
    try:
        released = await flow.unprepare(left.claim, only=left.entry)
    except CheckpointError as error:
        return False, f"{who}: {error}"
    match released:
        case claims.Refuse(reason):
            return False, f"{who}: {reason}"
        case claims.NotPrepared():
            return True, f"{who}: settled meanwhile"
        case claims.Forget():
            return True, f"{who}: taken away"


async def _nothing() -> None:
    """Scan nothing: the GPUs were read a moment ago."""


async def _close(nvml: Nvml) -> None:
    with suppress(Exception):  # a hung driver call: the process ends anyway
        await nvml.close(timeout_s=2.0)
