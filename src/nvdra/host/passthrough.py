"""What sysfs says of GPUs for virtual machines: slots, IOMMU groups, vfio modules, device nodes. Reads only.

Source: Documentation/driver-api/vfio.rst and Documentation/ABI/testing/sysfs-bus-pci of the Linux kernel.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nvdra.gpu import Passthrough, PassthroughFacts, PciFacts
from nvdra.host.driver_root import DriverRoot
from nvdra.host.pci import GPU_CLASSES
from nvdra.host.pci_names import PciNames
from nvdra.host.vfio_modules import DEFAULT_MODULE
from nvdra.ports import Host

_BRIDGES = 0x06  # base class: bridges stay with their driver, which vfio allows in a group
_NVIDIA = 0x10DE
_REGIONS = 6  # of the function itself; what follows are its ROM and those of virtual functions
_IS_64_BIT, _WIDTH = 0x4, 0x6


@dataclass(frozen=True, slots=True)
class SlotFunction:
    """A function that goes to a virtual machine with the GPU, or the GPU itself.

    driver     kernel driver it is bound to; "" if none
    override   the driver that it is reserved for; "" if for none
    module     the vfio module that suits it best
    """

    address: str
    driver: str
    override: str
    module: str = DEFAULT_MODULE


@dataclass(frozen=True, slots=True)
class Slot:
    """All functions of a GPU's slot but bridges, the GPU first, and what keeps them from a virtual machine.

    group             IOMMU group of the GPU; "" if it has none
    strangers         other devices of the group, in words
    virtual_functions how many the GPU has
    """

    functions: tuple[SlotFunction, ...]
    group: str
    strangers: tuple[str, ...] = ()
    virtual_functions: int = 0

    @property
    def gpu(self) -> SlotFunction:
        return self.functions[0]

    def why_not(self) -> str:
        """Why a virtual machine cannot get the GPU, whatever driver has it; "" if it can."""
        address = self.gpu.address
        if not self.group:
            return f'GPU "{address}" has no IOMMU group: turn the IOMMU on in firmware and kernel (intel_iommu=on)'
        if self.strangers:
            return (
                f'IOMMU group {self.group} of GPU "{address}" has other devices too: {", ".join(self.strangers)}; a '
                "virtual machine gets a group as a whole, so turn on ACS in the firmware or move a card to another slot"
            )
        if self.virtual_functions:
            # DROP-IN: the Go driver's text.
            return f"error verifying disabled VFs: gpu has {self.virtual_functions} VFs, cannot unbind"
        return ""


def look_at_passthrough(
    host: Host, root: DriverRoot, host_root: str, names: PciNames, pci: Mapping[str, PciFacts]
) -> Passthrough:
    """What virtual machines can get of these PCI functions.

    host_root   the host's root as this program sees it
    """
    if not _names(host, f"{root.sysfs}/kernel/iommu_groups"):
        # DROP-IN: the Go driver's text, which ends its plugin.
        return Passthrough("IOMMU is not enabled in the kernel")
    gpus = {}
    for address, facts in pci.items():
        if facts.is_gpu:
            try:
                gpus[address] = _facts(host, root, names, address)
            except (OSError, ValueError) as error:
                gpus[address] = PassthroughFacts("", "", "", 0, f'GPU "{address}" cannot be read: {error}')
    return Passthrough(has_iommufd=has_iommufd(host, host_root), gpus=gpus)


def has_iommufd(host: Host, host_root: str) -> bool:
    """Whether the kernel offers iommufd."""
    return host.exists(f"{host_root.rstrip('/')}/dev/iommu")


def look_at_slot(
    host: Host, root: DriverRoot, address: str, module_of: Callable[[str], str] = lambda _address: DEFAULT_MODULE
) -> Slot | None:
    """The slot of a GPU as it is now; None if there is no such function.

    module_of   the vfio module for a function
    """
    folder = f"{root.sysfs}/bus/pci/devices"
    if not host.exists(f"{folder}/{address}"):
        return None
    slot = address.rpartition(".")[0]
    mine, strangers = [address], list[str]()
    for other in _names(host, folder):
        if other.startswith(f"{slot}.") and other != address and not _is_left_alone(host, f"{folder}/{other}"):
            (strangers if _is_gpu(host, f"{folder}/{other}") else mine).append(other)
    group = _target(host, f"{folder}/{address}/iommu_group")
    for other in _names(host, f"{root.sysfs}/kernel/iommu_groups/{group}/devices") if group else []:
        if other not in (*mine, *strangers) and not _is_left_alone(host, f"{folder}/{other}"):
            strangers.append(other)
    return Slot(
        tuple(_function(host, folder, each, module_of) for each in mine),
        group,
        tuple(_words(host, f"{folder}/{other}", other) for other in strangers),
        _number(host, f"{folder}/{address}/sriov_numvfs") or 0,
    )


def vfio_paths(host: Host, root: DriverRoot, address: str) -> tuple[str, str]:
    """Device nodes of a GPU that is bound to a vfio driver: of its IOMMU group, and its own of iommufd; "" for none."""
    folder = f"{root.sysfs}/bus/pci/devices/{address}"
    group = _target(host, f"{folder}/iommu_group")
    own = next((name for name in _names(host, f"{folder}/vfio-dev") if name.startswith("vfio")), "")
    return f"/dev/vfio/{group}" if group else "", f"/dev/vfio/devices/{own}" if own else ""


def vfio_numbers(host: Host, root: DriverRoot, address: str) -> tuple[tuple[int, int], ...]:
    """Device numbers by which a virtual machine holds a GPU."""
    folder = f"{root.sysfs}/bus/pci/devices/{address}"
    files = [f"{folder}/vfio-dev/{name}/dev" for name in _names(host, f"{folder}/vfio-dev")]
    if group := _target(host, f"{folder}/iommu_group"):
        files.append(f"{root.sysfs}/class/vfio/{group}/dev")
    return _numbers(host, files)


def nvidia_numbers(host: Host, root: DriverRoot, address: str, major: int) -> tuple[tuple[int, int], ...]:
    """Device numbers by which programs hold a GPU of the NVIDIA driver: its own node's and those of graphics.

    major   of the driver's nodes
    """
    found = []
    try:
        information = host.read(f"{root.procfs}/driver/nvidia/gpus/{address}/information").decode(errors="replace")
    except OSError:
        information = ""
    for line in information.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Device Minor" and value.strip().isdigit():
            found.append((major, int(value)))
    folder = f"{root.sysfs}/bus/pci/devices/{address}/drm"
    return (*found, *_numbers(host, [f"{folder}/{name}/dev" for name in _names(host, folder)]))


def _facts(host: Host, root: DriverRoot, names: PciNames, address: str) -> PassthroughFacts:
    folder = f"{root.sysfs}/bus/pci/devices/{address}"
    vendor, device = _needed(host, f"{folder}/vendor"), _needed(host, f"{folder}/device")
    slot = look_at_slot(host, root, address)
    return PassthroughFacts(
        names.look(device),
        f"0x{vendor:04x}",
        f"0x{device:04x}",
        _addressable(host.read(f"{folder}/resource").decode(errors="replace")),
        "" if slot is None else slot.why_not(),
        "" if slot is None else slot.group,
    )


def _addressable(text: str) -> int:
    """Bytes of the 64-bit regions in sysfs' `resource`, rounded up to a power of two. Raises ValueError."""
    total = 0
    for line in text.splitlines()[:_REGIONS]:
        start, end, flags = (int(word, 16) for word in line.split())
        if end > start and flags & _WIDTH == _IS_64_BIT:
            total += end - start + 1
    return 1 << (total - 1).bit_length() if total else 0


