"""Why one claim is pending on 10,000 nodes of eight GPUs with every MIG placement: loading, memory, the answer."""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.connection import Connection

from benchmarks.row import Row, Target
from nvdra.allocation import Cluster
from tests.oracle.fleets import fleet

_NODES = 10_000
_NEVER = [{"cel": {"expression": "device.attributes['gpu.nvidia.com'].type == 'none'"}}]


def rows() -> list[Row]:
    """Seconds and GiB, in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_measure, args=(theirs,))
    child.start()
    load, gibibytes, explain, devices = ours.recv() if ours.poll(600) else (float("nan"),) * 4
    child.join(60)
    note = f"{_NODES:,} nodes, {devices:,.0f} devices; a claim that no device matches"
    return [
        Row("explain: load the cluster", load, float("nan"), "s", note, Target(most=10)),
        Row("explain: memory", gibibytes, float("nan"), "GiB", note, Target(most=1.5)),
        Row("explain: one pending claim", explain, float("nan"), "s", note, Target(most=1)),
    ]


def _measure(answer: Connection) -> None:
    case = fleet(1, mig=True, selectors=_NEVER)["objects"]
    slices = [{"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", **one} for one in case["resourceSlices"]]
    node = json.dumps({"kind": "List", "items": [{"kind": "Node", "metadata": {"name": "node-0"}}, *slices]}).encode()
    rest = [{"kind": "DeviceClass", **one} for one in case["deviceClasses"]]
    rest += [{"kind": "ResourceClaim", **one} for one in case["resourceClaims"]]
    cluster = Cluster("1.37", [])
    cluster.add(json.dumps({"kind": "List", "items": rest}).encode())
    load = 0.0
    for index in range(_NODES):
        document = node.replace(b"node-0", b"node-%d" % index)
        begin = time.perf_counter()
        cluster.add(document)
        load += time.perf_counter() - begin
    begin = time.perf_counter()
    found = json.loads(cluster.explain("ml/c"))
    explain = time.perf_counter() - begin
    with open("/proc/self/status", encoding="ascii") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    answer.send((load, int(peak.split()[1]) / (1 << 20), explain, found["counts"]["devices"]))
