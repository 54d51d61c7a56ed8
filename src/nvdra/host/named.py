"""Compares the paths of a CDI document with the node."""

from __future__ import annotations

from nvdra.cdi import Document
from nvdra.host.driver_root import DriverRoot
from nvdra.ports import Host


def gone(host: Host, root: DriverRoot, host_root: str, document: Document) -> list[str]:
    """Paths of the document that are missing now, and device nodes that have another number now.

    host_root   the driver root as the container runtime sees it; paths elsewhere cannot be checked from here
    """
    edits = document.edits
    for device in document.devices:
        edits += device.edits
    base = host_root.rstrip("/")

    def place(path: str) -> str | None:
        return path[len(base) :] if not base or path.startswith(f"{base}/") else None

    found = [
        mount.host_path
        for mount in edits.mounts
        if (inside := place(mount.host_path)) is not None and host.resolve(inside, root.path) is None
    ]
    for node in edits.device_nodes:
        path = node.host_path or node.path
        inside = place(path) if root.dev == root.path else path
        if inside is None or node.path.startswith("/dev/nvidia-caps/"):
            continue  # runtimes make capability nodes from their numbers
        at = host.resolve(inside, root.dev)
        status = None if at is None else host.stat(at)
        numbers = (node.major, node.minor)
        if status is None or (status.kind == "char" and numbers != (0, 0) and (status.major, status.minor) != numbers):
            found.append(path)
    return list(dict.fromkeys(found))
