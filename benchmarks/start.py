"""From exec to the first ResourceSlice, as a watcher of the API server sees it."""

from __future__ import annotations

import statistics
import time
from math import nan
from pathlib import Path

from benchmarks.api import Api
from benchmarks.plugin import Program, started
from benchmarks.row import Row, Target


async def first_slice_s(program: Program, api: Api, folder: Path, node: str) -> float:
    folder.mkdir()
    async with started(program, api, folder, node) as running:
        await api.devices(node)
        return time.perf_counter() - running.began


async def rows(programs: list[Program], api: Api, folder: Path, *, rounds: int) -> list[Row]:
    """Programs take turns; the best of several medians would hide what a node sees, so it is the plain median."""
    folder.mkdir()
    taken: dict[str, list[float]] = {program.name: [] for program in programs}
    for number in range(rounds):
        for program in programs:
            place = f"start-{program.name.split()[0].lower()}-{number}"
            taken[program.name].append(await first_slice_s(program, api, folder / place, place))
    ours, *others = (statistics.median(times) for times in taken.values())
    other, name = (others[0], programs[1].name) if others else (nan, "no other driver")
    note = f"other: {name}; median of {rounds}"
    return [Row("exec to the first slice", ours, other, "s", note, Target(share=0.4))]
