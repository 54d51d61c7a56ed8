"""The inventory: which devices this node offers, by name, and which it does not and why.

One odd GPU is left out with a reason; it never takes the others with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from nvdra.gpu.counters import counter_set
from nvdra.gpu.fabric_topology import FabricTopology
from nvdra.gpu.gpu import (
    Gpu,
    OddDeviceError,
    PciFacts,
    addressing_mode_text,
    architecture_text,
    brand_text,
    cuda_version,
    pci_address,
    pci_bus_id,
    version,
)
from nvdra.gpu.hidden import HiddenGpu, hidden_gpus
from nvdra.gpu.mig import GpuDevice, MigDevice, MigSpec, address_of_device, live, specs
from nvdra.gpu.mig_profile import Partitioning, partitioning
from nvdra.gpu.names import GpuName, MigName, VfioName, parse_name
from nvdra.gpu.scan import GpuInstanceScan, GpuScan, LeftOut, NodeScan
from nvdra.gpu.topology import Locality, Topology, topologies
from nvdra.gpu.vfio import VfioGpu

# GPUs that drive a workstation's own screen: never offered, never mentioned.
_DISPLAYS = frozenset(("DGX Display", "NVIDIA DGX Display"))

# Source: NVML API reference, nvmlGpuVirtualizationMode_t, nvmlDeviceArchitecture_t.
_VGPU_GUEST = 2
_HOPPER = 9  # from here on MIG mode changes without a reset of the GPU
_UNKNOWN = 0xFFFFFFFF
_NOT_SUPPORTED = 3  # nvmlReturn_t

_NONE_MADE = (
    "MIG mode is on and there is no MIG device: make some (nvidia-smi mig -cgi), or turn it off (nvidia-smi -mig 0)"
)

_NONE_SHOWN = "MIG mode is on and this virtual GPU shows no MIG device: how it is partitioned is decided on the host"
_NO_ADDRESS = "NVML tells no PCI address of it, as for an integrated GPU; GPUs are told apart by theirs"

_TEXT_LIMIT = 64  # bytes of a string attribute that the API server takes

_NO_DEVICES: Mapping[str, GpuDevice] = MappingProxyType({})
_NO_HIDDEN: Mapping[str, HiddenGpu] = MappingProxyType({})
_NO_GPUS: Mapping[str, Gpu] = MappingProxyType({})
_NO_PARTITIONS: Mapping[str, Partitions] = MappingProxyType({})
_NO_SLICES: Mapping[str, int] = MappingProxyType({})
_NO_STUCK: Mapping[str, StuckMode] = MappingProxyType({})
_NO_TOPOLOGY: Mapping[str, Topology] = MappingProxyType({})
_NOT_REFUSED: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NotPublished:
    """A GPU or partition that is there and not offered. `device` is its name, or what else is known of it."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Partitions:
    """How a GPU is partitioned now, whoever did it.

    is_on      MIG mode
    instances  ascending by start, half made ones included
    """

    is_on: bool = False
    instances: tuple[GpuInstanceScan, ...] = ()


