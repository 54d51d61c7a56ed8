"""Where a GPU lies on its node: attributes by which a claim can ask for GPUs near each other or near another device.

They are additions to the Go driver's attributes, and published only where the administrator wants them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvdra.gpu.gpu import pci_address
from nvdra.gpu.scan import GpuScan, NodeScan

_P2P_OK = 0  # nvmlGpuP2PStatus_t


@dataclass(frozen=True, slots=True)
class Locality:
    """What sysfs says of a PCI function's place; None where it does not say.

    cpu_socket    the socket of the CPUs nearest to it; None if these are CPUs of several sockets
    pcie_switch   PCI address of the upstream port of the switch that it is plugged into
    """

    cpu_socket: int | None = None
    pcie_switch: str | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """A GPU's place; None where it is not known.

    nvlink_domain   the same text for all GPUs of the node that reach each other over NVLink, each of them each other
    nvlinks         its active links; None without NVLink
    numa_node       sysfs' if it has one, else NVML's
    """

    nvlink_domain: str | None = None
    nvlinks: int | None = None
    numa_node: int | None = None
    cpu_socket: int | None = None
    pcie_switch: str | None = None


def topologies(scan: NodeScan, localities: Mapping[str, Locality]) -> dict[str, Topology]:
    """The place of every GPU of a scan, by PCI address.

    localities   by PCI address; a GPU that sysfs does not show has NVML's answers only
    """
    gpus = {address: gpu for gpu in scan.gpus if (address := pci_address(gpu.pci_bus_id))}
    domains = {address: domain for domain, members in _nvlink_domains(gpus, scan.p2p) for address in members}
    return {
        address: Topology(
            nvlink_domain=domains.get(address),
            nvlinks=sum(link.is_active for link in gpu.nvlinks) if gpu.nvlinks else None,
            numa_node=gpu.memory_affinity[0] if len(gpu.memory_affinity) == 1 else None,
            cpu_socket=localities.get(address, Locality()).cpu_socket,
            pcie_switch=localities.get(address, Locality()).pcie_switch,
        )
        for address, gpu in gpus.items()
    }


def attributes(topology: Topology, *, is_partition: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and values, the most useful first.

    is_partition   a MIG device: none of them reaches a peer over NVLink
    """
    if topology.nvlink_domain is not None and not is_partition:
        yield "nvlinkDomain", {"string": topology.nvlink_domain}
    if topology.nvlinks is not None and not is_partition:
        yield "nvlinkCount", {"int": topology.nvlinks}
    if topology.pcie_switch is not None:
        yield "pcieSwitch", {"string": topology.pcie_switch}
    if topology.cpu_socket is not None:
        yield "cpuSocket", {"int": topology.cpu_socket}


def _nvlink_domains(
    gpus: Mapping[str, GpuScan], p2p: Mapping[tuple[int, int], int]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Name and members of each domain; the name is the address of its first GPU.

    NVML's P2P matrix counts, not the far ends of the links: behind an NVSwitch these are the same for all. A GPU joins
    the first domain whose members it reaches, every one and in both directions: so that any two GPUs of a domain are
    linked also where links form a mesh with gaps. A GPU with active links and without a peer is a domain of its own.
    """
    domains: list[list[str]] = []
    for address in sorted(gpus):
        own = gpus[address].index
        for members in domains:
            peers = [gpus[member].index for member in members]
            if all(p2p.get((own, peer)) == p2p.get((peer, own)) == _P2P_OK for peer in peers):
                members.append(address)
                break
        else:
            domains.append([address])
    for members in domains:
        if len(members) > 1 or any(link.is_active for link in gpus[members[0]].nvlinks):
            yield members[0], members
