"""All promised figures as one table: `make bench`, or `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from benchmarks import (
    allocation,
    announce,
    api,
    core,
    counts,
    explaining,
    holders,
    idle,
    memory,
    mig,
    plugin,
    reviews,
    scan,
    serving,
    start,
    table,
)
from benchmarks.floor import floor
from benchmarks.row import Row

QUESTIONS = {"counts", "serving", "idle", "start", "memory", "mig", "scan", "announce", "core", "reviews"}
QUESTIONS |= {"allocation", "explaining", "holders"}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="within a minute: fewer rounds, nothing after idleness")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument("--other", type=Path, help="another driver's gpu-kubelet-plugin, measured beside ours")
    parser.add_argument("--other-name", default="the other driver", help="what to call it")
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--kubeconfig", type=Path, help="use this API server (default: a stand-in on loopback)")
    server.add_argument("--control-plane", type=Path, metavar="FOLDER", help="start FOLDER's etcd and kube-apiserver")
    parser.add_argument("--only", default="", help=f"some of: {', '.join(sorted(QUESTIONS))} (separated by commas)")
    chosen = parser.parse_args(arguments)
    if unknown := set(filter(None, chosen.only.split(","))) - QUESTIONS:
        parser.error(f"--only: no question is called {', '.join(sorted(unknown))}")
    return chosen


async def run(chosen: argparse.Namespace, wanted: set[str]) -> list[Row]:
    """All benchmarks that need plugins and an API server."""
    programs = [plugin.ours()]
    if chosen.other:
        programs.append(plugin.other(chosen.other_name, chosen.other))
    found: list[Row] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        if "counts" in wanted:
            found += await counts.rows(folder / "counts")
        if chosen.kubeconfig:
            kubeconfig = chosen.kubeconfig
        elif chosen.control_plane:
            kubeconfig = stack.enter_context(api.control_plane(folder / "api", chosen.control_plane))
        else:
            kubeconfig = stack.enter_context(api.stand_in(folder / "api"))
        await api.ready(kubeconfig)
        server = await stack.enter_async_context(api.reached(kubeconfig))
        if "serving" in wanted:
            found += await _serving(programs, server, folder / "serving", is_quick=chosen.quick)
        if "idle" in wanted and not chosen.quick:
            found += await idle.rows(programs, server, folder / "idle", {60: 4, 120: 3})
        if "start" in wanted:
            found += await start.rows(programs, server, folder / "start", rounds=3 if chosen.quick else 9)
        if "memory" in wanted:
            found += await memory.rows(programs, server, folder / "memory", with_growth=not chosen.quick)
        if "mig" in wanted:
            found += await mig.rows(server, folder / "mig", with_churn=not chosen.quick)
    return found


async def _serving(programs: list[plugin.Program], server: api.Api, folder: Path, *, is_quick: bool) -> list[Row]:
    """Repeated in fresh folders, because a folder's position on the disk affects the cost of files in it."""
    folder.mkdir()
    taken: dict[str, serving.Rounds] = {}
    sittings, rounds, cycles, bursts = (2, 2, 40, 3) if is_quick else (5, 3, 80, 6)
    for sitting in range(sittings):
        place = folder / str(sitting)
        place.mkdir()
        async with AsyncExitStack() as running:
            least = await running.enter_async_context(floor(server.kubeconfig, place / "floor"))
            subjects = [
                await running.enter_async_context(
                    plugin.serving(program, server, place / str(number), f"serving-{sitting}-{number}")
                )
                for number, program in enumerate(programs)
            ]
            await serving.measure(subjects, least, server, taken, rounds=rounds, cycles=cycles, bursts=bursts)
    return serving.rows(taken, [program.name for program in programs])


def main() -> None:
    """Always status 0: a miss is a figure, not a failure."""
    chosen = options()
    wanted = set(filter(None, chosen.only.split(","))) or QUESTIONS
    found = uvloop.run(run(chosen, wanted))
    if "reviews" in wanted:
        found += uvloop.run(reviews.rows(is_quick=chosen.quick))
    if "scan" in wanted:
        found += scan.rows()
    if "announce" in wanted:
        found += announce.rows()
    if "core" in wanted:
        found += core.rows()
    if "holders" in wanted:
        found += holders.rows()
    if "allocation" in wanted:
        found += allocation.rows()
    if "explaining" in wanted and not chosen.quick:
        found += explaining.rows()
    print(table.as_json(found) if chosen.output == "json" else f"{table.text(found)}\n\n{table.summary(found)}")


if __name__ == "__main__":
    main()
