"""nvdra simulate: how a fleet would serve a stream of pods; several fleets, policies or feature sets side by side."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvdra.allocation import AllocationError
from nvdra.programs.flags import Flag, UsageError, boolean, integer, number, parse_words
from nvdra.programs.people.forecast_slices import ForecastError
from nvdra.programs.people.paper import as_json
from nvdra.programs.people.simulate_claims import MIXES, generated
from nvdra.programs.people.simulate_fleet import FleetError
from nvdra.programs.people.simulate_page import document, kinds, page
from nvdra.programs.people.simulate_replay import replay
from nvdra.programs.people.simulate_report import ReportError, check, picture, report
from nvdra.programs.people.simulate_run import Run, Runner, Scenario
from nvdra.programs.people.simulate_scenario import SCENARIO, scenario
from nvdra.programs.people.simulate_trace import Trace, TraceError, as_csv, from_entries, read

_ABOUT = """\
How a fleet serves a stream of pods: each pod is placed by kube-scheduler's own allocator, waits while nothing fits,
and gives its devices back when it ends. The fleet is made of node types (nvdra forecast --list) or read from a dump;
the pods come from a trace file or from a mix.

  nvdra simulate --nodes 100xh100x8 --mix mixed --pods 20000 --rate 400
  nvdra simulate --nodes 100xh100x8 --trace week.csv --report week.html
  nvdra simulate --nodes 100xh100x8 --trace week.csv --compare '--nodes 100xh100x8@DynamicMIG=true'
  nvdra simulate --dump cluster.json --trace week.csv        the nodes of a live cluster, and its claims
  nvdra simulate --dump cluster.json --replay                does the allocator choose what the scheduler chose?

The same seed gives the same answer. What is modelled and what is not: docs/guide/simulate.md.

