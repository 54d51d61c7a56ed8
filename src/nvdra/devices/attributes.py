"""What is published of a device: attributes and capacities in the shape of resource.k8s.io/v1.

Names and units are contract: CEL selectors of existing claims read them.
"""

from __future__ import annotations

from typing import Any

from nvdra.api.gates import DRA_LIST_TYPE_ATTRIBUTES, Gates
from nvdra.api.quantity import binary
from nvdra.devices.gpu import Gpu

_STANDARD = "resource.kubernetes.io"


def published(gpu: Gpu, gates: Gates) -> dict[str, Any]:
    """The device as it stands in a ResourceSlice's `spec.devices`; keys sorted as the API server stores them.

    What is unknown is absent: NUMA node, PCIe root, addressing mode, memory.
    """
    attributes: dict[str, dict[str, Any]] = {
        "architecture": {"string": gpu.architecture},
        "brand": {"string": gpu.brand},
        "cudaComputeCapability": {"version": gpu.cuda_compute_capability},
        "cudaDriverVersion": {"version": gpu.cuda_driver_version},
        "driverVersion": {"version": gpu.driver_version},
        "productName": {"string": gpu.product_name},
        f"{_STANDARD}/pciBusID": {"string": gpu.pci_bus_id},
        "type": {"string": "gpu"},
        "uuid": {"string": gpu.uuid},
    }
    if gpu.addressing_mode is not None:
        attributes["addressingMode"] = {"string": gpu.addressing_mode}
    numa_node = gpu.pci.numa_node
    if numa_node is not None and numa_node >= 0:
        as_list = gates.enabled(DRA_LIST_TYPE_ATTRIBUTES)
        attributes[f"{_STANDARD}/numaNode"] = {"ints": [numa_node]} if as_list else {"int": numa_node}
    if gpu.pci.pcie_root is not None:
        attributes[f"{_STANDARD}/pcieRoot"] = {"string": gpu.pci.pcie_root}
    device: dict[str, Any] = {"attributes": dict(sorted(attributes.items()))}
    if gpu.memory_bytes is not None:
        device["capacity"] = {"memory": {"value": str(binary(gpu.memory_bytes))}}
    device["name"] = gpu.name
    return device
