"""GPUs that hang, fall off the bus or change hands in the midst of a claim: it costs the claim; nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from nvdra.api import ClaimRef
from nvdra.node.claim_service import CALL_TIMEOUT_S, Failure
from nvdra.node.locks import FOLDER
from nvdra.testing.clock import VirtualClock
from nvdra.testing.host import FakeHost
from tests.crash.mig_node import SMALL, MigNode, lay
from tests.unit.node.mig_world import until
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
        """The error of preparing "here", whose call of the function takes longer than NVML is waited for."""
        here = self.refs["here"]
        self.root.count_calls()
        self.root.set_faults([{"function": function, "minor": 0, **how}])
        asked = asyncio.ensure_future(self.service.prepare([here]))
        await until(lambda: self.root.calls().get(function))  # it is called in another thread
        await self.patience.advance(31.0)
        await until(lambda: self.runner.waiting(here.uid))
        await self.clock.advance(CALL_TIMEOUT_S)
        answer = (await asked)[here.uid]
        assert isinstance(answer, Failure), answer
        return answer.error

    async def returned(self) -> None:
        """Until nothing is worked on any more: NVML is called in other threads, and takes its time."""
        async with asyncio.timeout(60):
            await self.service.finish(60)


def still(operation: str, node: Two, function: str) -> tuple[str, str]:
    """How the error of a call begins and ends whose deadline comes while the function hangs."""
    ref = node.refs["here"]
    return (
        f"error {'preparing' if operation == 'prepared' else 'unpreparing'} devices for claim {ref}: "
        f"still being {operation} after 40 s: error ",
        f"{function} has not answered for 30 s: {node.root.gpu(0).uuid} is left alone until it does; "
        "the work goes on, and kubelet's retry joins it",
    )


@pytest.mark.parametrize("function", CREATE)
async def test_a_call_that_hangs_costs_its_claim_alone(memory: Path, function: str) -> None:
    node = Two(memory)
    await node.boot()
    begins, ends = still("prepared", node, function)
    error = await node.told_to_hang(function, hang=True)
    assert error.startswith(begins)
    assert error.endswith(ends)
    instances = node.root.gpu_instances(0)
    assert node.state(node.refs["here"]) == "PrepareStarted"
    await node.prepared(node.refs["there"])
    # Asked again, it is the same work and the same answer, which kubelet groups events by.
    assert await at_the_deadline(node, node.service.prepare([node.refs["here"]])) == error
    # Let go of, the claim waits for its own work.
    begins, _ = still("unprepared", node, function)
    error = await at_the_deadline(node, node.service.unprepare([node.refs["here"]]))
    assert error.startswith(begins)
    assert error.endswith(ends)
    # No sweep takes the work for a claim left half way, and nothing is rolled back under the call.
    await node.timely(node.sweep.half_prepared())
    assert node.state(node.refs["here"]) == "PrepareStarted"
    assert node.root.gpu_instances(0) == instances
    assert node.root.calls().get(function) == (2 if node.root.mig_devices(1) else 1)
    await node.released(node.refs["there"])
    assert node.root.mig_devices(1) == []
    await node.stop()


async def at_the_deadline(node: Two, asked: Coroutine[Any, Any, Mapping[str, Any]]) -> str:
    """The error that kubelet gets for "here" when the call's time is over."""
    task = asyncio.ensure_future(asked)
    await node.clock.advance(CALL_TIMEOUT_S)
    answer = (await task)[node.refs["here"].uid]
    assert isinstance(answer, Failure), answer
    return answer.error


@pytest.mark.parametrize("asked", ["prepare", "unprepare"])
@pytest.mark.parametrize(("function", "when"), [(CREATE[0], "before"), (CREATE[1], "after")])
async def test_a_claim_whose_call_hung_is_prepared_once_it_returns(
    memory: Path, function: str, when: str, asked: str
) -> None:
    node = Two(memory)
    await node.boot()
    here = node.refs["here"]
    await node.told_to_hang(function, delay_ms=4000, when=when)
    assert node.state(here) == "PrepareStarted"
    # Until it returns, another instance must not take the GPU for one with nothing on it.
    assert not may_be_taken(node)
    if asked == "unprepare":
        joining = asyncio.ensure_future(node.service.unprepare([here]))
        await node.returned()
        assert (await joining)[here.uid] is None
        assert node.state(here) == ""
    else:
        joining = asyncio.ensure_future(node.service.prepare([here]))
        await node.returned()
        assert isinstance((await joining)[here.uid], tuple)
        assert node.root.calls().get(function) == 1  # not made anew
        assert node.state(here) == "PrepareCompleted"
    node.check_settled()
    assert may_be_taken(node)
    await node.stop()


def may_be_taken(node: MigNode) -> bool:
    """Whether another instance would get the first GPU's lock."""
    another = FakeHost(node.folder)
    try:
        return another.try_lock(f"{P}/{FOLDER}/{node.address(0)}") is not None
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
    assert node.checkpoint().entries == {}
    await node.stop()
