"""What it costs to announce eight H200 that are partitioned on demand: 208 devices, from NVML to the bytes for the API.

`python -m benchmarks.announce` prints the rows alone.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from math import nan
from pathlib import Path
from typing import Any

import orjson

from benchmarks.row import Row, Target
from nvdra.api import gates
from nvdra.gpu import Inventory, NodeScan, from_scan, published
from nvdra.nvml import Nvml
from nvdra.slices import Pool, changes, device_problems, layout_for, slice_problems, wanted
from tests.contract.clocks import LoopClock

GPUS, ROUNDS = 8, 25
MINOR = 37
POOL = Pool("gpu.nvidia.com", "node")
GATES = gates.parse("DynamicMIG=true")


def rows() -> list[Row]:
    from nvdra_mock_nvml import lay_out

    with tempfile.TemporaryDirectory() as folder:
        root = lay_out(Path(folder) / "root", str(eight_h200(Path(folder))), device_files="regular")
        whole_ms, slices_ms = asyncio.run(_measure(root.library.resolve()))
        root.count_calls()
        asyncio.run(_scan_once(root.library.resolve()))
        calls = root.calls()
    tables = calls["nvmlDeviceGetGpuInstanceProfileInfo"]
    question = f"announcing {GPUS} × H200 with dynamic MIG, 208 devices"
    return [
        Row(question, whole_ms, nan, "ms", "scan with NVML open, devices, slices, checks, JSON", Target(most=60)),
        Row(f"{question}: slices", slices_ms, nan, "ms", "of it, what comes after the scan"),
        Row("looks at MIG profiles in that scan", tables, nan, "calls", "18 a model, not a GPU", Target(most=18)),
    ]


async def _measure(library: Path) -> tuple[float, float]:
    """Milliseconds, medians: from NVML to JSON, and of that from the scan to JSON."""
    nvml = Nvml(lambda: str(library), LoopClock())
    scan = await nvml.scan(profiles=True)
    assert _bodies(scan)
    whole, slices = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        scan = await nvml.scan(profiles=True)
        scanned = time.perf_counter()
        _bodies(scan)
        ended = time.perf_counter()
        whole.append(ended - began)
        slices.append(ended - scanned)
    await nvml.close()
    return statistics.median(whole) * 1e3, statistics.median(slices) * 1e3


async def _scan_once(library: Path) -> None:
    nvml = Nvml(lambda: str(library), LoopClock())
    await nvml.scan(profiles=True)
    await nvml.close()


def _bodies(scan: NodeScan) -> list[bytes]:
    """What is sent to a server that has none of it yet, checked as publication does it."""
    inventory: Inventory = from_scan(scan, {}, dynamic_mig=True)
    devices = [published(device, GATES) for device in inventory.devices.values()]
    assert len(devices) == GPUS * 26
    assert not any(map(device_problems, devices))
    sets = inventory.counter_sets()
    layout = layout_for(has_counters=True, counter_sets=sets, minor=MINOR)
    plan = changes(wanted(devices, layout, counter_sets=sets), [], POOL)
    assert not any(slice_problems(create.body["spec"], MINOR) for create in plan.creates)
    return [orjson.dumps(create.body) for create in plan.creates]


def eight_h200(folder: Path) -> Path:
    """The measured H200, eight times over."""
    from nvdra_mock_nvml import shipped

    one = json.loads((shipped.portraits() / "h200x1.json").read_text())
    (gpu,) = one["gpus"]
    gpus: list[dict[str, Any]] = [
        {**gpu, "minor": minor, "pci_bus_id": [f"0000:{minor + 1:02x}:00.0", "assumed"]} for minor in range(GPUS)
    ]
    models = {name: str(shipped.portraits() / file) for name, file in one["models"].items()}
    file = folder / "h200x8.json"
    file.write_text(json.dumps({**one, "name": "h200x8", "gpus": gpus, "models": models}))
    return file


if __name__ == "__main__":
    for row in rows():
        print(f"{row.question}: {row.ours:.3f} {row.unit} ({row.note})")
