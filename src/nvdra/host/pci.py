"""NVIDIA's functions on the PCI bus, read from sysfs without driver and NVML.

Source: Documentation/ABI/testing/sysfs-bus-pci of the Linux kernel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nvdra.gpu import PciFacts
from nvdra.gpu.edits import FoundNode, GpuFiles
from nvdra.host.driver_files import device_node
from nvdra.host.driver_root import DriverRoot
from nvdra.host.footprint import Footprint, folder_now
from nvdra.ports import Host

_NVIDIA = "0x10de"
GPU_CLASSES = (0x030000, 0x030200)  # VGA controller, 3D controller
_PCI_ROOT = re.compile(r"pci[0-9a-f]{4,}:[0-9a-f]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PciFunction:
    """One NVIDIA function.

    address  "0000:9f:00.0"
    device   PCI device id
    """

    address: str
    device: int
    facts: PciFacts

    @property
    def driver(self) -> str:
        return self.facts.driver

    @property
    def is_gpu(self) -> bool:
        return self.facts.is_gpu


@dataclass(frozen=True, slots=True)
class PciBus:
    """NVIDIA's functions by address, and those that could not be read: (address, reason)."""

    functions: tuple[PciFunction, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def facts(self) -> dict[str, PciFacts]:
        return {function.address: function.facts for function in self.functions}

    @property
    def gpus(self) -> tuple[PciFunction, ...]:
        return tuple(function for function in self.functions if function.is_gpu)


def look_at_bus(host: Host, root: DriverRoot) -> PciBus:
    """The bus as it is now. Functions that cannot be read are listed apart, each with its reason."""
    functions: list[PciFunction] = []
    left_out: list[tuple[str, str]] = []
    for address in addresses(host, root):
        try:
            functions.append(_function(host, root, address))
        except FileNotFoundError as error:
            if _is_there(host, root, address):
                left_out.append((address, f"{error.filename}: {error.strerror}"))
        except (OSError, ValueError) as error:
            left_out.append((address, str(error)))
    return PciBus(tuple(functions), tuple(left_out))


def addresses(host: Host, root: DriverRoot) -> list[str]:
    """Addresses of NVIDIA's functions, lowest first; none if the bus cannot be listed."""
    return BusListing(host, root).look()


class BusListing:
    """Lists addresses of NVIDIA's functions repeatedly, and reads the vendor of each function once."""

    def __init__(self, host: Host, root: DriverRoot) -> None:
        self._host = host
        self._folder = f"{root.sysfs}/bus/pci/devices"
        self._vendors: dict[str, bool] = {}

    def look(self) -> list[str]:
        try:
            names = self._host.list(self._folder)
        except OSError:
            names = []
        self._vendors = {name: self._vendors.get(name) or self._is_nvidia(name) for name in names}
        return [name for name in names if self._vendors[name]]

    def _is_nvidia(self, address: str) -> bool:
        try:
            return self._host.read(f"{self._folder}/{address}/vendor").strip() == _NVIDIA.encode()
        except OSError:
            return False


def gpu_files(host: Host, root: DriverRoot, minor: int, address: str) -> GpuFiles:
    """Device nodes and graphics links of one GPU.

    address   its PCI function
    """
    own = f"/dev/nvidia{minor}"
    paths = [own, *(f"/dev/dri/{name}" for name in _drm_names(host, root, address))]
    nodes = [node for path in paths if (node := device_node(host, root, path)) is not None]
    missing = () if any(node.container_path == own for node in nodes) else (own,)
    return GpuFiles(tuple(nodes), tuple(_by_path(host, root, address, nodes)), missing)


def survey_gpu(host: Host, root: DriverRoot, minor: int, address: str) -> tuple[GpuFiles, Footprint]:
    """Device nodes and graphics links of one GPU, and the footprint of the look-up."""
    dev = "" if root.dev == "/" else root.dev
    searched = (f"{root.sysfs}/bus/pci/devices/{address}/drm", f"{dev}/dev/dri", f"{dev}/dev/dri/by-path")
    folders = tuple(folder_now(host, path) for path in searched)
    files = gpu_files(host, root, minor, address)
    nodes = {f"/dev/nvidia{minor}": None, **{node.container_path: node for node in files.nodes}}
    return files, Footprint(folders, tuple(nodes.items()))


def _drm_names(host: Host, root: DriverRoot, address: str) -> list[str]:
    try:
        return host.list(f"{root.sysfs}/bus/pci/devices/{address}/drm") if address else []
    except OSError:
        return []


def _by_path(host: Host, root: DriverRoot, address: str, nodes: list[FoundNode]) -> list[tuple[str, str]]:
    chosen = {node.container_path for node in nodes}
    found = []
    for kind in ("card", "render"):
        link = f"/dev/dri/by-path/pci-{address}-{kind}"
        try:
            target = host.readlink(link if root.dev == "/" else root.dev + link)
        except OSError:
            continue
        if host.resolve(link, root.dev) is None:
            continue
        # The link must have the path in the container; the Go driver leaves the driver root in front of it.
        if _joined("/dev/dri/by-path", target) in chosen:
            found.append((target, link))
    return found


def _joined(directory: str, target: str) -> str:
    parts: list[str] = []
    for part in (target if target.startswith("/") else f"{directory}/{target}").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _function(host: Host, root: DriverRoot, address: str) -> PciFunction:
    folder = f"{root.sysfs}/bus/pci/devices/{address}"
    kind = _number(host, f"{folder}/class")
    numa_node = _optional_number(host, f"{folder}/numa_node")
    return PciFunction(
        address=address,
        device=_number(host, f"{folder}/device"),
        facts=PciFacts(
            numa_node=numa_node if numa_node is not None and numa_node >= 0 else None,
            pcie_root=_pcie_root(host, root, address),
            driver=(_link(host, f"{folder}/driver") or "").rpartition("/")[2],
            is_gpu=kind in GPU_CLASSES and _link(host, f"{folder}/physfn") is None,
        ),
    )


def _pcie_root(host: Host, root: DriverRoot, address: str) -> str | None:
    """The PCI root complex of a function; None if sysfs does not show it."""
    target = _link(host, f"{root.sysfs}/bus/pci/devices/{address}")
    if target is None or target.rpartition("/")[2] != address:
        return None
    # Mostly the first folder below devices/; some hypervisors add a bus of their own in front.
    parts = target.partition("devices/")[2].split("/")
    return next((part for part in parts if _PCI_ROOT.fullmatch(part)), None)


def _link(host: Host, path: str) -> str | None:
    try:
        return host.readlink(path)
    except OSError:
        return None


def _number(host: Host, path: str) -> int:
    text = host.read(path).decode(errors="replace").strip()
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f'{path} says "{text}", which is no number') from None


def _optional_number(host: Host, path: str) -> int | None:
    try:
        return _number(host, path)
    except (OSError, ValueError):
        return None


def _is_there(host: Host, root: DriverRoot, address: str) -> bool:
    return _link(host, f"{root.sysfs}/bus/pci/devices/{address}") is not None
