"""GPUs that hang, fall off the bus or change hands in the midst of a claim: it costs the claim; nothing is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nvdra.api import ClaimRef
from nvdra.node.locks import FOLDER
from nvdra.node.sweep import AFTER_FAILURE_S
from nvdra.testing.clock import VirtualClock
from nvdra.testing.host import FakeHost
from tests.crash.mig_node import SMALL, MigNode, lay
from tests.unit.node.world import P

SMALL_WITH_MEDIA = 20
CREATE = ("nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstance")


class Two(MigNode):
    """A claim for a partition of each GPU, "here" and "there"; NVML's patience is told by the test."""

    def __init__(self, folder: Path) -> None:
        self.patience = VirtualClock()
        super().__init__(lay(folder, "h100x8", self.patience))

    async def boot(self) -> None:
        await super().boot()
        await self.warm()
        await self.add("here", self.partition(0, SMALL, 0))
        await self.add("there", self.partition(1, SMALL, 0))

    async def told_to_hang(self, function: str, **how: object) -> str:
        """The error of preparing "here", whose call of the function takes longer than is waited for."""
        here = self.refs["here"]
        self.root.count_calls()
        self.root.set_faults([{"function": function, "minor": 0, **how}])
        refused = asyncio.ensure_future(self.refused(here))
        while not self.root.calls().get(function):  # noqa: ASYNC110  it is called in another thread
            await asyncio.sleep(0.001)
        await self.patience.advance(31.0)
        return await refused


@pytest.mark.parametrize("function", CREATE)
async def test_a_call_that_hangs_costs_its_claim_alone(memory: Path, function: str) -> None:
    node = Two(memory)
    await node.boot()
    error = await node.told_to_hang(function, hang=True)
    assert f"{function} has not answered for 30 s: {node.root.gpu(0).uuid} is left alone until it does" in error
    assert node.state(node.refs["here"]) == "PrepareStarted"
    await node.prepared(node.refs["there"])
    assert "has not answered for" in await node.refused(node.refs["here"])  # at once
    assert await node.timely(node.sweep.half_done()) == AFTER_FAILURE_S
    await node.released(node.refs["there"])
    assert node.root.mig_devices(1) == []
    await node.stop()


@pytest.mark.parametrize(("function", "when"), [(CREATE[0], "before"), (CREATE[1], "after")])
async def test_what_a_call_made_that_hung_goes_once_it_returns(memory: Path, function: str, when: str) -> None:
    node = Two(memory)
    await node.boot()
    await node.told_to_hang(function, delay_ms=4000, when=when)
    # Until it returns, another instance must not take the GPU for one with nothing on it.
    assert not may_be_taken(node)
    async with asyncio.timeout(60):
        while await node.timely(node.sweep.half_done()) == AFTER_FAILURE_S:  # noqa: ASYNC110  NVML is in other threads
            await asyncio.sleep(0.01)
    assert node.state(node.refs["here"]) == ""
    node.check_settled()
    assert may_be_taken(node)
    node.root.clear_faults()
    await node.prepared(node.refs["here"])
    node.check_settled()
    await node.stop()


def may_be_taken(node: MigNode) -> bool:
    """Whether another instance would get the first GPU's lock."""
    another = FakeHost(node.folder)
    try:
        return another.try_lock(f"{P}/{FOLDER}/{node.root.gpu(0).uuid}") is not None
    finally:
        another.close()


@pytest.mark.parametrize("is_prepare", [True, False], ids=["prepare", "unprepare"])
async def test_a_gpu_that_falls_off_the_bus_at_any_call(memory: Path, is_prepare: bool) -> None:
    """Its claim fails, or is not concerned any more; when it comes back as it was, what was half done is put right."""
    calls, is_lost = 0, True
    while is_lost:
        node = Two(memory / f"after-{calls}")
        await node.boot()
        here, there = node.refs["here"], node.refs["there"]
        await node.prepared(there, *([] if is_prepare else [here]))
        node.root.set_faults([{"minor": 0, "lost": True, "after": calls}])
        is_lost = not await (prepares(node, here) if is_prepare else unprepares(node, here))
        node.check()
        await node.released(there)
        node.root.clear_faults()
        await node.wakes()
        node.check_settled()
        assert await (prepares(node, here) if is_prepare else unprepares(node, here))
        node.check_settled()
        await node.stop()
        calls += is_lost
    assert calls > 5, "the GPU is asked more often than that"


async def prepares(node: MigNode, ref: ClaimRef) -> bool:
    return isinstance((await node.prepare(ref))[ref.uid], tuple)


async def unprepares(node: MigNode, ref: ClaimRef) -> bool:
    return (await node.unprepare(ref))[ref.uid] is None


async def test_ids_that_were_given_again(memory: Path) -> None:
    """While no program ran, somebody put another partition where a claim's was: its ids are the same, and it stays."""
    node = Two(memory)
    await node.boot()
    here = node.refs["here"]
    await node.prepared(here)
    (ours,) = node.root.mig_devices(0)
    await node.stop()
    node.root.destroy_mig(ours)
    theirs = node.root.create_mig(0, SMALL_WITH_MEDIA, 0)
    assert (theirs.gi, theirs.ci) == (ours.gi, ours.ci)

    node.host = node.host.revive()
    node.start()
    await node.look()
    node.keep(theirs)
    await node.wakes()
    await node.released(here)
    await node.wakes()
    node.check_settled()
    assert node.record().entries == {}
    await node.stop()
