"""One GPU partitioned: what each change calls, and what happens when NVML refuses, loses the GPU or hangs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from nvdra_mock_nvml import Root, lay_out, load

from nvdra import nvml
from nvdra.devices.scan import ComputeInstanceScan, GpuInstanceScan
from nvdra.nvml import Nvml, NvmlError, NvmlHung, NvmlMissing
from tests.contract.clocks import LoopClock, StandingClock, until
from tests.contract.mock_node import smi

SMALL, THREE, ALL = 19, 9, 0
CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
CREATE_COMPUTE = "nvmlGpuInstanceCreateComputeInstance"


@pytest.fixture
def root(tmp_path) -> Root:
    """Eight H100, MIG on for the first two."""
    laid = lay_out(tmp_path / "root", "h100x8", device_files="regular")
    for minor in (0, 1):
        laid.set_mig_mode(minor, on=True)
    laid.count_calls()
    return laid


def session(root: Root, clock: StandingClock | LoopClock | None = None) -> Nvml:
    return Nvml(lambda: str(root.library.resolve()), clock or LoopClock())


def uuid(root: Root, minor: int) -> str:
    return root.gpu(minor).uuid


def calls_since(root: Root, before: dict[str, int]) -> dict[str, int]:
    return dict(Counter(root.calls()) - Counter(before))


def count(root: Root, function: str) -> int:
    return root.calls().get(function, 0)


async def refusal(work: object) -> NvmlError:
    with pytest.raises(NvmlError) as refused:
        await work  # type: ignore[misc]
    return refused.value


# What is called.


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


@pytest.mark.parametrize(("profiles", "tables"), [(False, 1), (True, 1)])
async def test_profiles_are_read_once_for_all_gpus_of_a_model(root, profiles, tables):
    scan = await session(root).scan(profiles=profiles)
    assert count(root, "nvmlDeviceGetGpuInstanceProfileInfo") == 18 * tables
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


# MIG mode.


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


# Partitions.


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


# Partitions that come and go under a reader.


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


# The GPU is lost, or a call hangs.


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_gpu_lost_while_a_partition_is_made_shows_later_what_was_made(root, when):
    held = session(root)
    root.set_faults([{"function": CREATE, "code": "GPU_IS_LOST", "times": 1, "when": when}])
    refused = await refusal(held.create_gpu_instance(uuid(root, 0), SMALL, 0, 1))
    assert (refused.code, refused.function) == (nvml.GPU_IS_LOST, CREATE)
    _, instances = await held.mig(uuid(root, 0))
    assert [instance.compute for instance in instances] == ([] if when == "before" else [()])
    if when == "after":
        root.set_faults([{"function": CREATE_COMPUTE, "code": "GPU_IS_LOST", "times": 1, "when": when}])
        await refusal(held.create_compute_instance(uuid(root, 0), instances[0].gi_id, [0]))
        _, (instance,) = await held.mig(uuid(root, 0))
        assert [compute.uuid for compute in instance.compute] == [device.uuid for device in root.mig_devices()]


async def test_a_lost_gpu_refuses_and_the_others_do_not(root):
    held = session(root)
    await held.scan()
    root.set_faults([{"minor": 0, "lost": True}])
    for work in (held.mig(uuid(root, 0)), held.create_gpu_instance(uuid(root, 0), SMALL, 0, 1)):
        assert (await refusal(work)).code == nvml.GPU_IS_LOST
    assert await held.mig(uuid(root, 1)) == (True, ())


async def hung(held: Nvml, clock: StandingClock, root: Root) -> asyncio.Task[int]:
    """A creation on the first GPU that is in its call."""
    creating = asyncio.create_task(held.create_gpu_instance(uuid(root, 0), SMALL, 0, 1))
    await until(lambda: count(root, CREATE) == 1)
    await until(lambda: clock.waiting)
    return creating


async def test_a_creation_that_hangs_costs_its_gpu_and_no_other(root):
    clock = StandingClock()
    held = session(root, clock)
    whole = await held.scan()
    root.set_faults([{"function": CREATE, "minor": 0, "hang": True}])
    creating = await hung(held, clock, root)
    gi = await held.create_gpu_instance(uuid(root, 1), SMALL, 0, 1)
    await held.destroy_gpu_instance(uuid(root, 1), gi)
    waiting = asyncio.create_task(held.mig(uuid(root, 0)))
    await clock.pass_by(29)
    assert not creating.done()
    await clock.pass_by(1)
    with pytest.raises(
        NvmlHung, match=f"{CREATE} has not answered for 30 s: {uuid(root, 0)} is left alone until it does"
    ):
        await creating
    for work in (waiting, held.mig(uuid(root, 0))):
        with pytest.raises(NvmlHung, match="left alone"):  # at once, and without asking
            await work
    (left,) = (scan := await held.scan()).left_out
    assert (left.minor, left.uuid, left.function, left.code) == (0, uuid(root, 0), CREATE, 10)
    assert scan.gpus == tuple(gpu for gpu in whole.gpus if gpu.minor != 0)
    with pytest.raises(NvmlHung, match=CREATE):
        await held.close()


async def test_a_gpu_two_calls_hang_about_is_left_out_once(root):
    clock = StandingClock()
    held = session(root, clock)
    await held.scan()
    brand = "nvmlDeviceGetBrand"
    root.set_faults([{"function": function, "minor": 0, "hang": True} for function in (CREATE, brand)])
    creating = await hung(held, clock, root)
    before = count(root, brand)
    scanning = asyncio.create_task(held.scan())
    await until(lambda: count(root, brand) == before + 1)
    await clock.pass_by(10)
    await clock.pass_by(10)
    assert [(left.minor, left.function) for left in (await scanning).left_out] == [(0, brand)]
    await clock.pass_by(10)
    with pytest.raises(NvmlHung, match=CREATE):
        await creating
    assert [left.minor for left in (await held.scan()).left_out] == [0]


async def test_a_gpu_never_seen_whose_lookup_hangs_is_left_alone_too(root):
    clock = StandingClock()
    held = session(root, clock)
    root.set_faults([{"function": "nvmlDeviceGetHandleByUUID", "minor": 0, "hang": True}])
    asking = asyncio.create_task(held.mig(uuid(root, 0)))
    await until(lambda: count(root, "nvmlDeviceGetHandleByUUID") == 1)
    await clock.pass_by(10)
    with pytest.raises(NvmlHung, match="nvmlDeviceGetHandleByUUID has not answered"):
        await asking
    with pytest.raises(NvmlHung, match="nvmlDeviceGetHandleByUUID has not answered"):
        await held.mig(uuid(root, 0))
    assert await held.mig(uuid(root, 1)) == (True, ())
    assert len((await held.scan()).gpus) == 8, "a scan goes another way"


async def test_a_creation_that_came_back_is_seen_and_its_gpu_used_again(root):
    clock = StandingClock()
    held = session(root, clock)
    root.set_faults([{"function": CREATE, "minor": 0, "delay_ms": 1000, "times": 1}])
    creating = await hung(held, clock, root)
    await clock.pass_by(30)
    with pytest.raises(NvmlHung):
        await creating

    async with asyncio.timeout(20):
        while True:
            try:
                seen = await held.mig(uuid(root, 0))
                break
            except NvmlHung:
                await asyncio.sleep(0.01)
    assert seen == (True, (GpuInstanceScan(7, SMALL, 0, 1),))
    assert (await held.scan()).left_out == ()
    await held.close()


async def test_what_is_asked_of_one_gpu_is_done_in_order(root):
    held = session(root)
    root.set_faults([{"function": CREATE, "delay_ms": 200}])
    first, second, third = await asyncio.gather(
        held.create_gpu_instance(uuid(root, 0), SMALL, 0, 1),
        held.mig(uuid(root, 0)),
        held.create_gpu_instance(uuid(root, 0), SMALL, 1, 1),
    )
    assert second == (True, (GpuInstanceScan(first, SMALL, 0, 1),))
    assert third != first


async def test_time_counts_from_the_turn_on(root):
    clock = StandingClock()
    held = session(root, clock)
    root.set_faults([{"function": CREATE, "minor": 0, "delay_ms": 300}])
    creating = await hung(held, clock, root)
    asking = asyncio.create_task(held.mig(uuid(root, 0)))
    await clock.pass_by(20)  # more than a question may take, less than a change
    gi = await creating
    _, (instance,) = await asking
    assert instance.gi_id == gi


async def test_a_change_that_is_cancelled_before_its_turn_is_not_made(root):
    clock = StandingClock()
    held = session(root, clock)
    root.set_faults([{"function": CREATE, "minor": 0, "delay_ms": 300}])
    creating = await hung(held, clock, root)
    second = asyncio.create_task(held.create_gpu_instance(uuid(root, 0), SMALL, 1, 1))
    await asyncio.sleep(0)
    second.cancel()
    gi = await creating
    _, instances = await held.mig(uuid(root, 0))
    assert [instance.gi_id for instance in instances] == [gi]


async def test_a_change_that_is_cancelled_in_its_call_is_made_and_waited_for(root):
    clock = StandingClock()
    held = session(root, clock)
    root.set_faults([{"function": CREATE, "minor": 0, "delay_ms": 300}])
    creating = await hung(held, clock, root)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    _, instances = await held.mig(uuid(root, 0))
    assert len(instances) == 1


async def test_a_change_that_is_cancelled_in_its_call_and_hangs_is_given_up_too(root):
    clock = StandingClock()
    held = session(root, clock)
    root.set_faults([{"function": CREATE, "minor": 0, "hang": True}])
    creating = await hung(held, clock, root)
    creating.cancel()
    await clock.pass_by(30)
    async with asyncio.timeout(20):
        with pytest.raises(NvmlHung, match=CREATE):
            await held.mig(uuid(root, 0))


async def test_a_scan_that_takes_long_keeps_nobody_from_a_gpu(root):
    clock = StandingClock()
    held = session(root, clock)
    await held.scan()
    root.set_faults([{"function": "nvmlDeviceGetBrand", "minor": 3, "hang": True}])
    before = count(root, "nvmlDeviceGetBrand")
    scanning = asyncio.create_task(held.scan())
    await until(lambda: count(root, "nvmlDeviceGetBrand") == before + 4)
    async with asyncio.timeout(20):
        gi = await held.create_gpu_instance(uuid(root, 0), SMALL, 0, 1)
    assert not scanning.done()
    await clock.pass_by(10)
    await clock.pass_by(10)
    scan = await scanning
    assert [left.minor for left in scan.left_out] == [3]
    assert (await held.mig(uuid(root, 0)))[1][0].gi_id == gi


# A scan of GPUs that are partitioned.


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetGpuInstanceProfileInfo",
        "nvmlDeviceGetGpuInstancePossiblePlacements_v2",
        "nvmlDeviceGetGpuInstances",
        "nvmlGpuInstanceGetInfo",
        "nvmlGpuInstanceGetComputeInstanceById",
        "nvmlComputeInstanceGetInfo_v2",
    ],
)
@pytest.mark.parametrize("code", [15, 999])
async def test_a_gpu_whose_partitions_cannot_be_read_is_left_out_with_the_reason(root, function, code):
    root.create_mig(0, SMALL)
    root.create_mig(1, SMALL)
    held = session(root)
    whole = await held.scan()
    root.set_faults([{"function": function, "minor": 0, "code": code}])
    scan = await held.scan()
    (left,) = scan.left_out
    assert (left.minor, left.uuid, left.function, left.code) == (0, uuid(root, 0), function, code)
    assert left.text
    assert scan.gpus == tuple(gpu for gpu in whole.gpus if gpu.minor != 0)


@pytest.mark.parametrize("function", ["nvmlDeviceGetGpuInstanceProfileInfo", "nvmlDeviceGetGpuInstances"])
async def test_a_gpu_that_hangs_over_its_partitions_costs_the_others_nothing(root, function):
    root.create_mig(0, SMALL)
    root.create_mig(1, SMALL)
    clock = StandingClock()
    held = session(root, clock)
    whole = await held.scan()
    root.set_faults([{"function": function, "minor": 0, "hang": True}])
    before = count(root, function)
    scanning = asyncio.create_task(held.scan())
    await until(lambda: count(root, function) > before)
    await clock.pass_by(10)
    await clock.pass_by(10)
    scan = await scanning
    (left,) = scan.left_out
    assert (left.minor, left.uuid, left.function, left.code) == (0, uuid(root, 0), function, 10)
    assert scan.gpus == tuple(gpu for gpu in whole.gpus if gpu.minor != 0)
    with pytest.raises(NvmlHung, match=function):
        await held.mig(uuid(root, 0))
