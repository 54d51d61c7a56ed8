"""What was before, in stories of partitions: who has what on the GPUs, and which claims wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

from nvdra.api import ClaimRef
from nvdra.checkpoint import Entry
from nvdra.node.checkpoint_writer import Change
from tests.contract.mock_node import smi
from tests.crash.mig_node import HALF, SMALL, MigNode
from tests.crash.story import Act, prepare, then


async def shared(node: MigNode) -> None:
    """On the first GPU somebody else's partition and a bystander's; nothing on the second one. Claims wait."""
    assert node.theirs is not None
    node.keep(node.theirs)
    await node.warm()
    await node.prepared(await node.add("bystander", node.partition(0, SMALL, 0)))
    node.keep(next(device for device in node.root.mig_devices(0) if device.profile == SMALL))
    await node.add("one", node.partition(1, SMALL, 0))
    await node.add("beside", node.partition(0, SMALL, 1))
    await node.add("pair", node.partition(1, SMALL, 1), node.partition(1, HALF, 4))
    await node.add("across", node.partition(0, SMALL, 2), node.partition(1, SMALL, 2))
    await node.add("monitor", {"device": "gpu-0", "adminAccess": True})
    await node.add("monitor and more", {"device": "gpu-0", "adminAccess": True}, node.partition(1, SMALL, 0))


def prepared(*names: str) -> Act:
    return then(shared, prepare(*names))


async def whole_and_part(node: MigNode) -> None:
    """A claim for a partition of one GPU and all of the other, on which MIG mode was left on where it can be."""
    await shared(node)
    node.root.set_mig_mode(1, node.toggles)
    await node.look()
    await node.add("mixed", node.partition(0, SMALL, 1), "gpu-1")


async def left_on(node: MigNode) -> None:
    await whole_and_part(node)
    await node.add("whole", "gpu-1")


async def administered(node: MigNode, name: str, device: str) -> None:
    """A claim that a former release made a partition for, though it is an administrator's."""
    ref = await node.add(name, device)
    await node.prepared(ref)
    await node.allocate(ref, {"device": device, "adminAccess": True})
    await enter(node, ref, replace(node.checkpoint().entries[ref.uid], status=status(node, ref)))


async def monitored(node: MigNode) -> None:
    """A former release made the partition for an administrator, and a user's claim has it too."""
    await shared(node)
    await administered(node, "first", node.partition(1, SMALL, 0))
    await node.prepared(node.refs["one"])


async def allocated_anew(node: MigNode) -> None:
    """Prepared, then given another partition under the same UID, and nobody unprepared it."""
    await shared(node)
    await node.prepared(node.refs["across"])
    await reallocate(node)


async def reallocate(node: MigNode) -> None:
    await node.allocate(node.refs["across"], node.partition(1, HALF, 0))


def refused(function: str) -> Act:
    """A call of NVML on the second GPU is refused, until somebody forgives it."""

    async def begin(node: MigNode) -> None:
        await shared(node)
        node.root.set_faults([{"function": function, "minor": 1, "code": "INSUFFICIENT_RESOURCES"}])

    return begin


async def forgive(node: MigNode) -> None:
    node.root.clear_faults()


def begun_by_the_go_driver(make: Callable[[MigNode], object]) -> Act:
    """A claim that the Go driver began: no line in a GPU's lock file tells of it."""

    async def begin(node: MigNode) -> None:
        await shared(node)
        ref = node.refs["one"]
        if node.toggles:
            node.root.set_mig_mode(1, True)
        make(node)
        await node.look()
        await enter(node, ref, Entry("PrepareStarted", status(node, ref), (), ref.name, ref.namespace))

    return begin


def whole_partition(node: MigNode) -> None:
    node.root.create_mig(1, SMALL, 0)


def half_a_partition(node: MigNode) -> None:
    smi(node.root, "mig", "-i", "1", "-cgi", f"{SMALL}:0")


async def completed_by_the_go_driver(node: MigNode) -> None:
    """Completed claims without name and namespace, as the Go driver's entries are."""
    await prepared("one", "across")(node)
    for name in ("one", "across"):
        ref = node.refs[name]
        await enter(node, ref, replace(node.checkpoint().entries[ref.uid], name="", namespace=""))


async def left_half_prepared(node: MigNode) -> None:
    """A program died in the midst of preparing: on the second GPU something was made, or on both."""
    await shared(node)
    node.host.kill_after(12)
    assert await node.dies(asyncio.ensure_future(node.prepared(node.refs["across"])))
    await node.restart()
    assert node.state(node.refs["across"]) == "PrepareStarted"
    assert len(node.root.gpu_instances(0)) > 2 or node.root.gpu_instances(1)


async def unmanaged(node: MigNode) -> None:
    """Somebody's partitions, one beside a bystander's, on a node that is told to destroy such."""
    node.destroy_unmanaged = True
    node.root.set_mig_mode(1, True)
    node.root.create_mig(1, HALF, 4)
    await node.look()
    await node.warm()
    await node.prepared(await node.add("bystander", node.partition(1, SMALL, 0)))
    node.keep(next(device for device in node.root.mig_devices(1) if device.profile == SMALL))
    await node.restart()


async def enter(node: MigNode, ref: ClaimRef, entry: Entry) -> None:
    await node.checkpoint_writer.submit(lambda checkpoint: Change(None, entries={ref.uid: entry}))


def status(node: MigNode, ref: ClaimRef) -> bytes:
    claims = node.kube.objects("resourceclaims")
    found = next(claim["status"] for claim in claims if claim["metadata"]["uid"] == ref.uid)
    return json.dumps(found, separators=(",", ":")).encode()


def deserted(*names: str) -> Act:
    async def begin(node: MigNode) -> None:
        await prepared(*names)(node)
        for name in names:
            await node.delete(node.refs[name])
        await node.timely(node.sweep.stale_claims())

    return begin
