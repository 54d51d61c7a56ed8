"""Two programs on one node, as in an update: what one has in work the other leaves alone, until that one dies."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path

from nvdra.node.clock import LoopClock
from nvdra.nvml import Nvml
from nvdra.testing.host import FakeHost
from tests.crash.mig_node import SMALL, CountedNvml, MigNode, lay

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


async def node_with_claims(folder: Path) -> MigNode:
    node = MigNode(lay(folder, "h100x8"))
    await node.boot()
    await node.warm()
    await node.add("here", node.partition(0, SMALL, 0))
    await node.add("there", node.partition(1, SMALL, 0))
    return node


async def another_program(node: MigNode) -> MigNode:
    """One more on the same node, with the same API server."""
    another = copy.copy(node)
    another.host = FakeHost(node.folder)
    library = str(node.root.library.resolve())
    another.nvml = CountedNvml(Nvml(lambda: library, LoopClock()))
    another.start()
    await another.look()
    await another.warm()
    return another


async def in_the_midst(node: MigNode) -> asyncio.Task[list[str]]:
    """The preparation of "here", under way on the GPU for half a second."""
    node.root.count_calls()
    node.root.set_faults([{"function": CREATE, "minor": 0, "delay_ms": 500}])
    preparing = asyncio.create_task(node.prepared(node.refs["here"]))
    while not node.root.calls().get(CREATE):  # noqa: ASYNC110  it is called in another thread
        await asyncio.sleep(0.001)
    return preparing


async def test_what_is_in_work_elsewhere_is_left_alone(memory: Path) -> None:
    node = await node_with_claims(memory)
    preparing = await in_the_midst(node)
    another = await another_program(node)
    waking = asyncio.ensure_future(another.wakes())
    assert await another.prepared(another.refs["there"])  # the other GPU is nobody's
    assert await preparing == [node.partition(0, SMALL, 0)]
    await waking
    another.check_settled()
    assert another.state(another.refs["here"]) == "PrepareCompleted"
    await another.released(another.refs["here"], another.refs["there"])
    another.check_settled()
    await node.stop()
    await another.stop()


async def test_what_a_program_leaves_that_dies_is_rolled_back_by_the_other(memory: Path) -> None:
    node = await node_with_claims(memory)
    preparing = await in_the_midst(node)
    another = await another_program(node)
    node.host.kill_after(0)
    waking = asyncio.ensure_future(another.wakes())
    assert await node.dies(preparing)
    node.host.close()
    await waking
    another.check_settled()
    assert another.state(another.refs["here"]) == ""
    assert another.root.gpu_instances(0) == {}
    assert await another.prepared(another.refs["here"])
    another.check_settled()
    await another.stop()
    await node.bury()
