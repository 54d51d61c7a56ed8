"""Runs of a simulation: one for each scenario and seed, side by side on threads; Ctrl-C stops them between steps."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from nvdra.allocation import Simulation
from nvdra.programs.people.simulate_fleet import Fleet
from nvdra.programs.people.simulate_trace import Trace, TraceError

_STEP = 2_000
_SHOW_S = 0.2


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fleet and how its nodes are chosen.

    features  allocator features that differ from the release's defaults
    percent   of nodes that an attempt looks for; 0 as the scheduler chooses it
    """

    label: str
    fleet: Fleet
    policy: str
    release: str
    features: tuple[tuple[str, bool], ...]
    percent: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave.

    summary   the engine's figures
    complete  False if it was stopped before its end
    load_s, run_s  how long building the fleet and running took
    """

    scenario: Scenario
    seed: int
    summary: Mapping[str, Any]
    complete: bool
    load_s: float
    run_s: float


def prepared(scenario: Scenario, trace: Trace, seed: int) -> Simulation:
    """Returns a simulation with the fleet and all pods. Raises AllocationError and TraceError."""
    fleet = scenario.fleet
    made = Simulation(scenario.release, scenario.features, scenario.policy, scenario.percent, seed)
    made.add_classes(fleet.classes)
    for group in fleet.groups:
        made.add_nodes(group.slices, group.node, group.names)
    numbers = {name: number for number, name in enumerate(fleet.names)}
    for node, devices in fleet.allocated.items():
        made.occupy(numbers[node], devices)
    for label, specs in trace.kinds.items():
        claims = [{"metadata": {"name": f"{label}-{at}"}, "spec": spec} for at, spec in enumerate(specs)]
        try:
            made.add_template(json.dumps(claims).encode())
        except ValueError as error:
            raise TraceError(f"claims {label!r} of the trace: {error}") from None
    try:
        nodes = [numbers[name] if name else None for name in trace.nodes]
    except KeyError as missing:
        raise TraceError(f"the trace wants node {missing.args[0]}, which the fleet does not have") from None
    made.add_pods(trace.arrivals, trace.durations, trace.kind, nodes)
    return made


class Runner:
    """Runs scenarios on threads. `progress` is called with done and all pods about five times a second."""

    def __init__(self, threads: int, progress: Callable[[int, int], None]) -> None:
        self._threads = threads
        self._progress = progress
        self._stopping = threading.Event()
        self._done: dict[int, tuple[int, int]] = {}

    def run(self, wanted: Sequence[tuple[Scenario, Trace, int]]) -> list[Run]:
        """Returns runs in the order asked for; those not begun before Ctrl-C are left out."""
        with ThreadPoolExecutor(self._threads, "simulate") as pool:
            futures = [pool.submit(self._one, at, *each) for at, each in enumerate(wanted)]
            try:
                self._watch(futures, sum(len(trace) for _, trace, _ in wanted))
            except KeyboardInterrupt:
                self._stopping.set()
            except BaseException:
                self._stopping.set()
                raise
        return [run for future in futures if (run := future.result()) is not None]

    def _watch(self, futures: Sequence[Future[Run | None]], pods: int) -> None:
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, _SHOW_S, FIRST_EXCEPTION)
            for future in finished:
                future.result()
            self._progress(sum(done for done, _ in self._done.values()), pods)

    def _one(self, number: int, scenario: Scenario, trace: Trace, seed: int) -> Run | None:
        if self._stopping.is_set():
            return None
        begin = time.perf_counter()
        made = prepared(scenario, trace, seed)
        loaded = time.perf_counter()
        more = True
        while more and not self._stopping.is_set():
            more = made.advance(_STEP)
            self._done[number] = made.progress()[:2]
        summary = json.loads(made.summary())
        return Run(scenario, seed, summary, not more, loaded - begin, time.perf_counter() - loaded)


def spread(runs: Sequence[Run], figure: Callable[[Mapping[str, Any]], float]) -> tuple[float, float, float]:
    """Mean, least and most of a figure over the runs of one scenario."""
    values = [float(figure(run.summary)) for run in runs]
    if not values:
        return math.nan, math.nan, math.nan
    return sum(values) / len(values), min(values), max(values)
