"""Topology on a real node: what NVML and sysfs say of each GPU, and the attributes that come of it.

    python -m tests.contract.topology_run [DRIVER_ROOT]      # "/", or where the driver lies

Opens NVML for one scan, sets nothing. Prints JSON: what was read, the attributes by GPU, the NVLink domains, and how
long the scan and the look at sysfs took.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from nvdra.api import gates
from nvdra.gpu import from_scan, published
from nvdra.gpu.gpu import pci_address
from nvdra.host import Node, driver_root, find_library, localities, look_at_bus
from nvdra.node.clock import LoopClock
from nvdra.nvml import Nvml


async def report(path: str) -> dict[str, Any]:
    host = Node()
    root = driver_root(host, path)
    nvml = Nvml(lambda: find_library(host, root), LoopClock())
    try:
        began = time.perf_counter()
        scan = await nvml.scan()
        scanned = time.perf_counter()
    finally:
        await nvml.close(timeout_s=2.0)
    facts = look_at_bus(host, root).facts
    looked = time.perf_counter()
    places = localities(host, root, facts)
    done = time.perf_counter()
    found = from_scan(scan, facts, localities=places)
    attributes = {
        name: {
            key: next(iter(value.values()))
            for key, value in published(device, gates.defaults(), found.topology[name])["attributes"].items()
        }
        for name, device in found.devices.items()
    }
    domains: dict[str, list[str]] = {}
    for name, own in attributes.items():
        if "nvlinkDomain" in own:
            domains.setdefault(own["nvlinkDomain"], []).append(name)
    return {
        "driver": scan.driver_version,
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "pciBusID": pci_address(gpu.pci_bus_id),
                "links": len(gpu.nvlinks),
                "activeLinks": sum(link.is_active for link in gpu.nvlinks),
                "farEnds": sorted({str(link.remote_pci_bus_id) for link in gpu.nvlinks}),
                "memoryAffinity": gpu.memory_affinity,
                "cpuAffinity": len(gpu.cpu_affinity),
                "sysfs": asdict(facts[pci_address(gpu.pci_bus_id)]) if pci_address(gpu.pci_bus_id) in facts else None,
            }
            for gpu in scan.gpus
        ],
        "p2pNvlink": {f"{one}-{other}": status for (one, other), status in scan.p2p.items()},
        "commonAncestor": {f"{one}-{other}": level for (one, other), level in scan.common_ancestor.items()},
        "localities": {address: asdict(place) for address, place in places.items()},
        "attributes": attributes,
        "nvlinkDomains": domains,
        "notPublished": [asdict(left) for left in found.not_published],
        "seconds": {"scan": round(scanned - began, 4), "localities": round(done - looked, 4)},
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(report(os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "/"))), indent=1))
