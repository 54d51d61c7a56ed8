"""What a container runtime makes of a CDI document, as far as files go: enough to run nvidia-smi in the result."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from nvdra.cdi import Document, Edits, Mount

_UUID = re.compile(r"\(UUID: (GPU-[0-9a-f-]+)\)")


def edits_for(document: Document, names: Iterable[str]) -> Edits:
    """The edits of a container that asks for these CDI devices of the document."""
    wanted = frozenset(names)
    edits = document.edits
    for device in document.devices:
        if device.name in wanted:
            edits += device.edits
    return edits


def missing(edits: Edits) -> list[str]:
    """Paths on the host that the edits name and that are not there: the container could not start."""
    paths = [node.host_path or node.path for node in edits.device_nodes] + [mount.host_path for mount in edits.mounts]
    return [path for path in paths if not Path(path).exists()]


def build(folder: Path, edits: Edits) -> None:
    """Lay out below `folder` what a container with these edits sees of devices and driver files."""
    for node in edits.device_nodes:
        place = folder / node.path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    for mount in edits.mounts:
        source, place = Path(mount.host_path), folder / mount.container_path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copy(source, place)


async def visible(folder: Path) -> list[str]:
    """UUIDs that `nvidia-smi -L` lists inside the container."""
    process = await asyncio.create_subprocess_exec(
        str(folder / "usr/bin/nvidia-smi"), "-L", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return _UUID.findall(output.decode(errors="replace"))


def kinds(mounts: Iterable[Mount]) -> dict[str, int]:
    """Mounts counted by what they are."""
    counts = Counter(map(_kind, mounts))
    return {kind: counts[kind] for kind in ("libraries", "programs", "firmware", "configurations") if counts[kind]}


def _kind(mount: Mount) -> str:
    path = mount.container_path
    if "/bin/" in path or "/sbin/" in path:
        return "programs"
    if "/firmware/" in path:
        return "firmware"
    return "libraries" if ".so" in path.rpartition("/")[2] else "configurations"