Exit status: 0, 1 if --replay finds a difference, 2 if called wrongly, 3 if it cannot be told, 130 after Ctrl-C."""

_BAR = 30


def _one_of(*choices: str) -> Any:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


def _above(parse: Any, least: float) -> Any:
    def checked(text: str) -> Any:
        value = parse(text)
        if value < least:
            raise ValueError(f"must be at least {least:g}")
        return value

    return checked


def _picture(text: str) -> str:
    if text and Path(text).suffix not in (".svg", ".png"):
        raise ValueError("must end in .svg or .png")
    return text


_FLAGS = (
    *SCENARIO,
    Flag(("trace",), (), "", "file of pods, .csv or .json (docs/guide/simulate.md)"),
    Flag(("mix",), (), "", f"pods made up instead: {', '.join(MIXES)}", _one_of(*MIXES)),
    Flag(("pods",), (), 10_000, "pods of the mix", _above(integer, 1)),
    Flag(("rate",), (), 100.0, "pods of the mix that arrive in an hour", _above(number, 0.001)),
    Flag(("write-trace",), (), "", "write the mix's pods to this .csv file"),
    Flag(("seed",), (), (), "decides ties and the mix; several give several runs", integer, repeats=True),
    Flag(("compare",), (), (), "options of another scenario, which replace those given", repeats=True),
    Flag(("replay",), (), False, "allocate the dump's claims anew, each on its node, and compare", boolean),
    Flag(("threads",), (), os.cpu_count() or 1, "runs at a time", _above(integer, 1)),
    Flag(("report",), (), "", "write tables and plots to this HTML file"),
    Flag(("plot",), (), "", "write the plots to this .svg or .png file", _picture),
    Flag(("progress",), (), False, "show progress even if standard error is no terminal", boolean),
    Flag(("output", "o"), (), "text", "text or json", _one_of("text", "json")),
)


def main(argv: Sequence[str]) -> int:
    values, words = parse_words("nvdra simulate", _ABOUT, _FLAGS, argv, os.environ, usage="nvdra simulate [OPTIONS]")
    if words:
        raise UsageError(f"arguments not supported: {' '.join(words)}")
    seeds = _seeds(values)
    try:
        if values["replay"]:
            return replay(values)
        if not values["trace"] and not values["mix"]:
            raise UsageError("give the pods: --trace FILE or --mix NAME")
        if values["trace"] and values["mix"]:
            raise UsageError("--trace and --mix exclude each other")
        if values["report"] or values["plot"]:
            check()
        traces = _traces(values, seeds)
        scenarios = _scenarios(values, next(iter(traces.values())))
        return _run(values, argv, scenarios, traces)
    except (AllocationError, FleetError, ForecastError, TraceError, ReportError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"Error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 3


def _seeds(values: Mapping[str, Any]) -> Sequence[int]:
    seeds: Sequence[int] = values["seed"] or (1,)
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} is not between 0 and 2^63")
        if seeds.count(seed) > 1:
            raise UsageError(f"seed {seed} is given twice: its runs would be equal")
    return seeds


def _traces(values: Mapping[str, Any], seeds: Sequence[int]) -> dict[int, Trace]:
    """The trace by seed. Raises TraceError and OSError."""
    if values["trace"]:
        trace = read(Path(values["trace"]))
        return dict.fromkeys(seeds, trace)
    made = {
        seed: from_entries(generated(str(values["mix"]), int(values["pods"]), float(values["rate"]), seed))
        for seed in seeds
    }
    if values["write_trace"]:
        Path(values["write_trace"]).write_text(as_csv(made[seeds[0]]), encoding="utf-8")
    return made


def _scenarios(values: Mapping[str, Any], trace: Trace) -> list[Scenario]:
    keeps = json.dumps(list(trace.kinds.values()))
    made = [scenario("A" if values["compare"] else "fleet", values, keeps)]
    for at, text in enumerate(values["compare"]):
        try:
            tokens = shlex.split(text)
        except ValueError as error:
            raise UsageError(f"--compare {text!r}: {error}") from None
        other, words = parse_words("--compare", "", SCENARIO, tokens, {})
        if words or not tokens:
            raise UsageError(f"--compare {text!r}: give options such as '--policy packing'")
        given = [flag.key for flag in SCENARIO if any(_names(flag, token) for token in tokens)]
        # A fleet is one of types or one of a dump.
        cleared = {"nodes": (), "dump": ""} if {"nodes", "dump"} & set(given) else {}
        merged = {**values, **cleared, **{key: other[key] for key in given}}
        made.append(scenario(chr(ord("B") + at), merged, keeps))
    return made


def _names(flag: Flag, token: str) -> bool:
    return any(token == f"--{name}" or token.startswith(f"--{name}=") for name in flag.names)


def _run(
    values: Mapping[str, Any], argv: Sequence[str], scenarios: Sequence[Scenario], traces: Mapping[int, Trace]
) -> int:
    for note in dict.fromkeys(note for each in scenarios for note in each.fleet.notes):
        print(f"Note: {note}", file=sys.stderr)
    shows = bool(values["progress"]) or sys.stderr.isatty()
    runner = Runner(int(values["threads"]), _bar if shows else lambda done, pods: None)
    runs = runner.run([(each, trace, seed) for each in scenarios for seed, trace in traces.items()])
    if shows:
        print(file=sys.stderr)
    if not runs:
        print("Error: stopped by Ctrl-C before a run began", file=sys.stderr)
        return 130
    partial = _partial(runs, len(scenarios) * len(traces))
    labels = next(iter(traces.values())).labels
    if values["output"] == "json":
        print(as_json(document(runs, labels, partial)), end="")
    else:
        print(f"{partial}\n\n" if partial else "", page(runs), "\n", kinds(runs, labels), sep="", end="")
        print("".join(f"{line}\n" for line in _differences(values)), end="")
    sys.stdout.flush()
    if values["plot"]:
        picture(runs, Path(values["plot"]))
    if values["report"]:
        words = [shlex.join(["nvdra", "simulate", *argv]), *_differences(values)]
        report(runs, labels, words, partial, Path(values["report"]))
    if partial:
        print(f"Error: {partial}", file=sys.stderr)
        return 130
    return 0


def _differences(values: Mapping[str, Any]) -> list[str]:
    """What each scenario but the first has of its own."""
    return [f"{chr(ord('B') + at)} is A with {text}" for at, text in enumerate(values["compare"])]


def _partial(runs: Sequence[Run], count: int) -> str:
    unfinished = [run for run in runs if not run.complete]
    if not unfinished and len(runs) == count:
        return ""
    arrived = sum(run.summary["pods"]["arrived"] for run in runs)
    return (
        f"stopped by Ctrl-C: these are PARTIAL results of {len(runs)} of {count} runs, after {arrived:,} arrivals; "
        "run it again for all"
    )


def _bar(done: int, pods: int) -> None:
    filled = _BAR * done // max(pods, 1)
    print(f"\r[{'#' * filled:{_BAR}}] {done:,} of {pods:,} pods", end="", file=sys.stderr, flush=True)
