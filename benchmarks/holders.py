"""Who has a GPU open: one pass over a made /proc of 5,000 processes with 8 descriptors each.

`python -m benchmarks.holders` prints the rows, and what the pass over this machine's /proc takes.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import table
from benchmarks.row import Row, Target
from nvdra.host import Node
from nvdra.ports import Device

PROCESSES, DESCRIPTORS, ROUNDS = 5_000, 8, 15
GPUS: list[Device] = [(195, minor) for minor in range(8)]


def rows() -> list[Row]:
    """Descriptors are hard links of one file: as in /proc, they lead to it without a walk of a path."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        opened = Path(folder) / "opened"
        opened.touch()
        for pid in range(1, PROCESSES + 1):
            descriptors = Path(folder) / f"proc/{pid}/fd"
            descriptors.mkdir(parents=True)
            for number in range(DESCRIPTORS):
                os.link(opened, descriptors / str(number))
        proc = f"{folder}/proc"
        start = time.process_time()
        scan_ms(proc)
        busy = (time.process_time() - start) * 1e3
        ours = min(scan_ms(proc) for _ in range(ROUNDS))
        plain = min(python_ms(proc) for _ in range(3))
    question = f"who has one of 8 GPUs open, {PROCESSES:,} processes × {DESCRIPTORS} descriptors"
    note = f"other: the same in Python; {busy:.0f} ms of processor time on {os.cpu_count()} processors"
    return [Row(question, ours, plain, "ms", note, Target(most=50))]


def scan_ms(proc: str) -> float:
    host = Node()
    start = time.perf_counter()
    asyncio.run(host.device_holders(GPUS, proc=proc))
    took = time.perf_counter() - start
    host.close()
    return took * 1e3


def python_ms(proc: str) -> float:
    start = time.perf_counter()
    found = []
    for process in os.scandir(proc):
        for descriptor in os.scandir(f"{process.path}/fd"):
            number = descriptor.stat().st_rdev
            if (os.major(number), os.minor(number)) in GPUS:
                found.append((process.name, number))
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    print(table.text(rows()))
    print(f"this machine's /proc: {statistics.median(scan_ms('/proc') for _ in range(ROUNDS)):.1f} ms")
