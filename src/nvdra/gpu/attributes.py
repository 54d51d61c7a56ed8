"""What is published of a device: attributes and capacities in the shape of resource.k8s.io/v1.

Names and units are contract: CEL selectors of existing claims read them.
"""

from __future__ import annotations

from typing import Any

from nvdra.api.gates import DRA_LIST_TYPE_ATTRIBUTES, Gates
from nvdra.gpu.counters import capacity, consumption
from nvdra.gpu.fabric_topology import FabricTopology
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.mig import GpuDevice, MigDevice, MigSpec, NvmlDevice, parent
from nvdra.gpu.topology import Topology
from nvdra.gpu.topology import attributes as topology_attributes
from nvdra.gpu.vfio import VfioGpu, published_vfio

_STANDARD = "resource.kubernetes.io"

PCI_BUS_ID = f"{_STANDARD}/pciBusID"
_STANDARD_BUS_ID = len("0000:00:00.0")
_NUMA_NODE = f"{_STANDARD}/numaNode"

# Attributes and capacities that the API server takes, less the capacity `shares`, which is added later.
_NAMED_VALUES = 32 - 1


def published(
    device: GpuDevice, gates: Gates, topology: Topology | None = None, fabric: FabricTopology | None = None
) -> dict[str, Any]:
    """The device as it stands in a ResourceSlice's `spec.devices`; keys sorted as the API server stores them.

    What is unknown is absent: NUMA node, PCIe root, addressing mode, memory. So is the PCI address where its domain has
    more than 16 bits: the standard attribute has no form for it.

    topology   where its GPU lies, if that is to be published; attributes beyond the API's limit are left out
    """
    of_fabric = fabric.attributes(device.pci_bus_id) if fabric and isinstance(device, Gpu | VfioGpu) else {}
    if isinstance(device, VfioGpu):
        made = published_vfio(device, gates)
        return made | {"attributes": dict(sorted((made["attributes"] | of_fabric).items()))}
    attributes = {**_of_gpu(parent(device), gates), **_own(device), **of_fabric}
    has = capacity(device)
    if topology is not None:
        if _NUMA_NODE not in attributes and topology.numa_node is not None:
            attributes[_NUMA_NODE] = _numa_node(topology.numa_node, gates)
        for name, value in topology_attributes(topology, is_partition=not isinstance(device, Gpu)):
            if len(attributes) + len(has or ()) < _NAMED_VALUES:
                attributes[name] = value
    made = {"attributes": dict(sorted(attributes.items()))}
    if has:
        made["capacity"] = has
    if consumes := consumption(device):
        made["consumesCounters"] = consumes
    made["name"] = device.name
    return made


def _own(device: NvmlDevice) -> dict[str, dict[str, Any]]:
    match device:
        case Gpu():
            return {"type": {"string": "gpu"}, "uuid": {"string": device.uuid}}
        case MigSpec():
            return _mig(device)
        case MigDevice():
            return {**_mig(device), "uuid": {"string": device.uuid}}


def _mig(device: MigSpec | MigDevice) -> dict[str, dict[str, Any]]:
    return {
        "parentUUID": {"string": device.parent.uuid},
        "profile": {"string": device.profile.text},
        "type": {"string": "mig"},
    }


def _of_gpu(gpu: Gpu, gates: Gates) -> dict[str, dict[str, Any]]:
    """What a GPU and all its partitions say alike."""
    attributes: dict[str, dict[str, Any]] = {
        "architecture": {"string": gpu.architecture},
        "brand": {"string": gpu.brand},
        "cudaComputeCapability": {"version": gpu.cuda_compute_capability},
        "cudaDriverVersion": {"version": gpu.cuda_driver_version},
        "driverVersion": {"version": gpu.driver_version},
        "productName": {"string": gpu.product_name},
    }
    if len(gpu.pci_bus_id) == _STANDARD_BUS_ID:
        attributes[PCI_BUS_ID] = {"string": gpu.pci_bus_id}
    if gpu.addressing_mode is not None:
        attributes["addressingMode"] = {"string": gpu.addressing_mode}
    numa_node = gpu.pci.numa_node
    if numa_node is not None and numa_node >= 0:
        attributes[_NUMA_NODE] = _numa_node(numa_node, gates)
    if gpu.pci.pcie_root is not None:
        attributes[f"{_STANDARD}/pcieRoot"] = {"string": gpu.pci.pcie_root}
    return attributes


def _numa_node(number: int, gates: Gates) -> dict[str, Any]:
    return {"ints": [number]} if gates.enabled(DRA_LIST_TYPE_ATTRIBUTES) else {"int": number}