@dataclass(frozen=True, slots=True)
class StuckMode:
    """A change of MIG mode that a GPU refused for longer than a moment: not settable, or only by a reset.

    on   the mode that was wanted
    """

    on: bool
    reason: str

    def __str__(self) -> str:
        wanted = "on" if self.on else "off"
        return f"MIG mode cannot be turned {wanted} before the GPU or the node is reset: {self.reason}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """Devices by name, in the order of their minor numbers.

    unread         why nothing could be read (driver absent, NVML refused); "" after a scan
    gpus           by PCI address: every GPU that could be read, offered itself or not
    partitions     by PCI address of the MIG-capable GPU
    memory_slices  how many a GPU has, by PCI address, where NVML told its MIG profiles
    hidden         by PCI address: GPUs that could not be read, or are too odd to be offered
    driver_version as NVML writes it, "580.159.04"; attributes have the form that the API server takes
    fabric         partitions of Fabric Manager; None without them (gate FabricManagerPartitioning)
    pci_gpus       addresses of all GPUs on the PCI bus in their order, those never offered too; () if not looked for
    no_passthrough why no GPU of this node can be passed through; "" if some can
    stuck          by PCI address: GPUs that are offered as they stand, since their MIG mode does not change
    topology       by device name; empty unless it is to be published
    refused        devices that no claim gets now, by name, with the reason
    """

    devices: Mapping[str, GpuDevice] = field(default_factory=lambda: _NO_DEVICES)
    not_published: tuple[NotPublished, ...] = ()
    unread: str = ""
    gpus: Mapping[str, Gpu] = field(default_factory=lambda: _NO_GPUS)
    partitions: Mapping[str, Partitions] = field(default_factory=lambda: _NO_PARTITIONS)
    memory_slices: Mapping[str, int] = field(default_factory=lambda: _NO_SLICES)
    hidden: Mapping[str, HiddenGpu] = field(default_factory=lambda: _NO_HIDDEN)
    stuck: Mapping[str, StuckMode] = field(default_factory=lambda: _NO_STUCK)
    driver_version: str = ""
    topology: Mapping[str, Topology] = field(default_factory=lambda: _NO_TOPOLOGY)
    refused: Mapping[str, str] = field(default_factory=lambda: _NOT_REFUSED)
    fabric: FabricTopology | None = None
    pci_gpus: tuple[str, ...] = ()
    no_passthrough: str = "the feature gate PassthroughSupport is off"

    def why_absent(self, device: str) -> str:
        """Why a device of this name is not offered; "" if nothing is known of it."""
        for left in self.not_published:
            if _is_same_placement(left.device, device):
                return left.reason
        if isinstance(parse_name(device), VfioName) and self.no_passthrough:
            return self.no_passthrough
        if self.unread:
            return self.unread
        match parse_name(device):
            case GpuName(minor) | MigName(parent_minor=minor) if (stuck := self._stuck(minor)) is not None:
                return str(stuck)
            case GpuName(minor) if self._is_on(minor):
                return "MIG mode is on: its MIG devices are offered in its place"
            case GpuName(minor) | MigName(parent_minor=minor) if (known := self._hidden_by_minor(minor)) is not None:
                return f"its GPU {known.address}: {known.reason}"
            case MigName(parent_minor=minor) if self.by_minor(minor) is not None:
                if self._is_on(minor):
                    return f"{GpuName(minor)} has no such MIG device now"
                return f"{GpuName(minor)} is not partitioned: MIG mode is off"
        # A GPU that refused before it told its minor number may be the one.
        unnamed = [f"{left.device}: {left.reason}" for left in self.not_published if parse_name(left.device) is None]
        return f"GPUs that are not offered: {'; '.join(unnamed)}" if unnamed else ""

    def counter_sets(self) -> tuple[Mapping[str, Any], ...]:
        """Of every GPU that is partitioned on demand, by PCI bus id; v1-shaped."""
        gpus = sorted(self.gpus.values(), key=lambda gpu: gpu.pci_bus_id)
        return tuple(made for gpu in gpus if (made := counter_set(gpu)) is not None)

    def by_minor(self, minor: int) -> Gpu | None:
        return next((gpu for gpu in self.gpus.values() if gpu.minor == minor), None)

    @property
    def addresses(self) -> tuple[str, ...]:
        """PCI addresses of all GPUs, hidden ones too, in their order."""
        return tuple(sorted({*self.gpus, *self.hidden}))

    @property
    def positions(self) -> tuple[str, ...]:
        """PCI addresses of GPUs in the order in which names of passed-through GPUs count them."""
        return self.pci_gpus or self.addresses

    @property
    def twins(self) -> tuple[VfioGpu, ...]:
        """GPUs that can be passed through, in the order of their PCI addresses."""
        return tuple(device for device in self.devices.values() if isinstance(device, VfioGpu))

    def address_of(self, uuid: str) -> str:
        """The PCI address of the GPU with this UUID, whatever its minor number is now; the UUID itself if unknown."""
        return next((address for address, gpu in self.known() if gpu.uuid == uuid), uuid)

    def address_by_minor(self, minor: int) -> str:
        """The PCI address of the GPU with this minor number, or that had it when it was last seen; "" if unknown."""
        return next((address for address, gpu in self.known() if gpu.minor == minor), "")

    def uuid_of(self, address: str) -> str | None:
        """The UUID of the GPU at this PCI address; None if it is not known."""
        known = self.gpus.get(address) or self.hidden.get(address)
        return None if known is None else known.uuid

    def known(self) -> Iterator[tuple[str, Gpu | HiddenGpu]]:
        """All GPUs by PCI address. Those that could be read come first: a hidden one may have lost its minor number."""
        yield from self.gpus.items()
        yield from self.hidden.items()

    def _hidden_by_minor(self, minor: int) -> HiddenGpu | None:
        return self.hidden.get(self.address_by_minor(minor))

    def _stuck(self, minor: int) -> StuckMode | None:
        gpu = self.by_minor(minor)
        return None if gpu is None else self.stuck.get(gpu.pci_bus_id)

    def _is_on(self, minor: int) -> bool:
        gpu = self.by_minor(minor)
        return gpu is not None and self.partitions.get(gpu.pci_bus_id, Partitions()).is_on


def from_scan(
    scan: NodeScan,
    pci: Mapping[str, PciFacts],
    *,
    dynamic_mig: bool = False,
    never_toggles: bool = False,
    before: Inventory | None = None,
    stuck: Mapping[str, StuckMode] = _NO_STUCK,
    localities: Mapping[str, Locality] | None = None,
) -> Inventory:
    """What this node offers according to one scan.

    pci            by bus id in sysfs' form; a GPU without facts has no NUMA node and no PCIe root
    before         of an earlier scan: it may know what a GPU was called that NVML does not show any more
    dynamic_mig    GPUs that can be partitioned on demand are offered so (gate DynamicMIG)
    never_toggles  take every GPU for one whose MIG mode cannot be changed without a reset
    stuck          changes of MIG mode that GPUs refused in this boot, by PCI address
    localities     by PCI address; None: no topology is published
    """
    gpus: dict[str, Gpu] = {}
    minors: dict[int, Gpu] = {}
    devices: dict[str, GpuDevice] = {}
    partitions: dict[str, Partitions] = {}
    memory_slices: dict[str, int] = {}
    now_stuck: dict[str, StuckMode] = {}
    not_published = [_refused(left) for left in scan.left_out]
    odd_ones: list[HiddenGpu] = []
    displays: set[str] = set()
    for seen in sorted(scan.gpus, key=lambda gpu: (gpu.minor, gpu.index)):
        if seen.name in _DISPLAYS:
            displays.add(pci_address(seen.pci_bus_id))
            continue
        try:
            is_stuck = dynamic_mig and _is_stuck(seen, stuck)
            gpu = _gpu(seen, scan, pci, _partitioning(seen, never_toggles or is_stuck) if dynamic_mig else None)
            _must_be_new(gpu, gpus, minors)
        except OddDeviceError as odd:
            not_published.append(NotPublished(str(GpuName(seen.minor)), str(odd)))
            odd_ones.append(_odd(seen, pci, str(odd)))
            continue
        gpus[gpu.pci_bus_id] = minors[gpu.minor] = gpu
        if is_stuck:
            now_stuck[gpu.pci_bus_id] = stuck[gpu.pci_bus_id]
        if seen.mig_mode is not None:
            partitions[gpu.pci_bus_id] = Partitions(_is_on(seen), seen.mig.instances)
            if sizes := [size for each in seen.mig.profiles for _, size in each.placements]:
                memory_slices[gpu.pci_bus_id] = max(sizes)
        for offered in _published(gpu, seen):
            if isinstance(offered, NotPublished):
                not_published.append(offered)
            else:
                devices[offered.name] = offered
    hidden = hidden_gpus(pci, gpus.keys() | displays, odd_ones, {} if before is None else dict(before.known()))
    return Inventory(
        MappingProxyType(devices),
        tuple(not_published),
        gpus=MappingProxyType(gpus),
        partitions=MappingProxyType(partitions),
        memory_slices=MappingProxyType(memory_slices),
        hidden=MappingProxyType({gpu.address: gpu for gpu in hidden}),
        stuck=MappingProxyType(now_stuck),
        driver_version=scan.driver_version,
        topology=_NO_TOPOLOGY if localities is None else _topology(devices, topologies(scan, localities)),
    )


def _topology(devices: Mapping[str, GpuDevice], by_address: Mapping[str, Topology]) -> Mapping[str, Topology]:
    places = {name: by_address.get(address_of_device(device)) for name, device in devices.items()}
    return MappingProxyType({name: place for name, place in places.items() if place is not None})


def _must_be_new(gpu: Gpu, gpus: Mapping[str, Gpu], minors: Mapping[int, Gpu]) -> None:
    """Raises OddDeviceError if another GPU has its minor number or PCI address."""
    if gpu.minor in minors:
        raise OddDeviceError(f"{minors[gpu.minor].uuid} has minor number {gpu.minor} too")
    if gpu.pci_bus_id in gpus:
        raise OddDeviceError(f"{gpus[gpu.pci_bus_id].uuid} has PCI address {gpu.pci_bus_id} too")


def _odd(seen: GpuScan, pci: Mapping[str, PciFacts], reason: str) -> HiddenGpu:
    """A GPU that NVML shows and that cannot be published."""
    address = pci_address(seen.pci_bus_id)
    return HiddenGpu(address, pci.get(address, PciFacts()).driver, reason, seen.uuid or None, seen.minor)


def overlapping(inventory: Inventory, address: str, start: int, size: int) -> frozenset[str]:
    """Names of the devices offered that share a memory slice with `size` of them from `start` on, the GPU included.

    address   the GPU's
    """

    def is_touched(device: GpuDevice) -> bool:
        match device:
            case Gpu():
                return True
            case VfioGpu():
                return True
            case MigSpec() | MigDevice():
                return device.start < start + size and start < device.start + device.size

    lying = ((name, device) for name, device in inventory.devices.items() if address_of_device(device) == address)
    return frozenset(name for name, device in lying if is_touched(device))


def _published(gpu: Gpu, seen: GpuScan) -> Iterator[GpuDevice | NotPublished]:
    """What is offered of a GPU: itself, its MIG devices, or itself and all that could be made of it."""
    if gpu.partitioning is not None:
        if gpu.partitioning.can_toggle or not _is_on(seen):
            yield gpu
        yield from specs(gpu)
    elif _is_on(seen):
        yield from _live(gpu, seen)
    else:
        yield gpu


def _live(gpu: Gpu, seen: GpuScan) -> Iterator[MigDevice | NotPublished]:
    profiles = {each.profile_id: each for each in seen.mig.profiles}
    are_any = False
    for instance in seen.mig.instances:
        try:
            device = live(gpu, instance, profiles)
        except OddDeviceError as odd:
            are_any = True
            name = MigName(gpu.minor, "unknown", instance.profile_id, instance.start)
            yield NotPublished(str(name), str(odd))
        else:
            if device is not None:
                are_any = True
                yield device
    if not are_any:
        yield NotPublished(gpu.name, _NONE_SHOWN if seen.virtualization_mode == _VGPU_GUEST else _NONE_MADE)


def _is_on(seen: GpuScan) -> bool:
    return seen.mig_mode is not None and seen.mig_mode[0] == 1


def _is_stuck(seen: GpuScan, stuck: Mapping[str, StuckMode]) -> bool:
    """Whether a change of mode was refused and still is to be made: somebody may have reset the GPU since."""
    refused = stuck.get(pci_bus_id(seen.pci_bus_id))
    return refused is not None and _is_on(seen) != refused.on


def _partitioning(seen: GpuScan, never_toggles: bool) -> Partitioning | None:
    """How a GPU is partitioned on demand; None if it is not."""
    if seen.mig_mode is None or seen.virtualization_mode == _VGPU_GUEST:
        return None
    can_toggle = not never_toggles and _HOPPER <= seen.architecture != _UNKNOWN
    if not can_toggle and not _is_on(seen):
        return None
    return partitioning(seen.mig.profiles, seen.memory_bytes, can_toggle)


def _gpu(seen: GpuScan, scan: NodeScan, pci: Mapping[str, PciFacts], made: Partitioning | None) -> Gpu:
    if not seen.uuid or len(seen.uuid.encode()) > _TEXT_LIMIT:
        raise OddDeviceError(f'UUID "{seen.uuid}" cannot be published')
    address = pci_bus_id(seen.pci_bus_id)
    major, minor = seen.cuda_compute_capability
    return Gpu(
        minor=seen.minor,
        uuid=seen.uuid,
        product_name=_clip(seen.name),
        brand=brand_text(seen.brand),
        architecture=architecture_text(seen.architecture),
        cuda_compute_capability=version(f"{major}.{minor}"),
        driver_version=version(scan.driver_version),
        cuda_driver_version=cuda_version(scan.cuda_driver_version),
        pci_bus_id=address,
        memory_bytes=seen.memory_bytes,
        addressing_mode=None if seen.addressing_mode is None else addressing_mode_text(seen.addressing_mode),
        pci=pci.get(address) or _facts_of_nvml(seen),
        partitioning=made,
        index=seen.index,
        module_id=seen.module_id or 0,
    )


def _facts_of_nvml(seen: GpuScan) -> PciFacts:
    """What NVML knows of a GPU that sysfs does not show. Where sysfs shows it, sysfs counts, as in the Go driver."""
    return PciFacts(numa_node=seen.memory_affinity[0] if len(seen.memory_affinity) == 1 else None)


def _is_same_placement(one: str, other: str) -> bool:
    """Whether two names name one device: a profile's text is for people, its id tells."""
    if one == other:
        return True
    match parse_name(one), parse_name(other):
        case MigName(minor, _, profile_id, start), MigName(minor_2, _, profile_id_2, start_2):
            return (minor, profile_id, start) == (minor_2, profile_id_2, start_2)
        case _:
            return False


def _refused(left: LeftOut) -> NotPublished:
    device = left.uuid or f"GPU with index {left.index}"
    if left.minor is not None:
        device = str(GpuName(left.minor))
    said = f"{left.function}: {left.text} ({left.code})"
    if left.function.startswith("nvmlDeviceGetPciInfo") and left.code == _NOT_SUPPORTED:
        said = f"{_NO_ADDRESS} ({said})"
    return NotPublished(device, said)


def _clip(text: str) -> str:
    return text.encode()[:_TEXT_LIMIT].decode(errors="ignore")
