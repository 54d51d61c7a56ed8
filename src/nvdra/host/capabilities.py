"""MIG capabilities: the device nodes by which a container may use a partition, from the kernel module's proc files."""

from __future__ import annotations

import re

from nvdra.gpu.edits import CapabilityNode
from nvdra.host.driver_root import DriverRoot
from nvdra.ports import Host

# DROP-IN: a list that ends before its block devices is refused, because it may have been cut off.
_MAJOR = re.compile(r"Character devices:.*?([0-9]+) nvidia-caps\n.*Block devices:", re.ASCII | re.DOTALL)
_LARGEST = (1 << 31) - 1  # of device numbers
_LARGEST_MODE = 0o777


class CapabilityUnknown(Exception):
    """The node of a partition's capability is not known; the text names the file and is the Go driver's."""


def capability_nodes(
    host: Host, root: DriverRoot, minor: int, gi_id: int, ci_id: int
) -> tuple[CapabilityNode, CapabilityNode]:
    """The nodes of a GPU instance and of a compute instance in it.

    minor   the GPU's
    Raises CapabilityUnknown, also if the instance was destroyed: its files disappear with it.
    """
    instance = f"{root.procfs}/driver/nvidia/capabilities/gpu{minor}/mig/gi{gi_id}"
    nodes = []
    for kind, path in (("GI", f"{instance}/access"), ("CI", f"{instance}/ci{ci_id}/access")):
        try:
            nodes.append(_capability_node(host, root, path))
        except ValueError as error:
            raise CapabilityUnknown(f"failed to parse {kind} capabilities file {path}: {error}") from None
    return nodes[0], nodes[1]


def fabric_node(host: Host, root: DriverRoot) -> CapabilityNode | None:
    """The node by which an IMEX daemon manages the NVLink fabric; None where the kernel module has no such capability.

    Raises CapabilityUnknown for a file that cannot be read.
    """
    path = f"{root.procfs}/driver/nvidia/capabilities/fabric-imex-mgmt"
    if root.is_mocked and not host.exists(path):
        path = root.below(path)
    if not host.exists(path):
        return None
    try:
        return _capability_node(host, root, path)
    except ValueError as error:
        raise CapabilityUnknown(f"error parsing fabric-imex-mgmt capabilities file {path}: {error}") from None


def _capability_node(host: Host, root: DriverRoot, path: str) -> CapabilityNode:
    """The node of a capability by its file, `DeviceFileMinor: 3` and so on. Raises ValueError."""
    text = _text(host, path)
    try:
        major = _major(host, root)
    except ValueError as error:
        raise ValueError(f"error getting device major: {error}") from None
    pairs = (line.partition(":")[::2] for line in text.splitlines())
    values = {key.strip(): value.strip() for key, value in pairs}
    return CapabilityNode(
        major=major,
        minor=_number(values, "DeviceFileMinor", _LARGEST),
        mode=_number(values, "DeviceFileMode", _LARGEST_MODE),
    )


def _major(host: Host, root: DriverRoot) -> int:
    try:
        text = _text(host, root.devices_file)
    except ValueError as error:
        raise ValueError(f"error reading '{root.devices_file}': {error}") from None
    found = _MAJOR.search(text)
    if found is None:
        raise ValueError(
            f"error parsing '{root.devices_file}': unexpected regex match: [] "
            "(nvidia-caps is not among its character devices, or it ends before its block devices)"
        )
    major = int(found[1])
    if major > _LARGEST:
        raise ValueError(f"int conversion failed for '{found[1]}': it is no device major")
    return major


def _text(host: Host, path: str) -> str:
    try:
        return host.read(path).decode(errors="replace")
    except OSError as error:
        # strerror begins with a capital letter, Go's texts do not.
        raise ValueError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


def _number(values: dict[str, str], key: str, largest: int) -> int:
    """A decimal number of the file. (The Go driver reads a malformed number as 0, which is another device node.)"""
    text = values.get(key)
    if text is None:
        raise ValueError(f"it has no {key}")
    if not (text.isascii() and text.isdigit()) or int(text) > largest:
        raise ValueError(f'{key} is "{text}"')
    return int(text)
