"""What the NVML contract looks at: a node's library, the oracle's word, what this process holds open."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nvdra.gpu.scan import NodeScan

ORACLE = Path(__file__).with_name("nvml_oracle.py")
PLACES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/nvidia/lib64")


def real_library() -> Path | None:
    """A real driver's library, if this machine has one."""
    named = os.environ.get("NVDRA_TEST_NVML_LIBRARY")
    found = [Path(named)] if named else [Path(place) / "libnvidia-ml.so.1" for place in PLACES]
    return next((path.resolve() for path in found if path.exists()), None)


def oracle(library: Path, *options: str) -> dict[str, Any]:
    """What NVIDIA's binding says of the node this library belongs to; `profiles`: with those of all capable GPUs."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    command = [sys.executable, str(ORACLE), "1", *options]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["node"]


def plain(scan: NodeScan) -> dict[str, Any]:
    """A scan in the oracle's form, without what NVML tells of live instances only: how they can be filled."""
    values = dataclasses.asdict(scan)
    for profile in [profile for gpu in values["gpus"] for profile in gpu["mig"]["profiles"]]:
        del profile["compute"]
    values["left_out"] = [{"index": left["index"], "code": left["code"]} for left in values["left_out"]]
    for name in ("common_ancestor", "p2p"):
        values[name] = sorted([*pair, value] for pair, value in values[name].items())
    return json.loads(json.dumps(values))


def open_device_nodes() -> list[str]:
    """What this process holds of the node's /dev/nvidia*, by descriptor or by mapping."""
    held = [line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/" in line]
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue  # the listing's own
    return sorted(path for path in held if "/dev/nvidia" in path)


def is_loaded(library: Path) -> bool:
    """Whether this process has it mapped."""
    return str(library) in Path("/proc/self/maps").read_text()
