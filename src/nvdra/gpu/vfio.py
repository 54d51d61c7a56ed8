"""GPUs for passthrough to virtual machines: the device that is published, its attributes, and the step that binds it.

A GPU that can be passed through is published twice: as a full GPU while the NVIDIA driver has it, and as its *twin*.
Only one of the two can be in use. Values only: what sysfs says comes in as `Passthrough`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from nvdra.api.claim import ClaimRef
from nvdra.api.configs import PREFER_IOMMU_FD, Iommu, VfioDeviceConfig
from nvdra.api.gates import DRA_LIST_TYPE_ATTRIBUTES, Gates
from nvdra.api.quantity import binary
from nvdra.checkpoint import Entry, PreparedVfio
from nvdra.claims import Group, Refuse, answers
from nvdra.gpu.gpu import PciFacts
from nvdra.gpu.names import VfioName

_STANDARD = "resource.kubernetes.io"
_STANDARD_BUS_ID = len("0000:00:00.0")
_NO_GPUS: Mapping[str, PassthroughFacts] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PassthroughFacts:
    """What sysfs says of a GPU that a virtual machine may get.

    product_name        of pci.ids
    vendor_id, device_id   "0x10de", "0x2330"
    addressable_bytes   of its 64-bit memory regions, rounded up to a power of two
    refused             why it cannot be passed through now; "" if it can
    iommu_group         number of its IOMMU group; "" if it has none
    """

    product_name: str
    vendor_id: str
    device_id: str
    addressable_bytes: int
    refused: str = ""
    iommu_group: str = ""


@dataclass(frozen=True, slots=True)
class Passthrough:
    """What the node can pass through.

    unavailable   why it can pass through no GPU at all; "" if it can
    has_iommufd   it has /dev/iommu
    gpus          by PCI address
    """

    unavailable: str = ""
    has_iommufd: bool = False
    gpus: Mapping[str, PassthroughFacts] = field(default_factory=lambda: _NO_GPUS)


@dataclass(frozen=True, slots=True)
class VfioGpu:
    """A GPU as a device for virtual machines, whichever kernel driver has it now.

    position   among all GPUs of the node in the order of their PCI addresses
    """

    position: int
    pci_bus_id: str
    pci: PciFacts
    facts: PassthroughFacts
    has_iommufd: bool = False

    @property
    def name(self) -> str:
        return str(VfioName(self.position))

    @property
    def uuid(self) -> str:
        return vfio_uuid(self.pci_bus_id)


@dataclass(frozen=True, slots=True)
class BoundVfio:
    """A passed-through GPU as a container gets it.

    uses_iommufd     by its own character device of iommufd; else by its IOMMU group
    has_api_device   with the device of the API too
    """

    device: VfioGpu
    uses_iommufd: bool = False
    has_api_device: bool = False

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def uuid(self) -> str:
        return self.device.uuid


@dataclass(frozen=True, slots=True)
class BindVfio:
    """Bind all functions of a GPU's slot to vfio-pci; rolled back to the drivers from before.

    bound   what the container gets, which is its fact by device name; None where the step is only to be rolled back
    """

    kind: ClassVar[str] = "vfio"
    has_rollback: ClassVar[bool] = True

    device: str
    address: str
    bound: BoundVfio | None = None

    @property
    def key(self) -> str:
        return "driver"

    @property
    def resources(self) -> frozenset[str]:
        return frozenset((self.address,))


def vfio_uuid(pci_bus_id: str) -> str:
    """The UUID a passed-through GPU is published with: version 5, DNS namespace, name = PCI address."""
    digest = hashlib.sha1(uuid.NAMESPACE_DNS.bytes + pci_bus_id.encode(), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def is_vfio_driver(driver: str) -> bool:
    """Whether a kernel driver passes devices through: vfio-pci, or the variant of it for a model of GPU."""
    return "vfio" in driver


def published_vfio(device: VfioGpu, gates: Gates) -> dict[str, Any]:
    """The device as it stands in a ResourceSlice's `spec.devices`, without counters."""
    attributes: dict[str, dict[str, Any]] = {
        "deviceID": {"string": device.facts.device_id},
        "iommuFDEnabled": {"bool": device.has_iommufd},
        "productName": {"string": device.facts.product_name},
        "type": {"string": "vfio"},
        "uuid": {"string": device.uuid},
        "vendorID": {"string": device.facts.vendor_id},
    }
    if len(device.pci_bus_id) == _STANDARD_BUS_ID:
        attributes[f"{_STANDARD}/pciBusID"] = {"string": device.pci_bus_id}
    if (numa_node := device.pci.numa_node) is not None and numa_node >= 0:
        as_list = gates.enabled(DRA_LIST_TYPE_ATTRIBUTES)
        attributes[f"{_STANDARD}/numaNode"] = {"ints": [numa_node]} if as_list else {"int": numa_node}
    if device.pci.pcie_root is not None:
        attributes[f"{_STANDARD}/pcieRoot"] = {"string": device.pci.pcie_root}
    return {
        "attributes": dict(sorted(attributes.items())),
        "capacity": {"addressableMemory": {"value": str(binary(device.facts.addressable_bytes))}},
        "name": device.name,
    }


# ── steps and their devices ────────────────────────────────────────────────────────────────────────────────────────


def bound_devices(groups: Iterable[Group]) -> dict[str, BoundVfio]:
    """What containers get of the groups' passed-through GPUs, by device name."""
    found: dict[str, BoundVfio] = {}
    for group in groups:
        iommu = group.config.iommu if isinstance(group.config, VfioDeviceConfig) else None
        policy = iommu or Iommu()
        for _, device in group.members:
            if isinstance(device, VfioGpu):
                uses_iommufd = policy.backend_policy == PREFER_IOMMU_FD and device.has_iommufd
                found[device.name] = BoundVfio(device, uses_iommufd, bool(policy.enable_api_device))
    return found


def bindings(claim: ClaimRef, groups: Sequence[Group]) -> tuple[BindVfio, ...] | Refuse:
    """One step for each GPU that the claim gets for virtual machines, by name."""
    count = sum(isinstance(group.config, VfioDeviceConfig) for group in groups)
    if count > 1:
        # DROP-IN: the Go driver's text.
        return Refuse(
            f"prepare devices failed: claim {claim} contains {count} VFIO device groups, "
            "but at most one is supported per claim",
            permanent=True,
        )
    found = bound_devices(groups)
    return tuple(BindVfio(name, found[name].device.pci_bus_id, found[name]) for name in sorted(found))


def vfio_address(info: object, addresses: Iterable[str]) -> str:
    """The PCI address of a prepared passed-through GPU; "" if it is another kind, or none of these addresses fits.

    addresses   of the node's GPUs, for entries of releases that recorded no address
    """
    if not isinstance(info, PreparedVfio):
        return ""
    return info.pci_bus_id or next((address for address in addresses if vfio_uuid(address) == info.uuid), "")


def has_vfio(entry: Entry) -> bool:
    """Whether an entry has the prepared devices of passed-through GPUs."""
    return any(isinstance(device.info, PreparedVfio) for device in answers(entry))
