"""GPUs that are partitioned, lost, slow or hanging: each costs itself."""

from __future__ import annotations

import asyncio

import pytest
from nvdra_mock_nvml import Root

from nvdra import nvml
from nvdra.gpu.scan import GpuInstanceScan
from nvdra.nvml import Nvml, NvmlHung
from tests.contract.clocks import StandingClock, until
from tests.unit.nvml.mig_node import (
    CREATE,
    CREATE_COMPUTE,
    SMALL,
    count,
    refusal,
    session,
    uuid,
)


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
