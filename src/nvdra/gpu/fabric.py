"""The fabric partition that a claim's GPUs need: the step that activates it, and how an entry is found to need it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nvdra.api.claim import ClaimRef
from nvdra.checkpoint import Entry, PreparedDevice, PreparedGpu, PreparedVfio
from nvdra.claims import Group, Refuse, answers
from nvdra.gpu.extents import exclusive_names, extent
from nvdra.gpu.fabric_topology import FabricPartition
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.inventory import Inventory
from nvdra.gpu.names import GpuName, VfioName, parse_name
from nvdra.gpu.vfio import VfioGpu

_REFUSING = "refusing partition activation"


@dataclass(frozen=True, slots=True)
class ActivateFabricPartition:
    """Activate the partition of these GPUs; rolled back by deactivating it.

    addresses, names   of its GPUs, sorted
    """

    kind: ClassVar[str] = "fabric-partition"
    has_rollback: ClassVar[bool] = True

    id: int
    addresses: tuple[str, ...]
    names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return str(self.id)

    @property
    def resources(self) -> frozenset[str]:
        return frozenset(self.addresses)


def fabric_steps(groups: Sequence[Group], inventory: Inventory) -> tuple[ActivateFabricPartition, ...] | Refuse:
    """The partition of all GPUs of a claim: full ones and those that are passed through; none without a fabric."""
    topology = inventory.fabric
    if topology is None:
        return ()
    found = {
        address: device.name
        for group in groups
        for result, device in group.members
        if not result.admin_access and (address := _address(device)) is not None
    }
    if not found:
        return ()
    if topology.unread:
        return Refuse(f"prepare devices failed: Fabric Manager is not ready: {topology.unread}; kubelet will ask again")
    modules = []
    for address in sorted(found):
        module = topology.modules.get(address)
        if not module:
            return Refuse(
                f'prepare devices failed: fabric manager: no gpuModuleID for GPU at PCI "{address}"; {_REFUSING}',
                rescan=True,
            )
        modules.append(module)
    partition = topology.matching(modules)
    if partition is None:
        members = " ".join(map(str, sorted(modules)))
        return Refuse(
            f"prepare devices failed: fabric manager: GPU module set [{members}] does not match any FM partition; "
            f"{_REFUSING}: claim all GPUs of one partition (a constraint with matchAttribute "
            f"gpu.nvidia.com/partition{len(modules)})",
            permanent=True,
        )
    return (_step(partition, found),)


def fabric_teardown(
    claim: ClaimRef, entry: Entry, inventory: Inventory
) -> tuple[tuple[ActivateFabricPartition, ...], tuple[str, ...]]:
    """The partition that an entry's claim activated, and notes for the log where it cannot be told."""
    topology = inventory.fabric
    found = dict(_gpus(entry, inventory))
    if topology is None or not found:
        return (), ()
    partition = topology.matching([topology.modules.get(address, 0) for address in found])
    if partition is None:
        gpus = ", ".join(sorted(found.values()))
        return (), (f"claim {claim}: the fabric partition of {gpus} is not known, so none is deactivated",)
    return (_step(partition, found),), ()


def needs_partition(step: ActivateFabricPartition, entry: Entry) -> bool:
    """Whether an entry of any state still needs a GPU of the partition."""
    return bool(exclusive_names(entry) & set(step.names))


def uses_gpus(entry: Entry) -> bool:
    """Whether an entry has GPUs that a fabric partition may have been activated for."""
    return any(isinstance(parse_name(name), GpuName | VfioName) for name in exclusive_names(entry))


def _step(partition: FabricPartition, found: dict[str, str]) -> ActivateFabricPartition:
    return ActivateFabricPartition(partition.id, tuple(sorted(found)), tuple(sorted(found.values())))


def _address(device: object) -> str | None:
    """The PCI address of a full GPU, or of one that is passed through; None for a part of a GPU."""
    return device.pci_bus_id if isinstance(device, Gpu | VfioGpu) else None


def _gpus(entry: Entry, inventory: Inventory) -> Iterator[tuple[str, str]]:
    """PCI address and name of each GPU that an entry has for itself."""
    prepared = {device.device: device for device in answers(entry)}
    for name in sorted(exclusive_names(entry)):
        if not isinstance(parse_name(name), GpuName | VfioName):
            continue
        known = extent(name, inventory)
        address = _prepared_address(prepared.get(name), inventory) or ("" if known is None else known.gpu)
        if address:
            yield address, name


def _prepared_address(device: PreparedDevice | None, inventory: Inventory) -> str:
    match device and device.info:
        case PreparedGpu(uuid=uuid):
            address = inventory.address_of(uuid)
            return "" if address == uuid else address
        case PreparedVfio(pci_bus_id=address):
            return address
    return ""
