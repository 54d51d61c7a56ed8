"""Resident memory of a fresh plugin after 400 prepared and unprepared claims, and its growth until the 2,000th."""

from __future__ import annotations

from math import nan
from pathlib import Path

from benchmarks.api import Api
from benchmarks.plugin import Program, Subject
from benchmarks.plugin import serving as started
from benchmarks.row import Row, Target

FIRST, LAST = 400, 2000
_BLOCK = 40


async def cycles(subject: Subject, api: Api, count: int) -> None:
    """So many claims, each another one, prepared and taken back."""
    for first in range(0, count, _BLOCK):
        numbers = range(first, min(first + _BLOCK, count))
        refs = await api.claims(subject.pool, [subject.devices[number % len(subject.devices)] for number in numbers])
        for ref in refs:
            subject.caller.prepare_s([ref])
            subject.caller.unprepare_s([ref])
        await api.delete(refs)


async def rows(programs: list[Program], api: Api, folder: Path, *, with_growth: bool) -> list[Row]:
    folder.mkdir()
    idle, early, late = [], [], []
    for number, program in enumerate(programs):
        async with started(program, api, folder / str(number), f"memory-{number}") as subject:
            idle.append(subject.rss_mib())
            await cycles(subject, api, FIRST)
            early.append(subject.rss_mib())
            if with_growth:
                await cycles(subject, api, LAST - FIRST)
                late.append(subject.rss_mib())
    name = programs[1].name if len(programs) > 1 else "no other driver"
    note = f"other: {name}; 8 GPUs on the mock, -v 4"
    for figures in (idle, early, late):
        figures.append(nan)
    found = [
        Row("memory (RSS) after the start", idle[0], idle[1], "MiB", note),
        Row(f"memory (RSS) after {FIRST} cycles", early[0], early[1], "MiB", note, Target(most=60.0)),
    ]
    if with_growth:
        grown = [after - before for after, before in zip(late, early, strict=True)]
        found.append(Row(f"growth from cycle {FIRST} to {LAST}", grown[0], grown[1], "MiB", note, Target(most=1.0)))
    return found
