"""Works MIG through NVIDIA's own binding, line by line as told on stdin; answers each line with one of JSON.

Run as a program with LD_LIBRARY_PATH set: a process can hold one NVML only. A line is a JSON list: a verb of `VERBS`
and its arguments; a failed call answers `{"error": code}`.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import pynvml

from tests.contract.mock_nvml_probe import plain


def gpu(minor: int) -> Any:
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        if pynvml.nvmlDeviceGetMinorNumber(handle) == minor:
            return handle
    raise ValueError(f"no GPU with minor {minor}")


def address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def set_mode(minor: int, on: int) -> int:
    return int(pynvml.nvmlDeviceSetMigMode(gpu(minor), on))


def create(minor: int, profile: int, start: int, size: int) -> int:
    placement = pynvml.c_nvmlGpuInstancePlacement_t(start, size)
    made = pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu(minor), profile, ctypes.byref(placement))
    return int(pynvml.nvmlGpuInstanceGetInfo(made).id)


def create_anywhere(minor: int, profile: int) -> int:
    return int(pynvml.nvmlGpuInstanceGetInfo(pynvml.nvmlDeviceCreateGpuInstance(gpu(minor), profile)).id)


def instance(minor: int, gi: int) -> Any:
    return pynvml.nvmlDeviceGetGpuInstanceById(gpu(minor), gi)


def instance_told(minor: int, gi: int) -> Any:
    told = pynvml.nvmlGpuInstanceGetInfo(instance(minor, gi))
    assert address(told.device) == address(gpu(minor))
    return [told.id, told.profileId, told.placement.start, told.placement.size]


def instances(minor: int, profile: int) -> list[int]:
    room, count = (pynvml.c_nvmlGpuInstance_t * 8)(), ctypes.c_uint(77)
    pynvml.nvmlDeviceGetGpuInstances(gpu(minor), profile, room, ctypes.byref(count))
    return [pynvml.nvmlGpuInstanceGetInfo(room[at]).id for at in range(count.value)]


def compute_profile(minor: int, gi: int, index: int, engine: int = 0) -> Any:
    first = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance(minor, gi), index, engine, version=1)
    second = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance(minor, gi), index, engine)
    assert (first.id, first.multiprocessorCount) == (second.id, second.multiprocessorCount)
    return [second.id, second.sliceCount, second.instanceCount, second.multiprocessorCount, plain(second.name)]


def create_compute(minor: int, gi: int, profile: int) -> int:
    made = pynvml.nvmlGpuInstanceCreateComputeInstance(instance(minor, gi), profile)
    return int(pynvml.nvmlComputeInstanceGetInfo_v2(made).id)


def compute(minor: int, gi: int, ci: int) -> Any:
    return pynvml.nvmlGpuInstanceGetComputeInstanceById(instance(minor, gi), ci)


def compute_told(minor: int, gi: int, ci: int) -> Any:
    told = pynvml.nvmlComputeInstanceGetInfo_v2(compute(minor, gi, ci))
    assert address(told.gpuInstance) == address(instance(minor, gi))
    placement = [told.placement.start, told.placement.size]
    return [told.id, told.profileId, placement, pynvml.nvmlDeviceGetUUID(told.device)]


def computes(minor: int, gi: int, profile: int) -> list[int]:
    room, count = (pynvml.c_nvmlComputeInstance_t * 8)(), ctypes.c_uint(77)
    pynvml.nvmlGpuInstanceGetComputeInstances(instance(minor, gi), profile, room, ctypes.byref(count))
    return [pynvml.nvmlComputeInstanceGetInfo_v2(room[at]).id for at in range(count.value)]


def devices(minor: int) -> list[Any]:
    """The MIG devices by index, as static discovery walks them."""
    found = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu(minor))):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu(minor), index)
        except pynvml.NVMLError_NotFound:
            continue
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        assert plain(pynvml.nvmlDeviceIsMigDeviceHandle(handle)) == 1
        assert address(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)) == address(gpu(minor))
        assert address(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == address(handle)
        ids = [
            plain(pynvml.nvmlDeviceGetGpuInstanceId(handle)),
            plain(pynvml.nvmlDeviceGetComputeInstanceId(handle)),
        ]
        found.append([*ids, uuid, pynvml.nvmlDeviceGetName(handle)])
    return found


def about(uuid: str) -> Any:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    attributes = plain(pynvml.nvmlDeviceGetAttributes_v2(handle))
    return {"memory": pynvml.nvmlDeviceGetMemoryInfo(handle).total, "minor": told_minor(handle), **attributes}


def told_minor(handle: Any) -> Any:
    """A MIG device has no minor of its own."""
    try:
        return pynvml.nvmlDeviceGetMinorNumber(handle)
    except pynvml.NVMLError as error:
        return {"error": error.value}


def processes(uuid: str) -> Any:
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    return [[item.pid, item.usedGpuMemory, item.gpuInstanceId, item.computeInstanceId] for item in listed]


def fabric(minor: int) -> Any:
    first, third = pynvml.c_nvmlGpuFabricInfo_t(), pynvml.c_nvmlGpuFabricInfo_v3_t()
    second = pynvml.c_nvmlGpuFabricInfoV_t()
    pynvml.nvmlDeviceGetGpuFabricInfo(gpu(minor), ctypes.byref(first))
    for versioned in (second, third):
        pynvml.nvmlDeviceGetGpuFabricInfoV(gpu(minor), ctypes.byref(versioned))
    for other in (second, third):
        assert (plain(other.clusterUuid), other.cliqueId, other.state) == (
            plain(first.clusterUuid),
            first.cliqueId,
            first.state,
        )
    return [bytes(first.clusterUuid).hex(), first.cliqueId, first.state, first.status, third.healthSummary]


SETS: list[Any] = []


def listen(minor: int, mask: int) -> int:
    if not SETS:
        SETS.append(pynvml.nvmlEventSetCreate())
    pynvml.nvmlDeviceRegisterEvents(gpu(minor), mask, SETS[0])
    return 0


def wait(timeout_ms: int) -> Any:
    heard = pynvml.nvmlEventSetWait_v2(SETS[0], timeout_ms)
    minor = pynvml.nvmlDeviceGetMinorNumber(heard.device)
    return [minor, heard.eventType, heard.eventData, heard.gpuInstanceId, heard.computeInstanceId]


def reopen() -> int:
    pynvml.nvmlShutdown()
    pynvml.nvmlInit()
    return 0


VERBS: dict[str, Callable[..., Any]] = {
    "mode": lambda minor: pynvml.nvmlDeviceGetMigMode(gpu(minor)),
    "max": lambda minor: pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu(minor)),
    "left": lambda minor, profile: pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu(minor), profile),
    "compute left": lambda minor, gi, profile: pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(
        instance(minor, gi), profile
    ),
    "slot": lambda minor, index: bool(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu(minor), index)),
    "destroy": lambda minor, gi: pynvml.nvmlGpuInstanceDestroy(instance(minor, gi)),
    "destroy compute": lambda minor, gi, ci: pynvml.nvmlComputeInstanceDestroy(compute(minor, gi, ci)),
    "free set": lambda: pynvml.nvmlEventSetFree(SETS.pop()),
    "set mode": set_mode,
    "create": create,
    "create anywhere": create_anywhere,
    "instance": instance_told,
    "instances": instances,
    "compute profile": compute_profile,
    "create compute": create_compute,
    "compute": compute_told,
    "computes": computes,
    "devices": devices,
    "about": about,
    "processes": processes,
    "fabric": fabric,
    "listen": listen,
    "wait": wait,
    "reopen": reopen,
}


def main() -> None:
    pynvml.nvmlInit()
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            answer = plain(VERBS[verb](*arguments))
        except pynvml.NVMLError as error:
            answer = {"error": error.value}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
