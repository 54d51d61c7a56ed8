"""How long kubelet waits: claims prepared and taken back one at a time, at once, in one call; beside the floor.

Competitors take turns, so that other load on the machine affects all of them. Load only slows things down, so a
figure is the lowest of the rounds' medians (of their 99th percentiles).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan

from benchmarks.api import Api
from benchmarks.floor import Floor
from benchmarks.plugin import Subject
from benchmarks.row import Row, Target


@dataclass(slots=True)
class Rounds:
    """Seconds, one list a round."""

    prepare: list[list[float]] = field(default_factory=list)
    unprepare: list[list[float]] = field(default_factory=list)
    empty: list[list[float]] = field(default_factory=list)
    again: list[list[float]] = field(default_factory=list)
    prepares_at_once: list[list[float]] = field(default_factory=list)
    unprepares_at_once: list[list[float]] = field(default_factory=list)
    one_call: list[list[float]] = field(default_factory=list)
    cpu: list[list[float]] = field(default_factory=list)


def p50_ms(rounds: Sequence[Sequence[float]]) -> float:
    return min(map(statistics.median, rounds)) * 1e3 if rounds else nan


def p99_ms(rounds: Sequence[Sequence[float]]) -> float:
    return min(sorted(each)[int(len(each) * 0.99)] for each in rounds) * 1e3 if rounds else nan


async def measure(
    subjects: Sequence[Subject],
    floor: Floor,
    api: Api,
    taken: dict[str, Rounds],
    *,
    rounds: int,
    cycles: int,
    bursts: int,
) -> None:
    """Adds rounds to `taken`, which is by subject's name and "floor"."""
    for name in ("floor", *(subject.name for subject in subjects)):
        taken.setdefault(name, Rounds())
    for number in range(-1, rounds):  # the first only warms
        kept = taken if number >= 0 else {name: Rounds() for name in taken}
        await _one_at_a_time(subjects, floor, api, kept, cycles)
        for subject in subjects:
            await _several(subject, api, kept[subject.name], bursts)


async def _one_at_a_time(
    subjects: Sequence[Subject], floor: Floor, api: Api, taken: dict[str, Rounds], cycles: int
) -> None:
    """Turn by turn, claim by claim: each finds caches, disk and API server as the others left them."""
    refs = {
        subject.name: await api.claims(
            subject.pool, [subject.devices[number % len(subject.devices)] for number in range(cycles)]
        )
        for subject in subjects
    }
    cpu_s = {subject.name: subject.cpu_s() for subject in subjects}
    times = {name: Rounds([[]], [[]], [[]]) for name in taken}
    for number in range(cycles):
        times["floor"].prepare[0] += await floor.times_s([refs[subjects[0].name][number]])
        for turn in range(len(subjects)):
            subject = subjects[(number + turn) % len(subjects)]
            ref, mine = refs[subject.name][number], times[subject.name]
            mine.prepare[0].append(subject.caller.prepare_s([ref]))
            mine.unprepare[0].append(subject.caller.unprepare_s([ref]))
            mine.empty[0].append(subject.caller.prepare_s([]))
    for name, mine in times.items():
        taken[name].prepare += mine.prepare
        taken[name].unprepare += mine.unprepare
        taken[name].empty += mine.empty
    for subject in subjects:
        taken[subject.name].cpu.append([(subject.cpu_s() - cpu_s[subject.name]) / cycles])
        await api.delete(refs[subject.name])


async def _several(subject: Subject, api: Api, taken: Rounds, bursts: int) -> None:
    prepares, unprepares, one_call, again = [], [], [], []
    for _ in range(bursts):
        refs = await api.claims(subject.pool, subject.devices)
        each = [[ref] for ref in refs]
        prepares.append(subject.caller.prepare_s(*each))
        again += [subject.caller.prepare_s(one) for one in each]
        unprepares.append(subject.caller.unprepare_s(*each))
        one_call.append(subject.caller.prepare_s(refs))
        subject.caller.unprepare_s(refs)
        await api.delete(refs)
    taken.prepares_at_once.append(prepares)
    taken.unprepares_at_once.append(unprepares)
    taken.one_call.append(one_call)
    taken.again.append(again)


def rows(taken: dict[str, Rounds], names: Sequence[str]) -> list[Row]:
    """`names`: ours, and the other driver if one was measured beside it."""
    ours, beside = taken[names[0]], taken[names[1]] if len(names) > 1 else Rounds()
    who = names[1] if len(names) > 1 else "no other driver"

    def row(question: str, mine: float, its: float, share: float | None, note: str = "") -> Row:
        text = f"other: {who}; {note}" if note else f"other: {who}"
        return Row(question, mine, its, "ms", text, None if share is None else Target(share=share))

    alone, cpu_ms = p50_ms(ours.prepare), [statistics.mean(x for [x] in r.cpu) * 1e3 for r in (ours, beside) if r.cpu]
    floor = p50_ms(taken["floor"].prepare)
    burst = p50_ms(ours.prepares_at_once)
    return [
        Row("prepare, one at a time, p50", alone, floor, "ms", "other: the floor", Target(share=2.0)),
        Row(
            "prepare, one at a time, p99",
            p99_ms(ours.prepare),
            p99_ms(taken["floor"].prepare),
            "ms",
            "other: the floor",
        ),
        Row("8 prepares at once, last answer, p50", burst, alone, "ms", "other: one alone", Target(share=4.5)),
        row("prepare, one at a time, p50", alone, p50_ms(beside.prepare), None),
        row("prepare, one at a time, p99", p99_ms(ours.prepare), p99_ms(beside.prepare), None),
        row("unprepare, one at a time, p50", p50_ms(ours.unprepare), p50_ms(beside.unprepare), 1.15),
        row("unprepare, one at a time, p99", p99_ms(ours.unprepare), p99_ms(beside.unprepare), None),
        row("8 prepares at once, last answer, p50", burst, p50_ms(beside.prepares_at_once), 0.03),
        row(
            "8 unprepares at once, last answer, p50",
            p50_ms(ours.unprepares_at_once),
            p50_ms(beside.unprepares_at_once),
            0.02,
        ),
        row("8 claims in one call, p50", p50_ms(ours.one_call), p50_ms(beside.one_call), 0.2),
        row("a prepared claim asked again, p50", p50_ms(ours.again), p50_ms(beside.again), 0.6),
        row(
            "a call without claims, p50",
            p50_ms(ours.empty),
            p50_ms(beside.empty),
            None,
            "how much of each is transport",
        ),
        row("CPU per prepare and unprepare", cpu_ms[0], cpu_ms[1] if len(cpu_ms) > 1 else nan, 0.8),
    ]
