"""What a scan of eight GPUs costs: ours, the same walk with NVIDIA's Python binding, and in bare C; with the tables of
how GPUs can be partitioned, too.

`python -m benchmarks.scan [LIBRARY]` prints the rows of another node, a real one too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.announce import eight_h200
from benchmarks.row import THREE_TIMES, Row
from nvdra._nvml import Library, Sweep  # noqa: TID251 - one row is about the binding itself
from nvdra.nvml import Nvml
from tests.contract import nvml_oracle
from tests.contract.clocks import LoopClock

ROUNDS, WALKS = 7, 100
SOURCE = Path(__file__).with_suffix(".c")


def rows() -> list[Row]:
    from nvdra_mock_nvml import lay_out

    with tempfile.TemporaryDirectory() as folder:
        root = lay_out(Path(folder) / "root", "h100x8", device_files="regular")
        plain = rows_of(root.library.resolve(), "mock, 8 × H100")
        root = lay_out(Path(folder) / "h200x8", str(eight_h200(Path(folder))), device_files="regular")
        return plain + rows_with_profiles(root.library.resolve(), "mock, 8 × H200")


def rows_with_profiles(library: Path, node: str) -> list[Row]:
    """The walk that announces partitions: both read the tables once for all GPUs of a model."""
    taken: dict[str, list[float]] = {"ours": [], "pynvml": []}
    for _ in range(ROUNDS):
        taken["ours"].append(asyncio.run(ours_s(library, profiles=True)))
        taken["pynvml"].append(pynvml_s(library, "profiles", "by-model"))
    ours, pynvml = (statistics.median(taken[name]) * 1e3 for name in ("ours", "pynvml"))
    note = "other: the same walk with pynvml, tables read once a model too"
    return [Row(f"scan with profiles and placements, {node}", ours, pynvml, "ms", note, THREE_TIMES)]


def rows_of(library: Path, node: str) -> list[Row]:
    """The median walk of each competitor, of rounds taken in turn: what the machine does meanwhile hits all alike."""
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(Path(folder))
        taken: dict[str, list[float]] = {"ours": [], "sweep": [], "pynvml": [], "C": []}
        for _ in range(ROUNDS):
            taken["ours"].append(asyncio.run(ours_s(library)))
            taken["sweep"].append(sweep_s(library))
            taken["pynvml"].append(pynvml_s(library))
            if program is not None:
                taken["C"].append(bare_s(program, library))
    ours, sweep, pynvml = (statistics.median(taken[name]) * 1e3 for name in ("ours", "sweep", "pynvml"))
    found = [Row(f"scan, {node}", ours, pynvml, "ms", "other: the same walk with pynvml", THREE_TIMES)]
    if taken["C"]:
        bare = statistics.median(taken["C"]) * 1e3
        note = "other: bare C, which makes no values; ours has two turns of threads and the values in it"
        found.append(Row(f"scan, {node}", ours, bare, "ms", note))
        found.append(Row(f"the calls of a scan, {node}", sweep, bare, "ms", "other: bare C"))
    return found


async def ours_s(library: Path, *, profiles: bool = False) -> float:
    """`Nvml.scan` while the lease lasts: the thread, the sweep and the values are in it."""
    session = Nvml(lambda: str(library), LoopClock())
    await session.scan()
    walks_s = []
    for _ in range(WALKS):
        began = time.perf_counter()
        await session.scan(profiles=profiles)
        walks_s.append(time.perf_counter() - began)
    await session.close()
    return statistics.median(walks_s)


def sweep_s(library: Path) -> float:
    """The calls alone, without the GIL."""
    loaded = Library(str(library))
    loaded.init()
    walks_s = []
    for _ in range(WALKS):
        sweep = Sweep(loaded)
        began = time.perf_counter()
        sweep.run()
        walks_s.append(time.perf_counter() - began)
    loaded.shutdown()
    return statistics.median(walks_s)


def pynvml_s(library: Path, *options: str) -> float:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    command = [sys.executable, nvml_oracle.__file__, str(WALKS), *options]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(statistics.median(json.loads(done.stdout)["walks_s"]))


def bare_s(program: Path, library: Path) -> float:
    done = subprocess.run([program, library, str(WALKS)], check=True, capture_output=True, text=True)
    return statistics.median(float(line) for line in done.stdout.split())


def compiled(folder: Path) -> Path | None:
    """The bare walk; None on a machine without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program = folder / "scan"
    subprocess.run([compiler, "-O2", "-o", program, SOURCE, "-ldl"], check=True)
    return program


def rows_of_node(library: Path) -> list[Row]:
    return rows_of(library, str(library)) + rows_with_profiles(library, str(library))


if __name__ == "__main__":
    for row in rows_of_node(Path(sys.argv[1]).resolve()) if len(sys.argv) > 1 else rows():
        print(f"{row.question}: {row.ours:.3f} {row.unit}, {row.other:.3f} {row.unit} ({row.ratio:.2f} ×; {row.note})")
