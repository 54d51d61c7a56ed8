"""Asks the NVML found by the loader everything a mock can answer, through NVIDIA's own binding; prints JSON.

Run as a program with LD_LIBRARY_PATH set: a process can hold one NVML only.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import pynvml

GETTERS = [
    "Index",
    "Name",
    "UUID",
    "MinorNumber",
    "Serial",
    "BoardId",
    "MultiGpuBoard",
    "VbiosVersion",
    "ModuleId",
    "NumGpuCores",
    "MemoryBusWidth",
    "Architecture",
    "Brand",
    "CudaComputeCapability",
    "VirtualizationMode",
    "PersistenceMode",
    "ComputeMode",
    "MemoryInfo",
    "BAR1MemoryInfo",
    "PciInfo",
    "MigMode",
    "MaxMigDeviceCount",
    "SupportedEventTypes",
    "NumaNodeId",
    "GpuInstanceId",
    "ComputeInstanceId",
    "ComputeRunningProcesses",
    "GraphicsRunningProcesses",
    "FanSpeed",
    "EccMode",
]


def told(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call returns, or the code it fails with as `{"error": n}`."""
    try:
        value = call(*arguments)
    except pynvml.NVMLError as error:
        return {"error": error.value}
    return plain(value)


def plain(value: Any) -> Any:
    """A value as JSON has it; structs by field."""
    if isinstance(value, ctypes.Structure):
        return {field[0]: plain(getattr(value, field[0])) for field in type(value)._fields_}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, ctypes.Array):
        return [plain(item) for item in value]
    if isinstance(value, ctypes.c_uint):
        return value.value
    if isinstance(value, bytes):
        return value.decode()
    return value


def bits(words: list[int]) -> list[int]:
    return [64 * at + bit for at, word in enumerate(words) for bit in range(64) if word >> bit & 1]


def placements(handle: Any, profile: int) -> Any:
    count = ctypes.c_uint(0)
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile, None, ctypes.byref(count))
    array = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile, array, ctypes.byref(count))
    return [[item.start, item.size] for item in array]


def mig(handle: Any) -> Any:
    table = {}
    for index in range(19):
        profile = told(pynvml.nvmlDeviceGetGpuInstanceProfileInfo, handle, index)
        if "error" not in profile:
            profile["placements"] = placements(handle, profile["id"])
            profile["v2"] = told(pynvml.nvmlDeviceGetGpuInstanceProfileInfoV, handle, index, 2)
            profile["by id"] = told(pynvml.nvmlDeviceGetGpuInstanceProfileInfoByIdV, handle, profile["id"])
        table[index] = profile
    return table


def extended_pci(handle: Any) -> Any:
    out = pynvml.nvmlPciInfoExt_v1_t()
    out.version = pynvml.nvmlPciInfoExt_v1
    pynvml.nvmlDeviceGetPciInfoExt(handle, ctypes.byref(out))
    return plain(out)


def links(handle: Any) -> Any:
    found = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        state = told(pynvml.nvmlDeviceGetNvLinkState, handle, link)
        if isinstance(state, dict):
            return {"links": found, "end": state["error"]}
        remote = told(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        version = told(pynvml.nvmlDeviceGetNvLinkVersion, handle, link)
        kind = told(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        found.append({"state": state, "version": version, "remote": remote.get("busId", remote), "kind": kind})
    return {"links": found, "end": None}


def gpu(handle: Any, handles: list[Any]) -> dict[str, Any]:
    getters = {name: getattr(pynvml, f"nvmlDeviceGet{name}") for name in GETTERS}
    values = {name: told(getter, handle) for name, getter in getters.items()}
    values["MemoryInfo_v2"] = told(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    values["MigDeviceHandleByIndex"] = told(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, 0)
    values["GpuInstanceById"] = told(pynvml.nvmlDeviceGetGpuInstanceById, handle, 1)
    values["IsMigDeviceHandle"] = told(pynvml.nvmlDeviceIsMigDeviceHandle, handle)
    values["AddressingMode"] = told(pynvml.nvmlDeviceGetAddressingMode, handle)
    values["BoardPartNumber"] = told(pynvml.nvmlDeviceGetBoardPartNumber, handle)
    values["PciInfoExt"] = extended_pci(handle)
    values["Profiles"] = mig(handle)
    values["NvLink"] = links(handle)
    values["Cpus"] = bits(pynvml.nvmlDeviceGetCpuAffinity(handle, 4))
    values["CpusOfSocket"] = bits(pynvml.nvmlDeviceGetCpuAffinityWithinScope(handle, 4, 1))
    values["Nodes"] = bits(pynvml.nvmlDeviceGetMemoryAffinity(handle, 1, 0))
    values["Ancestors"] = [told(pynvml.nvmlDeviceGetTopologyCommonAncestor, handle, other) for other in handles]
    values["P2P"] = [
        [told(pynvml.nvmlDeviceGetP2PStatus, handle, other, index) for index in range(6)] for other in handles
    ]
    values["Near"] = {
        level: sorted(
            pynvml.nvmlDeviceGetMinorNumber(other) for other in pynvml.nvmlDeviceGetTopologyNearestGpus(handle, level)
        )
        for level in (10, 20, 30, 40, 50)
    }
    return values


def same(handle: Any) -> dict[str, Any]:
    """Whether every other road to a GPU ends at the same handle."""
    uuid = pynvml.nvmlDeviceGetUUID(handle)
    bus_id = pynvml.nvmlDeviceGetPciInfo(handle).busId
    serial = told(pynvml.nvmlDeviceGetSerial, handle)

    def ends_here(road: Callable[..., Any], *arguments: Any) -> Any:
        return told(lambda: ctypes.addressof(road(*arguments).contents) == ctypes.addressof(handle.contents))

    return {
        "uuid": ends_here(pynvml.nvmlDeviceGetHandleByUUID, uuid),
        "text": ends_here(pynvml.nvmlDeviceGetHandleByUUIDV, uuid.encode(), pynvml.NVML_UUID_TYPE_ASCII),
        "bytes": ends_here(
            pynvml.nvmlDeviceGetHandleByUUIDV,
            bytes.fromhex(uuid.removeprefix("GPU-").replace("-", "")),
            pynvml.NVML_UUID_TYPE_BINARY,
        ),
        "pci": ends_here(pynvml.nvmlDeviceGetHandleByPciBusId, bus_id),
        "short pci": ends_here(pynvml.nvmlDeviceGetHandleByPciBusId, bus_id[4:].lower()),
        "serial": isinstance(serial, dict) or ends_here(pynvml.nvmlDeviceGetHandleBySerial, serial),
    }


def node() -> dict[str, Any]:
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    seen = {
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "nvml": pynvml.nvmlSystemGetNVMLVersion(),
        "cuda": [pynvml.nvmlSystemGetCudaDriverVersion(), pynvml.nvmlSystemGetCudaDriverVersion_v2()],
        "gpus": [gpu(handle, handles) for handle in handles],
        "same": [same(handle) for handle in handles],
        "beyond": told(pynvml.nvmlDeviceGetHandleByIndex, len(handles)),
        "unknown uuid": told(pynvml.nvmlDeviceGetHandleByUUID, "GPU-00000000-0000-0000-0000-000000000000"),
        "unknown pci": told(pynvml.nvmlDeviceGetHandleByPciBusId, "0000:ff:1f.0"),
    }
    pynvml.nvmlShutdown()
    seen["after shutdown"] = [told(pynvml.nvmlDeviceGetCount), told(pynvml.nvmlShutdown)]
    return seen


if __name__ == "__main__":
    json.dump(node(), sys.stdout)
