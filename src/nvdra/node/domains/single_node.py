"""Tells whether the NVSwitches of this node are a fabric of their own."""

from __future__ import annotations

from nvdra.host import DriverRoot
from nvdra.ports import Host

_MANAGEMENT = b"SW_MNG"


def is_single_node_fabric(host: Host, root: DriverRoot) -> bool:
    """Whether the node has NVSwitches itself: the kernel module lists them, or a network card manages them."""
    if _list(host, f"{root.procfs}/driver/nvidia-nvswitch/devices"):
        return True
    cards = f"{root.sysfs}/class/infiniband"
    return any(_MANAGEMENT in _read(host, f"{cards}/{name}/device/vpd") for name in _list(host, cards))


def _list(host: Host, path: str) -> list[str]:
    try:
        return host.list(path)
    except OSError:
        return []


def _read(host: Host, path: str) -> bytes:
    try:
        return host.read(path)
    except OSError:
        return b""
