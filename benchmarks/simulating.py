"""A fleet of 10,000 nodes of eight GPUs with every MIG placement, under 100,000 claims: load, memory, speed."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from benchmarks.row import Row, Target
from nvdra.api import gates
from nvdra.gpu.shares import NOT_SHARED
from nvdra.programs.people.simulate_claims import generated
from nvdra.programs.people.simulate_fleet import of_types, wanted
from nvdra.programs.people.simulate_run import Scenario, prepared
from nvdra.programs.people.simulate_trace import from_entries

_FLEET = "10000xh100x8"
_PODS = 100_000
_RATE = 25_000.0
"""Pods in an hour: about nine of ten GPUs are in use at the end."""


def rows() -> list[Row]:
    """Seconds, GiB and claims a second, each in a process of its own."""
    load, gibibytes, one, searches = _in_a_process(1)
    _, _, two, _ = _in_a_process(2)
    note = f"{_FLEET} with dynamic MIG, {_PODS:,} claims, one core"
    nan = float("nan")
    return [
        Row("simulate: load the fleet and the claims", load, nan, "s", note, Target(most=10)),
        Row("simulate: memory", gibibytes, nan, "GiB", note, Target(most=1.5)),
        Row("simulate: a claim", 1e6 / one, nan, "µs", f"{one:,.0f}/s; {searches:,.0f} searches", Target(most=200)),
        Row("simulate: a claim of two runs", 1e6 / two, 1e6 / one, "µs", "on two cores; other: on one", Target(0.6)),
    ]


def _in_a_process(threads: int) -> tuple[float, float, float, float]:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_measure, args=(theirs, threads))
    child.start()
    found: tuple[float, float, float, float] = ours.recv() if ours.poll(600) else (float("nan"),) * 4
    child.join(60)
    return found


def _measure(answer: Connection, threads: int) -> None:
    begin = time.perf_counter()
    fleet = of_types([(wanted(_FLEET), gates.parse("DynamicMIG=true"), NOT_SHARED)], 37)
    scenario = Scenario("", fleet, "scheduler", "1.37", (), 0)
    runs = [prepared(scenario, from_entries(generated("mixed", _PODS, _RATE, seed)), seed) for seed in range(threads)]
    load = time.perf_counter() - begin

    def run(number: int) -> None:
        while runs[number].advance(2_000):
            pass

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(threads)))
    seconds = time.perf_counter() - begin
    searches = sum(json.loads(each.summary())["searches"] for each in runs)
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    answer.send((load, int(peak.split()[1]) / (1 << 20), threads * _PODS / seconds, searches))
