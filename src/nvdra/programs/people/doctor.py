"""nvdra doctor: checks everything that a claim needs, in the order of dependency."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from nvdra.api import Gates
from nvdra.api.gates import DYNAMIC_MIG, PASSTHROUGH_SUPPORT
from nvdra.programs.flags import GATES, Flag, UsageError, boolean
from nvdra.programs.people import doctor_claims, doctor_driver, doctor_fix, doctor_holders, doctor_kubelet, doctor_mig
from nvdra.programs.people.finding import LEVELS, Finding, Level, worst
from nvdra.programs.people.local_node import LocalNode, gates_of, open_local_node
from nvdra.programs.people.paper import as_json, counted

_ABOUT = """\
Checks everything that a claim needs on this node, in the order of dependency: driver root, library, kernel module,
NVML, device nodes, driver files, GPUs; kubelet's folders, the plugin's sockets, the CDI hook; the checkpoint, its
locks, the CDI folder; processes that have GPUs open; partitions of GPUs. Each check is ok, a warning or a problem, with
its cause and the next step.
The plugin is called as kubelet calls it, with no claims.

Nothing is repaired or written without --fix. With --fix the command asks about each effect that a half-prepared claim
left on a GPU, and rolls it back if you agree. Devices that claims hold and unmanaged partitions stay.

Exit status: 0 all is well, 1 there are warnings, 2 there are problems (or it was called wrongly); with --fix 0, or 2 if
something could not be taken away."""

_COLOURS: dict[Level, str] = {"ok": "32", "warning": "33", "problem": "31;1"}
_MARGIN = 9 + 17


_FIX = Flag(("fix",), (), False, "ask about each leftover of claims, and take it away if told to", boolean)


def main(argv: Sequence[str]) -> int:
    here, values, _ = open_local_node("doctor", _ABOUT, argv, os.environ, more=(*GATES, _FIX))
    gates = gates_of(values)
    if values["fix"]:
        if here.output == "json":
            raise UsageError("--fix asks: it has no --output json")
        return 0 if asyncio.run(_fix(here, gates)) else 2
    findings = asyncio.run(examine(here, gates))
    level = worst(findings)
    if here.output == "json":
        print(
            as_json(
                {
                    "level": level,
                    "findings": [
                        {"check": one.check, "level": one.level, "text": one.text, "next": one.next} for one in findings
                    ],
                }
            ),
            end="",
        )
    else:
        _print(findings)
    return LEVELS.index(level)


async def _fix(here: LocalNode, gates: Gates) -> bool:
    """Whether there was nothing to roll back, or every rollback that the user agreed to succeeded."""
    inventory = await here.inventory(here.bus(), dynamic_mig=gates.enabled(DYNAMIC_MIG))
    checkpoint = doctor_mig.readable_checkpoint(here)
    if inventory.unread or checkpoint is None:
        print(
            f"nothing can be done before this is put right: {inventory.unread or here.checkpoint_path}", file=sys.stderr
        )
        return False
    leftovers = list(doctor_mig.leftovers(here, inventory, checkpoint))
    if not leftovers:
        print("claims left nothing half done on GPUs")
    return await doctor_fix.fix(here, gates, inventory, leftovers, _ask)


def _ask(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


async def examine(here: LocalNode, gates: Gates) -> list[Finding]:
    """Every finding, in order. A check that fails is a finding too."""
    bus = here.bus()
    passthrough = gates.enabled(PASSTHROUGH_SUPPORT)
    inventory = await here.inventory(bus, dynamic_mig=gates.enabled(DYNAMIC_MIG), passthrough=passthrough)
    answers = await doctor_kubelet.ask(here)
    holders = await doctor_holders.find(here, inventory)
    looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("driver", lambda: doctor_driver.look(here, bus, inventory)),
        ("kubelet", lambda: doctor_kubelet.look(here, answers)),
        ("claims", lambda: doctor_claims.look(here, inventory)),
        (doctor_holders.CHECK, lambda: doctor_holders.look(here, inventory, holders)),
        (doctor_mig.CHECK, lambda: doctor_mig.look(here, inventory)),
    )
    return list(chain.from_iterable(_guarded(name, look) for name, look in looks))


def _guarded(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except OSError as error:
        next_step = "run it as root" if isinstance(error, PermissionError) else ""
        yield Finding(name, "problem", f"cannot be looked at: {error.filename}: {error.strerror}", next_step)


def _print(findings: Sequence[Finding]) -> None:
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    room = max(shutil.get_terminal_size().columns - _MARGIN, 40) if sys.stdout.isatty() else 10_000

    def folded(text: str) -> str:
        return f"\n{'':{_MARGIN}}".join(textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False))

    for one in findings:
        word = one.level.ljust(9)
        if is_coloured:
            word = f"\x1b[{_COLOURS[one.level]}m{word}\x1b[0m"
        print(f"{word}{one.check:17}{folded(one.text)}")
        if one.next:
            print(f"{'':{_MARGIN}}{folded(f'next: {one.next}')}")
    counts = {level: sum(one.level == level for one in findings) for level in LEVELS}
    told = [counted(counts[level], level) for level in ("problem", "warning") if counts[level]]
    print(f"\n{' and '.join(told) if told else 'all is well'}")
