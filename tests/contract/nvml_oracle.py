"""The walk over a node as NVIDIA's own Python binding does it: what `nvdra.nvml` must say too.

Runs in a process of its own (`LD_LIBRARY_PATH` picks the library) and prints JSON.
"""

from __future__ import annotations

import ctypes
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
_NO_PROFILE = (*_ABSENT, pynvml.NVML_ERROR_INVALID_ARGUMENT)
_PROFILE_INDICES, _COMPUTE_INDICES, _ALL_ENGINES = 18, 9, 0

Tables = dict[tuple[Any, ...], list[dict[str, Any]]]


def walk(*, profiles: bool = False, by_model: bool = False) -> dict[str, Any]:
    """A `NodeScan` as plain values, between an init and a shutdown that are the caller's.

    profiles   of every GPU that is MIG capable
    by_model   read once for all GPUs of a model
    """
    tables: Tables | None = {} if by_model else None
    gpus: list[dict[str, Any]] = []
    handles: dict[int, Any] = {}
    left_out: list[dict[str, Any]] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if pynvml.nvmlDeviceGetName(handle) in _DISPLAYS:
                continue
            gpu = _gpu(index, handle)
            gpu["mig"] = _mig(handle, gpu, tables, profiles=profiles)
            gpus.append(gpu)
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
        "module_id": _known(pynvml.nvmlDeviceGetModuleId, handle),
    }


def _mig(handle: Any, gpu: dict[str, Any], tables: Tables | None, *, profiles: bool) -> dict[str, Any]:
    is_on = gpu["mig_mode"] is not None and gpu["mig_mode"][0] == 1
    if not is_on and (gpu["mig_mode"] is None or not profiles):
        return {"profiles": [], "instances": []}
    model = (gpu["name"], gpu["memory_bytes"], gpu["architecture"], *gpu["cuda_compute_capability"])
    if tables is None:
        table = _profiles(handle)
    elif (table := tables.get(model, [])) == []:
        table = tables[model] = _profiles(handle)
    found = [_gpu_instance(instance) for profile in table for instance in _listed(handle, profile)] if is_on else []
    return {"profiles": table, "instances": sorted(found, key=lambda instance: int(instance["start"]))}


def _profiles(handle: Any) -> list[dict[str, Any]]:
    found = []
    for index in range(_PROFILE_INDICES):
        try:
            about = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, index, version=1)
            placements = _placements(handle, about.id)
        except pynvml.NVMLError as error:
            if error.value not in _NO_PROFILE:
                raise
            continue
        found.append(
            {
                "index": index,
                "profile_id": about.id,
                "slices": about.sliceCount,
                "most": about.instanceCount,
                "multiprocessors": about.multiprocessorCount,
                "copy_engines": about.copyEngineCount,
                "decoders": about.decoderCount,
                "encoders": about.encoderCount,
                "jpeg_engines": about.jpegCount,
                "ofa_engines": about.ofaCount,
                "memory_mib": about.memorySizeMB,
                "placements": placements,
            }
        )
    return found


def _placements(handle: Any, profile_id: int) -> list[list[int]]:
    count = ctypes.c_uint()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile_id, None, ctypes.byref(count))
    room = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    if count.value:
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile_id, room, ctypes.byref(count))
    return sorted([placement.start, placement.size] for placement in room)


def _listed(handle: Any, profile: dict[str, Any]) -> list[Any]:
    room, count = (pynvml.c_nvmlGpuInstance_t * profile["most"])(), ctypes.c_uint(profile["most"])
    pynvml.nvmlDeviceGetGpuInstances(handle, profile["profile_id"], room, ctypes.byref(count))
    return [room[at] for at in range(count.value)]


def _gpu_instance(instance: Any) -> dict[str, Any]:
    about = pynvml.nvmlGpuInstanceGetInfo(instance)
    found = []
    for index in range(_COMPUTE_INDICES):
        try:
            profile = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, index, _ALL_ENGINES, version=1)
        except pynvml.NVMLError as error:
            if error.value not in _NO_PROFILE:
                raise
            continue
        count = ctypes.c_uint(profile.instanceCount)
        room = (pynvml.c_nvmlComputeInstance_t * profile.instanceCount)()
        pynvml.nvmlGpuInstanceGetComputeInstances(instance, profile.id, room, ctypes.byref(count))
        for at in range(count.value):
            inside = pynvml.nvmlComputeInstanceGetInfo_v2(room[at])
            uuid = pynvml.nvmlDeviceGetUUID(inside.device)
            found.append({"ci_id": inside.id, "profile_id": inside.profileId, "uuid": uuid})
    return {
        "gi_id": about.id,
        "profile_id": about.profileId,
        "start": about.placement.start,
        "size": about.placement.size,
        "compute": sorted(found, key=lambda inside: int(inside["ci_id"])),
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


def main(repeat: int, *, profiles: bool, by_model: bool) -> None:
    """Prints what the last of `repeat` walks said, how long each took, and init and shutdown, in seconds."""
    pynvml.nvmlInitWithFlags(1)
    walks_s = []
    for _ in range(repeat):
        began = time.perf_counter()
        said = walk(profiles=profiles, by_model=by_model)
        walks_s.append(time.perf_counter() - began)
    pynvml.nvmlShutdown()
    json.dump({"node": said, "walks_s": walks_s}, sys.stdout)


if __name__ == "__main__":
    options = sys.argv[2:]
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, profiles="profiles" in options, by_model="by-model" in options)
