"""Measure DRA plugins that already run, by their sockets and pids.

    python -m benchmarks.drive --kubeconfig FILE --node NODE --socket PATH/TO/gpu.nvidia.com/dra.sock --pid 123

The run creates claims in the API server of the kubeconfig file and allocates them devices of the node's slices. It
prepares and unprepares them through the socket as kubelet does, then deletes them. Give the last three options twice
to measure two plugins in turns, so that their ratio means something. Do not point it at a node whose devices are in
use.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from benchmarks import api, serving, table
from benchmarks.floor import floor
from benchmarks.plugin import Subject
from benchmarks.row import Row


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drive", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of the API server that the plugins use")
    parser.add_argument("--node", action="append", required=True, help="the plugin's node (repeatable)")
    parser.add_argument("--socket", action="append", required=True, help="its DRA socket (repeatable)")
    parser.add_argument("--pid", action="append", type=int, required=True, help="its process, for CPU (repeatable)")
    parser.add_argument("--name", action="append", default=[], help="what to call it (repeatable)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=80, help="claims a round, one at a time")
    parser.add_argument("--bursts", type=int, default=5, help="times a round that all devices are asked for at once")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    chosen = parser.parse_args(arguments)
    if not len(chosen.node) == len(chosen.socket) == len(chosen.pid) <= 2:
        parser.error("give --node, --socket and --pid equally often, at most twice")
    chosen.name += ["first", "second"][len(chosen.name) : len(chosen.node)]
    return chosen


async def run(chosen: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with api.reached(chosen.kubeconfig) as server, floor(chosen.kubeconfig, Path(folder) / "floor") as least:
            subjects = [
                Subject(name, pid, socket, node, (await server.devices(node))[:8])
                for name, pid, socket, node in zip(chosen.name, chosen.pid, chosen.socket, chosen.node, strict=True)
            ]
            taken: dict[str, serving.Rounds] = {}
            await serving.measure(
                subjects, least, server, taken, rounds=chosen.rounds, cycles=chosen.cycles, bursts=chosen.bursts
            )
            found = serving.rows(taken, chosen.name)
            for subject in subjects:
                found.append(Row(f"memory (RSS) now, {subject.name}", subject.rss_mib(), float("nan"), "MiB", ""))
            return found


def main() -> None:
    chosen = options()
    found = uvloop.run(run(chosen))
    print(table.as_json(found) if chosen.output == "json" else f"{table.text(found)}\n\n{table.summary(found)}")


if __name__ == "__main__":
    main()
