"""The NVLink fabric of a node: from what each GPU says to one clique id, or why there is none yet.

Source: the Go driver's rules, row by row. Where it ends its process, the node is unready and looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

_SUCCESS, _NOT_SUPPORTED = 0, 3
_STATE_NOT_SUPPORTED, _STATE_COMPLETED = 0, 3
_NO_CLUSTER = bytes(16)
MINIMUM_DRIVER = "570.158.01"


@dataclass(frozen=True, slots=True)
class GpuFabric:
    """What NVML says of one GPU's fabric, in the order of `nvdra._nvml.read_fabric`.

    code, text   NVML's return code and its text
    """

    index: int
    uuid: str
    code: int
    text: str
    cluster: bytes
    status: int
    clique: int
    state: int

    def __str__(self) -> str:
        return f"device {self.index}/{self.uuid}"


@dataclass(frozen=True, slots=True)
class Fabric:
    """The node's place in the fabric.

    clique    the clique id; "" without fabric
    unready   why the clique is not known, with the cause on the node; "" if it is
    notes     for the log, one line a GPU
    """

    clique: str = ""
    unready: str = ""
    notes: tuple[str, ...] = ()


def fabric(gpus: Sequence[GpuFabric], *, is_strict: bool, single_node: bool = False) -> Fabric:
    """The node's place in the fabric.

    is_strict     gate CrashOnNVLinkFabricErrors; else a GPU with a faulty fabric counts as one without
    single_node   the NVSwitches of this node are a fabric of their own (gate FabricManagerPartitioning)
    """
    found: list[tuple[str, int]] = []
    notes = []
    for gpu in gpus:
        if gpu.code == _NOT_SUPPORTED or (gpu.code == _SUCCESS and gpu.state == _STATE_NOT_SUPPORTED):
            continue
        if gpu.code != _SUCCESS:
            return Fabric(unready=f"failed to get GPU fabric info ({gpu}): {gpu.text} (NVML code {gpu.code})")
        if gpu.state != _STATE_COMPLETED:
            if is_strict and not single_node:
                return Fabric(unready=_not_attached(gpu))
            continue
        if gpu.status != _SUCCESS:
            if is_strict:
                return Fabric(unready=_failed(gpu))
            continue
        if gpu.cluster == _NO_CLUSTER:
            continue
        cluster = str(UUID(bytes=gpu.cluster))
        found.append((cluster, gpu.clique))
        # DROP-IN: the Go driver's, which its tests look for.
        notes.append(f"identified fabric clique UUID/ID ({gpu}): {cluster}/{gpu.clique}")
    clusters, cliques = sorted({each[0] for each in found}), sorted({each[1] for each in found})
    if len(clusters) > 1:
        return Fabric(unready=f"unexpected number of unique ClusterUUIDs found on devices: {', '.join(clusters)}")
    if len(cliques) > 1:
        return Fabric(unready=f"unexpected number of unique CliqueIDs found on devices: {', '.join(map(str, cliques))}")
    return Fabric(f"{clusters[0]}.{cliques[0]}" if found else "", "", tuple(notes))


def driver_too_old(version: str) -> str:
    """Why daemons cannot use DNS names with this driver; "" if they can."""
    if _numbers(version) >= _numbers(MINIMUM_DRIVER):
        return ""
    return (
        "driver version validation failed: minimum version not satisfied for IMEXDaemonsWithDNSNames feature: "
        f"the driver is {version}, it must be {MINIMUM_DRIVER} or newer "
        "(or turn that gate and ComputeDomainCliques off)"
    )


def _not_attached(gpu: GpuFabric) -> str:
    return (
        f"NVLink fabric not attached ({gpu}): state={gpu.state}; nothing is published until the GPU has registered "
        "(is the Fabric Manager or the NVLink subnet manager running?)"
    )


def _failed(gpu: GpuFabric) -> str:
    return (
        f"NVLink fabric registration error ({gpu}): status={gpu.status}; nothing is published until it succeeds "
        "(nvidia-smi -q shows the Fabric section; the Fabric Manager's log has the cause)"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in version.split("."))