def _function(host: Host, folder: str, address: str, module_of: Callable[[str], str]) -> SlotFunction:
    override = _text(host, f"{folder}/{address}/driver_override")
    return SlotFunction(
        address,
        _target(host, f"{folder}/{address}/driver"),
        "" if override == "(null)" else override,
        module_of(address),
    )


def _is_left_alone(host: Host, folder: str) -> bool:
    """Whether a function of the slot or group stays as it is: a bridge, or a virtual function."""
    kind = _number(host, f"{folder}/class")
    return (kind is not None and kind >> 16 == _BRIDGES) or host.exists(f"{folder}/physfn")


def _is_gpu(host: Host, folder: str) -> bool:
    return _number(host, f"{folder}/class") in GPU_CLASSES and _number(host, f"{folder}/vendor") == _NVIDIA


def _words(host: Host, folder: str, address: str) -> str:
    kind, driver = _number(host, f"{folder}/class"), _target(host, f"{folder}/driver")
    what = "class unknown" if kind is None else f"class 0x{kind:06x}"
    return f"{address} ({what}, {f'bound to {driver}' if driver else 'bound to no kernel driver'})"


def _numbers(host: Host, files: list[str]) -> tuple[tuple[int, int], ...]:
    found = []
    for path in files:
        major, _, minor = _text(host, path).partition(":")
        if major.isdigit() and minor.isdigit():
            found.append((int(major), int(minor)))
    return tuple(found)


def _names(host: Host, folder: str) -> list[str]:
    try:
        return host.list(folder)
    except OSError:
        return []


def _target(host: Host, link: str) -> str:
    """The last part of where a link leads; "" if there is none."""
    try:
        return host.readlink(link).rpartition("/")[2]
    except OSError:
        return ""


def _text(host: Host, path: str) -> str:
    try:
        return host.read(path).decode(errors="replace").strip()
    except OSError:
        return ""


def _number(host: Host, path: str) -> int | None:
    try:
        return int(_text(host, path), 0)
    except ValueError:
        return None


def _needed(host: Host, path: str) -> int:
    found = _number(host, path)
    if found is None:
        raise OSError(errno.EIO, "no number is there", path)
    return found
