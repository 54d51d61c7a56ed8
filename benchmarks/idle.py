"""Kubelet's waiting time after idle periods, when connections close, caches cool down and memory is paged out.

Several instances of each competitor rest side by side; after the rest each is asked once: one claim, or 8 at once, in
turn. The client that asks has just asked somebody else, as kubelet would have.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from math import nan
from pathlib import Path

from benchmarks import plugin
from benchmarks.api import Api
from benchmarks.floor import Floor, floor
from benchmarks.plugin import Program, Subject
from benchmarks.row import Row, Target

INSTANCES = 8


async def rows(programs: Sequence[Program], api: Api, folder: Path, rests: dict[int, int]) -> list[Row]:
    """rests: seconds of rest, and how often."""
    folder.mkdir()
    async with AsyncExitStack() as stack:
        floors = [
            await stack.enter_async_context(floor(api.kubeconfig, folder / f"floor-{number}"))
            for number in range(INSTANCES)
        ]
        groups = [
            [
                await stack.enter_async_context(
                    plugin.serving(program, api, folder / f"{which}-{number}", f"idle-{which}-{number}")
                )
                for number in range(INSTANCES)
            ]
            for which, program in enumerate(programs)
        ]
        awake = await stack.enter_async_context(plugin.serving(programs[0], api, folder / "awake", "idle-awake"))
        found = []
        for rest_s, times in rests.items():
            found += await _after(rest_s, times, floors, groups, awake, api)
        return found


async def _after(
    rest_s: int, times: int, floors: Sequence[Floor], groups: Sequence[Sequence[Subject]], awake: Subject, api: Api
) -> list[Row]:
    least: list[float] = []
    alone: list[list[float]] = [[] for _ in groups]
    burst: list[list[float]] = [[] for _ in groups]
    for turn in range(-1, times):  # before the first everything is still fresh from its start
        refs = [[await api.claims(subject.pool, subject.devices) for subject in group] for group in groups]
        if turn >= 0:
            await asyncio.sleep(rest_s)
        for number in range(INSTANCES):
            for _ in range(20):
                awake.caller.prepare_s([])
            floor_s = await floors[number].times_s(refs[0][number][:1])
            for which, group in enumerate(groups):
                subject, mine = group[number], refs[which][number]
                is_burst = (number + turn) % 2 == 0
                if is_burst:
                    took_s = subject.caller.prepare_s(*([ref] for ref in mine))
                else:
                    took_s = subject.caller.prepare_s(mine[:1])
                subject.caller.unprepare_s(mine)
                if turn >= 0:
                    (burst if is_burst else alone)[which].append(took_s)
            if turn >= 0:
                least += floor_s
        for each in (ref for group_refs in refs for ref in group_refs):
            await api.delete(each)
    return _rows(rest_s, least, alone, burst, [group[0].name for group in groups])


def _rows(
    rest_s: int, least: list[float], alone: list[list[float]], burst: list[list[float]], names: list[str]
) -> list[Row]:
    after = f"after {rest_s} s of idleness"
    who = names[1] if len(names) > 1 else "no other driver"
    floor_ms = statistics.median(least) * 1e3
    one = [*(statistics.median(each) * 1e3 for each in alone), nan]
    eight = [*(statistics.median(each) * 1e3 for each in burst), nan]
    return [
        Row(f"prepare, one, {after}", one[0], floor_ms, "ms", "other: the floor, as idle", Target(share=2.0)),
        Row(f"8 prepares at once, {after}", eight[0], one[0], "ms", "other: one, as idle", Target(share=4.5)),
        Row(f"prepare, one, {after}", one[0], one[1], "ms", f"other: {who}"),
        Row(f"8 prepares at once, {after}", eight[0], eight[1], "ms", f"other: {who}", Target(share=0.03)),
    ]
