"""One GPU partitioned: modes, partitions made and destroyed, and what NVML refuses."""

from __future__ import annotations

import json

import pytest
from nvdra_mock_nvml import lay_out, load

from nvdra import nvml
from nvdra.gpu.scan import ComputeInstanceScan, GpuInstanceScan
from tests.contract.mock_node import smi
from tests.unit.nvml.mig_node import (
    ALL,
    CREATE,
    CREATE_COMPUTE,
    SMALL,
    THREE,
    count,
    refusal,
    session,
    uuid,
)


async def test_a_mode_that_is_current_is_not_set(root):
    held = session(root)
    await held.set_mig_mode(uuid(root, 0), on=True)
    await held.set_mig_mode(uuid(root, 3), on=False)
    assert count(root, "nvmlDeviceSetMigMode") == 0
    await held.set_mig_mode(uuid(root, 3), on=True)
    await held.set_mig_mode(uuid(root, 0), on=False)
    assert [root.mig_mode(minor) for minor in (3, 0)] == [(True, True), (False, False)]


async def test_a_mode_change_with_partitions_is_refused(root):
    root.create_mig(0, SMALL)
    refused = await refusal(session(root).set_mig_mode(uuid(root, 0), on=False))
    assert (refused.code, refused.function) == (nvml.IN_USE, "nvmlDeviceSetMigMode")
    assert root.mig_mode(0) == (True, True)


async def test_a_mode_that_is_accepted_and_not_activated_is_a_refusal_and_taken_back(root):
    root.set_processes([{"minor": 3, "pid": 4711}])
    refused = await refusal(session(root).set_mig_mode(uuid(root, 3), on=True))
    assert (refused.code, refused.function) == (nvml.IN_USE, "nvmlDeviceSetMigMode")
    assert "not activated" in str(refused)
    assert root.mig_mode(3) == (False, False), "nothing waits for the next reset"


async def test_a_gpu_that_needs_a_reset_says_so(tmp_path):
    root = lay_out(tmp_path / "root", "a100x8", device_files="regular")
    refused = await refusal(session(root).set_mig_mode(uuid(root, 3), on=True))
    assert refused.code == nvml.RESET_REQUIRED
    assert root.mig_mode(3) == (False, False)


async def test_a_mode_that_is_pending_can_be_taken_back(tmp_path):
    root = lay_out(tmp_path / "root", "a100x8", device_files="regular")
    smi(root, "-i", "3", "-mig", "1")
    assert root.mig_mode(3) == (False, True)
    await session(root).set_mig_mode(uuid(root, 3), on=False)
    assert root.mig_mode(3) == (False, False)


async def test_a_gpu_without_mig_has_no_partitions_and_no_mode(root):
    root.set_faults([{"function": "nvmlDeviceGetMigMode", "minor": 3, "code": "NOT_SUPPORTED"}])
    held = session(root)
    assert await held.mig(uuid(root, 3)) == (False, ())
    assert (await refusal(held.set_mig_mode(uuid(root, 3), on=True))).code == nvml.NOT_SUPPORTED


async def test_a_guest_with_a_virtual_gpu_is_refused(tmp_path):
    portrait = json.loads(load("h200x1").text)
    portrait["models"]["h200"]["virtualization_mode"] = [2, "assumed"]
    (tmp_path / "guest.json").write_text(json.dumps(portrait))
    root = lay_out(tmp_path / "root", str(tmp_path / "guest.json"), device_files="regular")
    held = session(root)
    (gpu,) = (await held.scan(profiles=True)).gpus
    assert gpu.virtualization_mode == 2
    assert gpu.mig.profiles
    assert (await refusal(held.set_mig_mode(gpu.uuid, on=True))).code == nvml.NOT_SUPPORTED


async def test_a_gpu_that_is_not_there_is_not_found(root):
    refused = await refusal(session(root).mig("GPU-00000000-0000-0000-0000-000000000000"))
    assert (refused.code, refused.function) == (nvml.NOT_FOUND, "nvmlDeviceGetHandleByUUID")


async def test_a_place_that_is_taken_is_refused_and_nothing_changes(root):
    root.create_mig(0, THREE, start=0)
    before = root.mig_devices()
    refused = await refusal(session(root).create_gpu_instance(uuid(root, 0), SMALL, 2, 1))
    assert (refused.code, refused.function) == (nvml.INSUFFICIENT_RESOURCES, CREATE)
    assert root.mig_devices() == before


@pytest.mark.parametrize(("profile", "start"), [(99, 0), (SMALL, 7), (THREE, 1)])
async def test_a_profile_or_place_that_there_is_not_is_refused(root, profile, start):
    refused = await refusal(session(root).create_gpu_instance(uuid(root, 0), profile, start, 1))
    assert refused.code == nvml.INVALID_ARGUMENT


