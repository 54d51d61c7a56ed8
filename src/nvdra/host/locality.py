"""Where PCI functions lie: the CPU socket nearest to each and the PCIe switch above it, read from sysfs.

Source: Documentation/ABI/testing/sysfs-bus-pci and sysfs-devices-system-cpu of the Linux kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nvdra.gpu.topology import Locality
from nvdra.host.driver_root import DriverRoot
from nvdra.ports import Host

_HOST_BRIDGE = re.compile(r"pci[0-9a-f]{4,}:[0-9a-f]{2}", re.ASCII)
_RANGE = re.compile(r"(?P<first>[0-9]{1,6})(-(?P<last>[0-9]{1,6}))?", re.ASCII)
# Root port, upstream port and downstream port: with fewer bridges above it, a function is on no switch.
_PORTS_OF_SWITCH = 3


def localities(host: Host, root: DriverRoot, addresses: Iterable[str]) -> dict[str, Locality]:
    """The place of each PCI function, by address. What cannot be read is unknown, and costs nothing else."""
    return {
        address: Locality(
            cpu_socket=_cpu_socket(host, root.sysfs, address), pcie_switch=_pcie_switch(host, root.sysfs, address)
        )
        for address in addresses
    }


def _pcie_switch(host: Host, sysfs: str, address: str) -> str | None:
    try:
        target = host.readlink(f"{sysfs}/bus/pci/devices/{address}")
    except OSError:
        return None
    parts = target.partition("devices/")[2].split("/")
    bridge = next((at for at, part in enumerate(parts) if _HOST_BRIDGE.fullmatch(part)), None)
    if bridge is None or parts[-1] != address:
        return None
    ports = parts[bridge + 1 : -1]
    return ports[-2] if len(ports) >= _PORTS_OF_SWITCH else None


def _cpu_socket(host: Host, sysfs: str, address: str) -> int | None:
    """The socket whose CPUs include all that are nearest to the function.

    Where the platform does not say which are (virtual machines), all are: then only a single socket is an answer.
    """
    near = _cpus(host, f"{sysfs}/bus/pci/devices/{address}/local_cpulist")
    if not near:
        return None
    topology = f"{sysfs}/devices/system/cpu/cpu{min(near)}/topology"
    socket = _cpus(host, f"{topology}/package_cpus_list") or _cpus(host, f"{topology}/core_siblings_list")
    return _number(host, f"{topology}/physical_package_id") if near <= socket else None


def _cpus(host: Host, path: str) -> frozenset[int]:
    """A list of CPUs such as "0-3,8"; empty if it cannot be read."""
    found: set[int] = set()
    for part in _text(host, path).split(","):
        if (span := _RANGE.fullmatch(part)) is None:
            return frozenset()
        found.update(range(int(span["first"]), int(span["last"] or span["first"]) + 1))
    return frozenset(found)


def _number(host: Host, path: str) -> int | None:
    text = _text(host, path)
    return int(text) if text.isascii() and text.isdigit() else None


def _text(host: Host, path: str) -> str:
    try:
        return host.read(path).decode(errors="replace").strip()
    except OSError:
        return ""
