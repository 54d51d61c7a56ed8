"""nvdra doctor --fix: what claims left half done is taken away, by the plugin's own rules and after a question.

Only what the record names as begun is touched, in the order in which the plugin does it: under the locks of the record
and of the GPU, and only if the entry is still the one that was shown. What a claim holds, and what nobody here made,
stays.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from nvdra import claims
from nvdra.api import Gates
from nvdra.gpu import Inventory
from nvdra.host import find_nvidia_smi
from nvdra.node.clock import LoopClock
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.gpu.actors.timeslice import TimeSliceActor
from nvdra.node.gpu.parts import gpu_context
from nvdra.node.gpu.supply import Supply
from nvdra.node.ledger import LedgerError
from nvdra.node.parts import NodePaths
from nvdra.node.unprepare_flow import UnprepareFlow
from nvdra.nvml import Nvml
from nvdra.programs.people.doctor_mig import Leftover
from nvdra.programs.people.place import Place


async def fix(
    here: Place, gates: Gates, inventory: Inventory, leftovers: list[Leftover], ask: Callable[[str], bool]
) -> bool:
    """Take away what `ask` says yes to, and say what became of it. Whether all that was agreed to is done."""
    chosen = [left for left in leftovers if ask(f"{left.text}. Take it away?")]
    if not chosen:
        return True
    all_done = True
    async with AsyncExitStack() as stack:
        nvml = Nvml(here.library, LoopClock())
        stack.push_async_callback(_close, nvml)
        context, _ = gpu_context(
            gates,
            "",
            NodePaths(here.plugin_dir, here.cdi_root),
            here.host,
            Supply(here.host, here.root, hook_path=here.hook, host_root=here.host_root),
            MigActor(nvml, lambda _address, _partitions: None),
            TimeSliceActor(lambda: find_nvidia_smi(here.host, here.root), lambda: inventory),
            lambda: inventory,
            rescan=_nothing,
        )
        await context.locks.make_folder()
        context.ledger.start()
        stack.push_async_callback(context.ledger.stop)
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
    except LedgerError as error:
        return False, f"{who}: {error}"
    match released:
        case claims.Refuse(reason):
            return False, f"{who}: {reason}"
        case claims.NotPrepared():
            return True, f"{who}: settled meanwhile"
        case claims.Forget():
            return True, f"{who}: taken away"


async def _nothing() -> None:
    """The GPUs were read a moment ago."""


async def _close(nvml: Nvml) -> None:
    with suppress(Exception):  # a driver that hangs: the process ends anyway
        await nvml.close(timeout_s=2.0)
