"""The walk over a node as NVIDIA's own Python binding does it: what `nvdra.nvml` must say too.

Runs in a process of its own (`LD_LIBRARY_PATH` picks the library) and prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pynvml

_CPU_WORDS, _NODE_WORDS, _NODE_SCOPE, _MOST_LINKS = 128, 16, 0, 18
_DISPLAYS = ("DGX Display", "NVIDIA DGX Display")
# What a library without a function says, and what a GPU says that has no such thing.
_ABSENT = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def walk() -> dict[str, Any]:
    """A `NodeScan` as plain values, between an init and a shutdown that are the caller's."""
    gpus: list[dict[str, Any]] = []
    handles: dict[int, Any] = {}
    left_out: list[dict[str, Any]] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if pynvml.nvmlDeviceGetName(handle) in _DISPLAYS:
                continue
            gpus.append(_gpu(index, handle))
            handles[index] = handle
        except pynvml.NVMLError as error:
            left_out.append({"index": index, "code": error.value})
    return {
        "driver_version": pynvml.nvmlSystemGetDriverVersion(),
        "cuda_driver_version": pynvml.nvmlSystemGetCudaDriverVersion(),
        "gpus": gpus,
        "left_out": left_out,
        "common_ancestor": _pairs(handles, pynvml.nvmlDeviceGetTopologyCommonAncestor, ordered=False),
        "p2p": _pairs(handles, _nvlink_p2p, ordered=True),
    }


def _gpu(index: int, handle: Any) -> dict[str, Any]:
    mode = _known(pynvml.nvmlDeviceGetMigMode, handle, only=_ABSENT)
    memory = _known(pynvml.nvmlDeviceGetMemoryInfo, handle, only=(pynvml.NVML_ERROR_NOT_SUPPORTED,))
    return {
        "index": index,
        "minor": pynvml.nvmlDeviceGetMinorNumber(handle),
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
        "pci_bus_id": pynvml.nvmlDeviceGetPciInfo(handle).busId,
        "architecture": pynvml.nvmlDeviceGetArchitecture(handle),
        "brand": pynvml.nvmlDeviceGetBrand(handle),
        "cuda_compute_capability": list(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        "memory_bytes": None if memory is None else memory.total,
        "mig_mode": None if mode is None else list(mode),
        "addressing_mode": _known(pynvml.nvmlDeviceGetAddressingMode, handle, only=_ABSENT),
        "numa_node": _known(pynvml.nvmlDeviceGetNumaNodeId, handle),
        "cpu_affinity": _bits(_known(pynvml.nvmlDeviceGetCpuAffinity, handle, _CPU_WORDS)),
        "nvlinks": _links(handle),
        "memory_affinity": _bits(_known(pynvml.nvmlDeviceGetMemoryAffinity, handle, _NODE_WORDS, _NODE_SCOPE)),
        "virtualization_mode": _known(pynvml.nvmlDeviceGetVirtualizationMode, handle),
        "persistence_mode": _known(pynvml.nvmlDeviceGetPersistenceMode, handle),
    }


def _known(function: Callable[..., Any], *arguments: Any, only: tuple[int, ...] | None = None) -> Any:
    """The answer, None where NVML refuses; `only`: other refusals leave the GPU out."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_GPU_IS_LOST or (only is not None and error.value not in only):
            raise
        return None


def _links(handle: Any) -> list[dict[str, Any]]:
    try:
        pynvml.nvmlDeviceGetNvLinkState(handle, 0)
    except pynvml.NVMLError as error:
        if error.value in _ABSENT:
            return []  # a GPU without NVLink says so of its first link
    return [link for number in range(_MOST_LINKS) if (link := _link(handle, number)) is not None]


def _link(handle: Any, number: int) -> dict[str, Any] | None:
    is_active = _known(pynvml.nvmlDeviceGetNvLinkState, handle, number)
    if is_active is None:
        return None

    def ask(function: Callable[..., Any]) -> Any:
        return _known(function, handle, number) if is_active else None

    remote = ask(pynvml.nvmlDeviceGetNvLinkRemotePciInfo)
    return {
        "link": number,
        "is_active": is_active == 1,
        "version": ask(pynvml.nvmlDeviceGetNvLinkVersion),
        "remote_pci_bus_id": None if remote is None else remote.busId,
        "remote_type": ask(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType),
    }


def _nvlink_p2p(one: Any, other: Any) -> int:
    return int(pynvml.nvmlDeviceGetP2PStatus(one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK))


def _pairs(handles: dict[int, Any], function: Callable[[Any, Any], int], *, ordered: bool) -> list[list[int]]:
    found = []
    for one, first in handles.items():
        for other, second in handles.items():
            if (one != other if ordered else one < other) and (value := _known(function, first, second)) is not None:
                found.append([one, other, value])
    return found


def _bits(words: Any) -> list[int]:
    return [64 * at + bit for at, word in enumerate(words or ()) for bit in range(64) if word >> bit & 1]


def main(repeat: int) -> None:
    """Prints what the last of `repeat` walks said, how long each took, and init and shutdown, in seconds."""
    pynvml.nvmlInitWithFlags(1)
    walks_s = []
    for _ in range(repeat):
        began = time.perf_counter()
        said = walk()
        walks_s.append(time.perf_counter() - began)
    pynvml.nvmlShutdown()
    json.dump({"node": said, "walks_s": walks_s}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
