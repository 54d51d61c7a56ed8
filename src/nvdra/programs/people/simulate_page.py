"""The answer of a simulation as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nvdra.programs.people.paper import counted, table
from nvdra.programs.people.simulate_run import Run, spread

Summary = Mapping[str, Any]


def span(seconds: float) -> str:
    """A time for the eye: 45s, 12m, 3.5h, 2.0d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"


# What a row is called, the figure, and how it is written.
ROWS: Sequence[tuple[str, Callable[[Summary], float], Callable[[float], str]]] = (
    ("nodes", lambda s: s["fleet"]["nodes"], lambda v: f"{v:,.0f}"),
    ("GPUs", lambda s: s["fleet"]["gpus"], lambda v: f"{v:,.0f}"),
    ("pods placed", lambda s: s["pods"]["placed"], lambda v: f"{v:,.0f}"),
    ("  after waiting", lambda s: s["pods"]["delayed"], lambda v: f"{v:,.0f}"),
    ("pods never placed", lambda s: s["pods"]["waiting"] + s["pods"]["never"], lambda v: f"{v:,.0f}"),
    ("wait, mean", lambda s: s["wait"]["mean"], span),
    ("wait, 95 of 100 below", lambda s: s["wait"]["p95"], span),
    ("wait, longest", lambda s: s["wait"]["max"], span),
    ("GPUs in use, mean", lambda s: s["means"]["gpus"], lambda v: f"{v:.1%}"),
    ("memory in use, mean", lambda s: s["means"]["memory"], lambda v: f"{v:.1%}"),
    ("fragmentation, mean", lambda s: s["means"]["fragmentation"], lambda v: f"{v:.1%}"),
    ("pods waiting, mean", lambda s: s["means"]["waiting"], lambda v: f"{v:,.1f}"),
    ("pods waiting, most", lambda s: s["means"]["peakWaiting"], lambda v: f"{v:,.0f}"),
)


def grouped(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs by the label of their scenario, in the order of the labels."""
    made: dict[str, list[Run]] = {}
    for run in runs:
        made.setdefault(run.scenario.label, []).append(run)
    return list(made.items())


def page(runs: Sequence[Run]) -> str:
    """Returns the tables: figures by scenario, refusals by cause, kinds of pods."""
    groups = grouped(runs)
    first = runs[0]
    seeds = sorted({run.seed for run in runs})
    profile = first.summary["profile"]
    text = f"as kube-scheduler {profile['patch']} allocates ({profile['variant']}); "
    text += f"{counted(first.summary['pods']['all'], 'pod')}; seed {', '.join(map(str, seeds))}\n\n"
    head = ["", *(label for label, _ in groups)]
    rows = [[name, *(_cell(of, figure, write) for _, of in groups)] for name, figure, write in ROWS]
    codes = sorted({code for run in runs for code in run.summary["refused"]})
    rows += [[f"refused: {code}", *(_cell(of, _refused(code), _number) for _, of in groups)] for code in codes]
    return text + table(head, rows)


def kinds(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Returns a table of how each kind of pod fared, by scenario."""
    rows = []
    errors = []
    for at, kind in enumerate(labels):
        for label, of in grouped(runs):
            found = [run.summary["templates"][at] for run in of]
            pods = sum(one["pods"] for one in found)
            if not pods:
                continue
            placed = sum(one["placed"] for one in found)
            waits = [span(sum(one["wait"][key] for one in found) / len(found)) for key in ("mean", "p95", "max")]
            rows.append([kind, label, f"{pods:,}", f"{placed / pods:.1%}", *waits])
            errors += [f"{kind}: {one['error']}" for one in found if one["error"]]
    text = table(["CLAIMS", "SCENARIO", "PODS", "PLACED", "MEAN WAIT", "P95", "LONGEST"], rows)
    return text + "".join(f"{line}\n" for line in dict.fromkeys(errors))


def _cell(runs: Sequence[Run], figure: Callable[[Summary], float], write: Callable[[float], str]) -> str:
    mean, least, most = spread(runs, figure)
    return write(mean) if least == most else f"{write(mean)} ({write(least)} to {write(most)})"


def _refused(code: str) -> Callable[[Summary], float]:
    return lambda summary: summary["refused"].get(code, 0)


def _number(value: float) -> str:
    return f"{value:,.0f}"


def document(runs: Sequence[Run], labels: Sequence[str], partial: str) -> dict[str, Any]:
    """The answer for scripts. Times of the machine are left out: the same seed gives the same document."""
    return {
        "partial": partial or None,
        "claims": list(labels),
        "scenarios": [
            {
                "label": label,
                "policy": of[0].scenario.policy,
                "runs": [{"seed": run.seed, "complete": run.complete, **_named(run.summary, labels)} for run in of],
            }
            for label, of in grouped(runs)
        ],
    }


def _named(summary: Summary, labels: Sequence[str]) -> dict[str, Any]:
    kinds = [{"claims": label, **one} for label, one in zip(labels, summary["templates"], strict=True)]
    return {**{key: value for key, value in summary.items() if key != "searches"}, "templates": kinds}
