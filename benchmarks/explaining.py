"""Why one claim is pending on 10,000 nodes of eight GPUs with every MIG placement: loading, memory, the answer."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.row import Row, Target
from nvdra.allocation import Cluster
from tests.oracle.fleets import fleet

_NODES = 10_000
_NEVER = [{"cel": {"expression": "device.attributes['gpu.nvidia.com'].type == 'none'"}}]
_MISSING = (float("nan"),) * 4


def rows() -> list[Row]:
    """Seconds and GiB, in processes of their own: one with every core, one with a single core."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.json"
        with path.open("wb") as file:
            file.writelines(_dump())
        size = path.stat().st_size >> 20
        cores = sorted(os.sched_getaffinity(0))
        load, gibibytes, explain, devices = _measured(path, cores)
        one_load, _, one_explain, _ = _measured(path, cores[:1])
    note = f"{_NODES:,} nodes, {devices:,.0f} devices, {size:,} MiB of JSON; other: one core of {len(cores)}"
    return [
        Row("explain: load the cluster", load, one_load, "s", note, Target(most=10)),
        Row("explain: memory", gibibytes, float("nan"), "GiB", note, Target(most=1.5)),
        Row("explain: one pending claim", explain, one_explain, "s", note, Target(most=1)),
    ]


def _dump() -> Iterator[bytes]:
    """Yields a List as kubectl writes it."""
    case = fleet(1, mig=True, selectors=_NEVER)["objects"]
    slices = [{"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", **one} for one in case["resourceSlices"]]
    node = b",".join(json.dumps(one).encode() for one in ({"kind": "Node", "metadata": {"name": "node-0"}}, *slices))
    rest = [{"kind": "DeviceClass", **one} for one in case["deviceClasses"]]
    rest += [{"kind": "ResourceClaim", **one} for one in case["resourceClaims"]]
    yield b'{"apiVersion":"v1","items":[' + b",".join(json.dumps(one).encode() for one in rest)
    for index in range(_NODES):
        yield b",\n" + node.replace(b"node-0", b"node-%d" % index)
    yield b'],"kind":"List"}'


def _measured(path: Path, cores: list[int]) -> tuple[float, ...]:
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_measure, args=(path, cores, theirs))
    child.start()
    found: tuple[float, ...] = ours.recv() if ours.poll(600) else _MISSING
    child.join(60)
    return found


def _measure(path: Path, cores: list[int], answer: Connection) -> None:
    os.sched_setaffinity(0, cores)
    cluster = Cluster("1.37", [])
    begin = time.perf_counter()
    cluster.add_file(path)
    load = time.perf_counter() - begin
    begin = time.perf_counter()
    found = json.loads(cluster.explain("ml/c"))
    explain = time.perf_counter() - begin
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    answer.send((load, int(peak.split()[1]) / (1 << 20), explain, found["counts"]["devices"]))
