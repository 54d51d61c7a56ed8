"""The allocation engine against the scheduler's own allocator: the same cases, in one run, one after the other."""

from __future__ import annotations

import sys

from benchmarks.row import Row, Target
from tests.oracle.compare import difference
from tests.oracle.fleets import fleet
from tests.oracle.processes import ROOT, Answerer, Json, ask

_TENTH = Target(share=0.1)
_ROOT = "resource.kubernetes.io/pcieRoot"
_MIG = "device.attributes['gpu.nvidia.com'].type == 'mig' && device.attributes['gpu.nvidia.com'].profile == '3g'"


def _cases() -> list[tuple[str, Json]]:
    selectors = [{"cel": {"expression": _MIG}}]
    return [
        ("one GPU, 100 nodes", fleet(100, loop=2000)),
        ("two GPUs on one PCIe root, 100 nodes", fleet(100, loop=2000, count=2, match=_ROOT, held=1)),
        ("a MIG placement over counters, 100 nodes", fleet(100, mig=True, loop=200, selectors=selectors)),
        ("a MIG placement over counters, 1,000 nodes", fleet(1000, mig=True, loop=200, selectors=selectors)),
        ("one GPU, 1,000 nodes", fleet(1000, loop=2000)),
        ("eight GPUs, 1,000 nodes", fleet(1000, loop=2000, count=8)),
    ]


def rows() -> list[Row]:
    """Microseconds of one allocation on one node. Nothing is measured if the programs are not built."""
    programs = (ROOT / ".make/oracle-1.37", ROOT / "native/target/release/examples/answers")
    if missing := [program for program in programs if not program.exists()]:
        print(f"allocation: not measured, {missing[0]} is not built (make .make/bench-allocation)", file=sys.stderr)
        return []
    found = []
    with Answerer(programs[0]) as oracle, Answerer(programs[1]) as engine:
        for name, case in _cases():
            theirs, ours = ask((oracle, engine), case)
            theirs_ns, ours_ns = theirs["nodes"][0].pop("nanos"), ours["nodes"][0].pop("nanos")
            for node in (theirs["nodes"][0], ours["nodes"][0]):
                node["steps"] = 0  # the oracle counts over all repetitions
            if wrong := difference(theirs, ours):
                raise AssertionError(f"{name}: the answers differ: {wrong}")
            note = f"other: the scheduler's allocator; both: {ours['nodes'][0]['outcome']}"
            found.append(Row(f"allocate: {name}", ours_ns / 1e3, theirs_ns / 1e3, "µs", note, _TENTH))
    return found
