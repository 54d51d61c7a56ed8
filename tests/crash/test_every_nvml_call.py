"""The real process, killed in every call into NVML that changes a GPU, before it took effect and after.

What the mock's GPUs are like outlives the process. The next one rolls back what it finds half done, by itself.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from tests.contract.plugin_node import PluginNode, plugin_node, until
from tests.folders import contents

DYNAMIC = {"feature_gates": "DynamicMIG=true"}
MODE, MAKE_GPU, MAKE_COMPUTE = (
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
)
END_COMPUTE, END_GPU = "nvmlComputeInstanceDestroy", "nvmlGpuInstanceDestroy"

# One portrait for each rule of MIG mode: changed as it is needed; on from the beginning, and it stays.
SMALL = {"h100x8": "gpu-{}-mig-1g10gb-19-{}", "a100x8": "gpu-{}-mig-1g5gb-19-{}"}
PREPARE = [("h100x8", MODE), *((portrait, call) for portrait in SMALL for call in (MAKE_GPU, MAKE_COMPUTE))]
UNPREPARE = [("h100x8", MODE), *((portrait, call) for portrait in SMALL for call in (END_COMPUTE, END_GPU))]


@pytest.fixture
async def node(portrait: str) -> AsyncIterator[PluginNode]:
    async with plugin_node(portrait, gpus=(0, 1)) as made:
        if portrait == "a100x8":
            for minor in (0, 1):
                made.root.set_mig_mode(minor, True)
        await made.start(**DYNAMIC)
        yield made


def is_bare(node: PluginNode, minor: int) -> bool:
    """No partition is on the GPU, and MIG mode is as it was in the beginning."""
    mode = node.root.portrait.name == "a100x8"
    return not node.root.gpu_instances(minor) and node.root.mig_mode(minor) == (mode, mode)


async def killed_in(node: PluginNode, act: asyncio.Future[object], function: str) -> None:
    """The program is killed in its first call of the function, as told by `hang`."""
    await until(lambda: node.root.calls().get(function, 0) > 0, f"the call of {function}")
    await node.stop(signal.SIGKILL)
    await asyncio.gather(act, return_exceptions=True)
    node.root.clear_faults()


def hang(node: PluginNode, function: str, when: str) -> None:
    """The next call of the function on the first GPU never returns, before it did its work or after."""
    node.root.count_calls()
    node.root.set_faults([{"function": function, "minor": 0, "hang": True, "when": when, "times": 1}])


@pytest.mark.sampled
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("portrait", "function"), PREPARE)
async def test_a_prepare(node: PluginNode, portrait: str, function: str, when: str) -> None:
    small = SMALL[portrait].format
    ref, bystander = await node.claim(small(0, 0), small(0, 1)), await node.claim(small(1, 0))
    await node.prepared(bystander)
    kept = node.root.mig_devices(1)
    hang(node, function, when)
    await killed_in(node, asyncio.ensure_future(node.prepare(ref)), function)
    assert node.checkpoint().entries[ref.uid].state == "PrepareStarted"

    await node.start(**DYNAMIC)
    await until(lambda: is_bare(node, 0) and list(node.checkpoint().entries) == [bystander.uid], "the roll-back")
    assert await node.prepared(ref) == [small(0, 0), small(0, 1)]
    await node.released(ref)
    assert is_bare(node, 0)
    assert node.root.mig_devices(1) == kept


@pytest.mark.sampled
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("portrait", "function"), UNPREPARE)
async def test_an_unprepare(node: PluginNode, portrait: str, function: str, when: str) -> None:
    small = SMALL[portrait].format
    ref, bystander = await node.claim(small(0, 0), small(0, 1)), await node.claim(small(1, 0))
    await node.prepared(bystander, ref)
    kept = node.root.mig_devices(1)
    hang(node, function, when)
    await killed_in(node, asyncio.ensure_future(node.client.unprepare([ref])), function)
    assert node.checkpoint().entries[ref.uid].state == "PrepareStarted"

    await node.start(**DYNAMIC)
    await until(lambda: is_bare(node, 0) and list(node.checkpoint().entries) == [bystander.uid], "the roll-back")
    await node.released(ref)
    assert node.root.mig_devices(1) == kept
    await node.released(bystander)
    assert is_bare(node, 1)
    await until(lambda: not contents(node.cdi), "no CDI file and no temporary one to be left")
