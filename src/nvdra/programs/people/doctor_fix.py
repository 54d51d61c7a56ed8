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
from nvdra.node.clock import LoopClock
from nvdra.node.executor import Executor
from nvdra.node.gpu_locks import GpuLocks
from nvdra.node.ledger import Ledger, LedgerError
from nvdra.node.means import Means
from nvdra.node.record_file import RecordFile
from nvdra.node.releasing import Releasing
from nvdra.node.site import ClaimFiles, Site
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
        locks = GpuLocks(here.host, here.plugin_dir)
        await locks.make_folder()
        ledger = Ledger(
            here.host, RecordFile(here.host, here.plugin_dir, lambda: False), here.plugin_dir, lambda _: None
        )
        ledger.start()
        stack.push_async_callback(ledger.stop)
        means = Means(
            Site(claims.DRIVER, "", here.cdi_root, gates),
            ClaimFiles(here.host, here.cdi_root),
            ledger,
            locks,
            Executor(nvml, locks, lambda _uuid, _partitions: None),
            lambda: inventory,
            _nothing,
        )
        releasing = Releasing(means)
        for left in chosen:
            done, text = await _release(releasing, left)
            print(text)
            all_done &= done
    return all_done


async def _release(releasing: Releasing, left: Leftover) -> tuple[bool, str]:
    who = f"claim {left.who}"
    try:
        released = await releasing.release(left.claim, only=left.entry)
    except LedgerError as error:
        return False, f"{who}: {error}"
    match released:
        case claims.Refuse(reason):
            return False, f"{who}: {reason}"
        case claims.NotPrepared():
            return True, f"{who}: settled meanwhile"
        case claims.Leave():
            return True, f"{who}: taken away"


async def _nothing() -> None:
    """The GPUs were read a moment ago."""


async def _close(nvml: Nvml) -> None:
    with suppress(Exception):  # a driver that hangs: the process ends anyway
        await nvml.close(timeout_s=2.0)