async def test_without_mig_mode_nothing_is_made_and_nothing_is_left_to_destroy(root):
    held = session(root)
    assert (await refusal(held.create_gpu_instance(uuid(root, 3), SMALL, 0, 1))).code == nvml.NOT_SUPPORTED
    await held.destroy_compute_instance(uuid(root, 3), 7, 0)
    await held.destroy_gpu_instance(uuid(root, 3), 7)


async def test_the_first_compute_profile_that_there_is_is_taken(root):
    held = session(root)
    gi = await held.create_gpu_instance(uuid(root, 0), ALL, 0, 8)
    made = await held.create_compute_instance(uuid(root, 0), gi, [8, 99, 4])
    assert made.profile_id == 4
    assert count(root, CREATE_COMPUTE) == 3
    assert (await refusal(held.create_compute_instance(uuid(root, 0), gi, [4, 0]))).code == nvml.INSUFFICIENT_RESOURCES
    assert count(root, CREATE_COMPUTE) == 4, "no room is no reason to try another"
    assert (await refusal(held.create_compute_instance(uuid(root, 0), gi, []))).code == nvml.NOT_SUPPORTED


async def test_what_is_gone_already_is_destroyed(root):
    held = session(root)
    device = root.create_mig(0, SMALL)
    await held.destroy_compute_instance(uuid(root, 0), device.gi, device.ci)
    await held.destroy_compute_instance(uuid(root, 0), device.gi, device.ci)
    await held.destroy_gpu_instance(uuid(root, 0), device.gi)
    await held.destroy_compute_instance(uuid(root, 0), device.gi, device.ci)
    await held.destroy_gpu_instance(uuid(root, 0), device.gi)
    assert root.gpu_instances(0) == {}


async def test_a_partition_in_use_stays_and_tells_who_is_in_it(root):
    held = session(root)
    device, other = root.create_mig(0, SMALL), root.create_mig(0, SMALL)
    inside = {"minor": 0, "gi": device.gi, "ci": device.ci}
    elsewhere = {"minor": 0, "gi": other.gi, "ci": other.ci, "pid": 4713}
    root.set_processes(
        [{**inside, "pid": 4712}, {**inside, "pid": 4711}, {**inside, "pid": 1, "hidden": True}, elsewhere]
    )
    refused = await refusal(held.destroy_compute_instance(uuid(root, 0), device.gi, device.ci))
    assert (refused.code, refused.function) == (nvml.IN_USE, "nvmlComputeInstanceDestroy")
    assert await held.processes(uuid(root, 0), device.gi) == (4711, 4712)
    refused = await refusal(held.destroy_gpu_instance(uuid(root, 0), device.gi))
    assert (refused.code, refused.function) == (nvml.IN_USE, "nvmlGpuInstanceDestroy")
    root.stop_processes()
    assert await held.processes(uuid(root, 0), device.gi) == ()
    await held.destroy_compute_instance(uuid(root, 0), device.gi, device.ci)


async def test_however_many_programs_there_are_all_are_told(root):
    device = root.create_mig(0, SMALL)
    pids = tuple(range(1000, 1300))
    root.set_processes([{"minor": 0, "gi": device.gi, "ci": device.ci, "pid": pid} for pid in pids])
    assert await session(root).processes(uuid(root, 0), device.gi) == pids


@pytest.mark.parametrize("code", ["NOT_SUPPORTED", "NO_PERMISSION"])
async def test_programs_that_nvml_does_not_tell_are_none(root, code):
    root.set_faults([{"function": "nvmlDeviceGetComputeRunningProcesses_v3", "code": code}])
    assert await session(root).processes(uuid(root, 0), 7) == ()


async def test_an_instance_that_goes_while_it_is_read_is_not_there(root):
    root.create_mig(0, SMALL, start=0)
    kept = root.create_mig(0, SMALL, start=1)
    held = session(root)
    for code in ("INVALID_ARGUMENT", "NOT_FOUND"):
        root.set_faults([{"function": "nvmlGpuInstanceGetInfo", "code": code, "times": 1}])
        _, instances = await held.mig(uuid(root, 0))
        assert [instance.gi_id for instance in instances] == [kept.gi]
    root.set_faults([{"function": "nvmlComputeInstanceGetInfo_v2", "code": "INVALID_ARGUMENT", "times": 1}])
    _, instances = await held.mig(uuid(root, 0))
    assert [len(instance.compute) for instance in instances] == [0, 1]


async def test_mig_mode_that_goes_off_while_it_is_read_leaves_no_instances(root):
    root.set_faults([{"function": "nvmlDeviceGetGpuInstances", "minor": 0, "code": "NOT_SUPPORTED"}])
    held = session(root)
    assert await held.mig(uuid(root, 0)) == (True, ())
    assert (await held.scan()).left_out == ()


async def test_a_mig_device_that_cannot_be_seen_has_no_uuid(root):
    device = root.create_mig(0, SMALL)
    root.capability_node(0, device.gi, device.ci).unlink()
    _, instances = await session(root).mig(uuid(root, 0))
    assert instances == (GpuInstanceScan(device.gi, SMALL, 0, 1, (ComputeInstanceScan(0, 0, ""),)),)
