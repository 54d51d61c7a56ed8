"""Slices of made-up nodes with MIG, as files to be reviewed.

`python -m tests.unit.slices.goldens` writes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvdra.api import gates
from nvdra.gpu import Inventory, PciFacts, from_scan, published
from nvdra.slices import Pool, changes, layout_for, wanted
from tests.unit.gpu import scans

FOLDER = Path(__file__).parents[2] / "golden" / "slices"


def slices(found: Inventory, *, dynamic_mig: bool, minor: int) -> list[Mapping[str, Any]]:
    """What is sent to a new server of this minor version."""
    devices = [published(device, gates.defaults()) for device in found.devices.values()]
    sets = found.counter_sets()
    layout = layout_for(has_counters=dynamic_mig, counter_sets=sets, minor=minor)
    made = changes(wanted(devices, layout, counter_sets=sets), [], Pool("gpu.nvidia.com", "node-a"))
    return [create.body for create in made.creates]


def static() -> list[Mapping[str, Any]]:
    """An H200 that an administrator divided, and one that is whole."""
    divided = scans.h200_scan(0, scans.instance(9, 0, 4, compute=2), scans.instance(19, 4, 1), scans.instance(20, 5, 1))
    facts = {"0000:00:06.0": PciFacts(numa_node=1, pcie_root="pci0000:00")}
    return slices(from_scan(_node(divided, scans.h200_scan(1)), facts), dynamic_mig=False, minor=37)


def dynamic(minor: int) -> list[Mapping[str, Any]]:
    """An H200 that is divided on demand, and an A100 that never is."""
    found = from_scan(_node(scans.h200_scan(0), scans.gpu_scan(1)), {}, dynamic_mig=True)
    return slices(found, dynamic_mig=True, minor=minor)


def _node(*gpus: Any) -> Any:
    return scans.node_scan(*gpus, driver_version="580.159.04", cuda_driver_version=13000)


ALL: Mapping[str, Callable[[], list[Mapping[str, Any]]]] = {
    "static-mig": static,
    "dynamic-mig-combined": lambda: dynamic(34),
    "dynamic-mig-split": lambda: dynamic(35),
}

if __name__ == "__main__":
    for name, make in ALL.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(make(), indent=1) + "\n")
