"""Plots of a simulation, and a report that is one HTML file: matplotlib draws, nothing is loaded from anywhere."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvdra.programs.people.simulate_page import grouped, kinds, page
from nvdra.programs.people.simulate_run import Run

_TITLE = "nvdra simulate"
_PANELS = (
    ("gpus", "GPUs in use", "share of GPUs"),
    ("memory", "GPU memory in use", "share of memory"),
    ("fragmentation", "Fragmentation: free memory on GPUs that are in use", "share of free memory"),
    ("waiting", "Pods waiting", "pods"),
)
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #20242c; }
pre { background: #f4f5f7; padding: 1rem; white-space: pre-wrap; font-size: 13px; }
figure { margin: 1.5rem 0; } svg { max-width: 100%; height: auto; } .partial { color: #a40000; font-weight: bold; }
"""


class ReportError(Exception):
    """A plot or report cannot be made; the text is for people."""


def picture(runs: Sequence[Run], path: Path) -> None:
    """Writes one picture with all plots; the suffix .svg or .png decides about the format."""
    _write(path, _drawn(runs, range(len(_PANELS)), path.suffix.removeprefix("."), columns=2))


def report(runs: Sequence[Run], labels: Sequence[str], words: Sequence[str], partial: str, path: Path) -> None:
    """Writes one HTML file with tables and plots; `words` are lines on how the runs were made."""
    figures = []
    for at, (_, title, _) in enumerate(_PANELS):
        drawn = _drawn(runs, [at], "svg", columns=1).decode()
        figures.append(f'<figure aria-label="{html.escape(title)}">{drawn[drawn.index("<svg") :]}</figure>')
    warning = f'<p class="partial">{html.escape(partial)}</p>' if partial else ""
    body = "\n".join(
        [
            f"<h1>{_TITLE}</h1>",
            f"<pre>{html.escape(chr(10).join(words))}</pre>",
            warning,
            f"<pre>{html.escape(page(runs))}</pre>",
            *figures,
            f"<pre>{html.escape(kinds(runs, labels))}</pre>",
        ]
    )
    head = f'<meta charset="utf-8"><title>{_TITLE}</title><link rel="icon" href="data:,"><style>{_STYLE}</style>'
    _write(path, f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'.encode())


def check() -> None:
    """Raises ReportError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ReportError(
            "plots and reports need matplotlib, which is not installed: pip install 'dra-driver-nvidia-gpu[plots]'"
        ) from None


def _drawn(runs: Sequence[Run], panels: Sequence[int], kind: str, *, columns: int) -> bytes:
    check()
    import matplotlib

    matplotlib.use("agg")
    # Without these, two drawings of the same figures differ.
    matplotlib.rcParams["svg.hashsalt"] = _TITLE
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.6 * columns + 1.4, 3.0 * rows), layout="constrained")
    for place, panel in enumerate(panels):
        _panel(figure.add_subplot(rows, columns, place + 1), runs, *_PANELS[panel])
    out = io.BytesIO()
    metadata = {"Date": None, "Creator": _TITLE} if kind == "svg" else {"Software": _TITLE}
    figure.savefig(out, format=kind, dpi=120, metadata=metadata)
    return out.getvalue()


def _panel(axes: Any, runs: Sequence[Run], key: str, title: str, unit: str) -> None:
    groups = grouped(runs)
    for index, (label, of) in enumerate(groups):
        for number, run in enumerate(of):
            series = run.summary["series"]
            hours = [seconds / 3600 for seconds in series["time"]]
            name = label if number == 0 else None
            if key != "waiting":
                axes.plot(hours, series[key], label=name, color=f"C{index}", linewidth=1.4)
            elif len(runs) == 1 and series["waiting"]:
                axes.stackplot(hours, *series["waiting"].values(), labels=list(series["waiting"]))
            else:
                waiting = [sum(each) for each in zip(*series["waiting"].values(), strict=True)] or [0] * len(hours)
                axes.plot(hours, waiting, label=name, color=f"C{index}", linewidth=1.4)
    if key != "waiting":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("hours")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    if len(groups) > 1 or key == "waiting":
        axes.legend(fontsize=8)


def _write(path: Path, content: bytes) -> None:
    """Replaces the file in one step; a device or pipe is written to as it is. Raises ReportError."""
    is_special = path.exists() and not path.is_file()
    draft = path if is_special else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            if draft is not path:
                file.flush()
                os.fsync(file.fileno())
        if draft is not path:
            draft.replace(path)
    except OSError as error:
        if draft is not path:
            draft.unlink(missing_ok=True)
        raise ReportError(f"{path} cannot be written: {error.strerror}; nothing was left there") from None
