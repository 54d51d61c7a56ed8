"""What a scan of eight GPUs costs: ours, the same walk with NVIDIA's Python binding, and in bare C.

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
        return rows_of(root.library.resolve(), "mock, 8 × H100")


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


async def ours_s(library: Path) -> float:
    """`Nvml.scan` while the lease lasts: the thread, the sweep and the values are in it."""
    session = Nvml(lambda: str(library), LoopClock())
    await session.scan()
    walks_s = []
    for _ in range(WALKS):
        began = time.perf_counter()
        await session.scan()
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


def pynvml_s(library: Path) -> float:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    command = [sys.executable, nvml_oracle.__file__, str(WALKS)]
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


if __name__ == "__main__":
    for row in rows_of(Path(sys.argv[1]).resolve(), sys.argv[1]) if len(sys.argv) > 1 else rows():
        print(f"{row.question}: {row.ours:.3f} {row.unit}, {row.other:.3f} {row.unit} ({row.ratio:.2f} ×; {row.note})")
