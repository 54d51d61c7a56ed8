"""What is asked of NVML, and of which of its functions, for profiles and partitions."""

from __future__ import annotations

import json

import pytest
from nvdra_mock_nvml import lay_out, load

from nvdra.nvml import NvmlMissing
from tests.unit.nvml.mig_node import (
    CREATE,
    CREATE_COMPUTE,
    SMALL,
    THREE,
    calls_since,
    count,
    session,
    uuid,
)


async def test_a_partition_costs_the_calls_it_needs(root):
    held = session(root)
    await held.scan(profiles=True)
    before = root.calls()
    await held.set_mig_mode(uuid(root, 0), on=True)
    gi = await held.create_gpu_instance(uuid(root, 0), SMALL, 2, 1)
    made = await held.create_compute_instance(uuid(root, 0), gi, [0])
    assert calls_since(root, before) == {
        "nvmlDeviceGetMigMode": 1,
        CREATE: 1,
        "nvmlGpuInstanceGetInfo": 1,
        "nvmlDeviceGetGpuInstanceById": 1,
        CREATE_COMPUTE: 1,
        "nvmlComputeInstanceGetInfo_v2": 1,
        "nvmlDeviceGetUUID": 1,
    }
    before = root.calls()
    await held.destroy_compute_instance(uuid(root, 0), gi, made.ci_id)
    await held.destroy_gpu_instance(uuid(root, 0), gi)
    assert calls_since(root, before) == {
        "nvmlDeviceGetGpuInstanceById": 2,
        "nvmlGpuInstanceGetComputeInstanceById": 1,
        "nvmlComputeInstanceDestroy": 1,
        "nvmlGpuInstanceDestroy": 1,
    }


async def test_a_gpu_is_looked_up_once_in_a_session_and_never_after_a_scan(root):
    held = session(root)
    for _ in range(3):
        await held.mig(uuid(root, 0))
    assert (count(root, "nvmlDeviceGetHandleByUUID"), count(root, "nvmlDeviceGetGpuInstanceProfileInfo")) == (1, 18)
    await held.close()
    await held.scan(profiles=True)
    before = root.calls()
    for gpu in root.portrait.gpus:
        await held.mig(gpu.uuid)
    asked = calls_since(root, before)
    assert asked["nvmlDeviceGetMigMode"] == 8
    assert not {"nvmlDeviceGetHandleByUUID", "nvmlDeviceGetGpuInstanceProfileInfo"} & asked.keys()


async def test_handles_do_not_outlive_their_session(root):
    held = session(root)
    await held.mig(uuid(root, 0))
    await held.close()
    assert await held.mig(uuid(root, 0)) == (True, ())
    assert count(root, "nvmlDeviceGetHandleByUUID") == 2


@pytest.mark.parametrize("profiles", [False, True])
async def test_profiles_are_read_once_for_all_gpus_of_a_model(root, profiles):
    scan = await session(root).scan(profiles=profiles)
    assert count(root, "nvmlDeviceGetGpuInstanceProfileInfo") == 18
    assert [gpu.minor for gpu in scan.gpus if gpu.mig.profiles] == (list(range(8)) if profiles else [0, 1])


async def test_a_plain_scan_asks_nothing_of_mig_beyond_the_mode(tmp_path):
    root = lay_out(tmp_path / "root", "h100x8", device_files="regular")
    root.count_calls()
    await session(root).scan()
    mig = {name: number for name, number in root.calls().items() if "Mig" in name or "Instance" in name}
    assert mig == {"nvmlDeviceGetMigMode": 8}


async def test_models_have_tables_of_their_own(tmp_path):
    portrait = json.loads(load("h100x8").text)
    small = json.loads(json.dumps(portrait["models"]["h100"]))
    small["mig"]["profiles"] = small["mig"]["profiles"][:2]
    small["memory_total_bytes"] = [40 << 30, "assumed"]
    portrait["models"]["small"] = small
    portrait["gpus"][5]["model"] = "small"
    (tmp_path / "mixed.json").write_text(json.dumps(portrait))
    root = lay_out(tmp_path / "root", str(tmp_path / "mixed.json"), device_files="regular")
    scan = await session(root).scan(profiles=True)
    odd = [gpu.index for gpu in scan.gpus if len(gpu.mig.profiles) == 2]
    assert odd == [5]
    assert len({id(gpu.mig.profiles) for gpu in scan.gpus}) == 2


async def test_profiles_nobody_knows_are_told_and_those_that_are_refused_are_not_there(tmp_path):
    portrait = json.loads(load("h200x1").text)
    mig = portrait["models"]["h200"]["mig"]
    mig["index_limit"] = [18, "assumed"]
    mig["profiles"].append({**mig["profiles"][0], "index": 17, "id": 77, "slices": 5, "origin": "assumed"})
    (tmp_path / "future.json").write_text(json.dumps(portrait))
    root = lay_out(tmp_path / "root", str(tmp_path / "future.json"), device_files="regular")
    held = session(root)
    scan = await held.scan(profiles=True)
    assert [profile.index for profile in scan.gpus[0].mig.profiles] == [0, 1, 2, 3, 4, 7, 9, 17]
    assert scan.gpus[0].mig.profiles[-1].compute == (), "five slices: nvml.h knows no such compute instance"
    for code in ("NOT_SUPPORTED", "INVALID_ARGUMENT"):
        root.set_faults([{"function": "nvmlDeviceGetGpuInstancePossiblePlacements_v2", "code": code, "times": 1}])
        scan = await held.scan(profiles=True)
        assert [profile.index for profile in scan.gpus[0].mig.profiles] == [1, 2, 3, 4, 7, 9, 17]


async def test_an_older_library_is_called_by_its_older_names(root, tmp_path):
    older = ["nvmlDeviceGetGpuInstancePossiblePlacements_v2", "nvmlComputeInstanceGetInfo_v2"]
    older += ["nvmlDeviceGetComputeRunningProcesses_v3"]
    old = lay_out(tmp_path / "old", "h100x8", device_files="regular", without=older)
    told = []
    for node in (root, old):
        node.set_mig_mode(0, on=True)
        node.create_mig(0, SMALL, start=6)
        node.create_mig(0, THREE, start=0)
        node.set_processes([{"minor": 0, "gi": 13, "ci": 0, "pid": 4711}])
        held = session(node)
        told.append(
            [(await held.scan()).gpus[0], await held.mig(uuid(node, 0)), await held.processes(uuid(node, 0), 13)]
        )
    assert told[0] == told[1]


async def test_a_library_without_a_function_says_which(tmp_path):
    old = lay_out(tmp_path / "old", "h100x8", device_files="regular", without=["nvmlDeviceSetMigMode"])
    with pytest.raises(NvmlMissing, match="nvmlDeviceSetMigMode"):
        await session(old).set_mig_mode(uuid(old, 0), on=True)
