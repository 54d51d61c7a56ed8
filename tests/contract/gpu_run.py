"""What a real GPU says and costs: values beside NVIDIA's binding, times, memory, open device nodes. Reads only.

    python -m pytest -m gpu tests/contract/test_nvml*.py     # the contract, on the real driver
    python -m tests.contract.gpu_run                         # the figures, as JSON

Needs nvdra, nvidia-ml-py, a driver; a C compiler for the bare walk. `docs/measurements/` keeps what came out.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.scan import rows_of
from nvdra._nvml import Library
from nvdra.nvml import Nvml
from tests.contract.clocks import LoopClock, until
from tests.contract.nvml_node import open_device_nodes, oracle, plain, real_library


def memory_kib() -> dict[str, int]:
    """Resident memory of this process, and how much of it is its own."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon", "RssFile"):
            found[name] = int(value.split()[0])
    return found


async def lease(library: Path) -> dict[str, Any]:
    """One lease after the other, as a plugin has them: what each step takes and holds."""
    said: dict[str, Any] = {"memory before": memory_kib(), "nodes before": open_device_nodes()}
    session = Nvml(lambda: str(library), LoopClock(), idle_s=1.0)
    steps = []
    for number in range(3):
        began = time.perf_counter()
        scan = await session.scan()
        first = time.perf_counter()
        await session.scan()
        second = time.perf_counter()
        open_now = {"memory": memory_kib(), "nodes": open_device_nodes()}
        if number < 2:
            await session.close()
            closing_s = time.perf_counter() - second
        else:
            await until(lambda: not session.is_open)
            closing_s = time.perf_counter() - second  # the idle second is in it
        steps.append(
            {
                "open and scan ms": (first - began) * 1e3,
                "scan again ms": (second - first) * 1e3,
                "while open": open_now,
                "closing ms": closing_s * 1e3,
                "after": {"memory": memory_kib(), "nodes": open_device_nodes()},
            }
        )
    said["leases"] = steps
    said["values"] = plain(scan)
    return said


def calls_us(library: Path) -> dict[str, float]:
    """What each getter of a scan takes, through ctypes, least of 50: which are dear."""
    import pynvml

    pynvml.nvmlInitWithFlags(1)
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    loaded = ctypes.CDLL(str(library))
    room = ctypes.create_string_buffer(4096)
    addressing = (ctypes.c_uint * 2)(pynvml.nvmlDeviceAddressingMode_v1, 0)
    arguments: dict[str, tuple[Any, ...]] = {
        "nvmlDeviceGetName": (room, 96),
        "nvmlDeviceGetUUID": (room, 96),
        "nvmlDeviceGetMigMode": (room, ctypes.byref(room, 8)),
        "nvmlDeviceGetCudaComputeCapability": (room, ctypes.byref(room, 8)),
        "nvmlDeviceGetAddressingMode": (addressing,),
        "nvmlDeviceGetCpuAffinity": (128, room),
        "nvmlDeviceGetMemoryAffinity": (16, room, 0),
        "nvmlDeviceGetNvLinkState": (0, room),
        "nvmlDeviceGetNvLinkVersion": (0, room),
        "nvmlDeviceGetNvLinkRemotePciInfo_v2": (0, room),
        "nvmlDeviceGetNvLinkRemoteDeviceType": (0, room),
    }
    for name in ("MinorNumber", "MemoryInfo", "Architecture", "Brand", "PciInfo_v3"):
        arguments[f"nvmlDeviceGet{name}"] = (room,)
    for name in ("VirtualizationMode", "PersistenceMode", "NumaNodeId"):
        arguments[f"nvmlDeviceGet{name}"] = (room,)
    taken = {}
    for name, rest in arguments.items():
        function = getattr(loaded, name)
        least = float("inf")
        for _ in range(50):
            began = time.perf_counter()
            code = function(handle, *rest)
            least = min(least, time.perf_counter() - began)
        taken[f"{name} -> {code}"] = round(least * 1e6, 2)
    pynvml.nvmlShutdown()
    return taken


def sessions_ms(library: Path) -> dict[str, list[float]]:
    """Init and shutdown by themselves, ten times."""
    loaded = Library(str(library))
    found: dict[str, list[float]] = {"init": [], "shutdown": []}
    for _ in range(10):
        began = time.perf_counter()
        loaded.init()
        inited = time.perf_counter()
        loaded.shutdown()
        found["init"].append(round((inited - began) * 1e3, 3))
        found["shutdown"].append(round((time.perf_counter() - inited) * 1e3, 3))
    return found


def main() -> int:
    library = real_library()
    if library is None:
        print("no NVIDIA driver on this machine: set NVDRA_TEST_NVML_LIBRARY to its libnvidia-ml.so.1", file=sys.stderr)
        return 1
    if sys.argv[1:] == ["lease"]:
        json.dump(asyncio.run(lease(library)), sys.stdout)
        return 0
    # In a process of its own: the memory is that of a session, not of this script.
    child = subprocess.run([sys.executable, "-m", __spec__.name, "lease"], check=True, stdout=subprocess.PIPE)
    said = json.loads(child.stdout)
    theirs = oracle(library)
    rows = rows_of(library, "real")
    report = {
        "machine": [platform.release(), platform.python_version(), f"{os.cpu_count()} CPUs"],
        "library": str(library),
        **said,
        "equal to pynvml": said["values"] == theirs,
        "pynvml": theirs if said["values"] != theirs else "the same",
        "rows": [[row.question, round(row.ours, 4), round(row.other, 4), row.unit, row.note] for row in rows],
        "sessions ms": sessions_ms(library),
        "calls us": calls_us(library),
    }
    json.dump(report, sys.stdout, indent=1)
    print()
    return 0 if report["equal to pynvml"] else 1


if __name__ == "__main__":
    sys.exit(main())
