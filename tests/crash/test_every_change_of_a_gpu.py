"""The program dies after every single effect, on the disk or on a GPU, of what claims do to GPUs.

Whatever is asked next, a fresh program comes to the end of the same story told without a death: the same files, the
same partitions, and at no moment was a partition gone that a completed claim or somebody else has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nvdra.api import ClaimRef
from nvdra.checkpoint import Entry
from nvdra.node.ledger import Change
from tests.contract.mock_node import smi
from tests.crash.mig_node import HALF, SMALL, STAYS, MigNode, lay_partitioned
from tests.crash.story import Act, Story, prepare, sweep_stale, then, told, unprepare, wake

# By what becomes of MIG mode: changed as it is needed, or on from the beginning and never changed.
PORTRAITS = {"toggles": ("h100x8", "b200x8", "gb200x4"), "stays": STAYS}

# ── beginnings ─────────────────────────────────────────────────────────────────────────────────────────────────────


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
    monitor = {"device": node.partition(0, SMALL, 0), "adminAccess": True}
    await node.add("monitor", monitor)
    await node.add("monitor and more", monitor, node.partition(1, SMALL, 0))


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


async def monitored(node: MigNode) -> None:
    """An administrator's claim made the partition, a user's shares it."""
    await shared(node)
    await node.prepared(await node.add("first", {"device": node.partition(1, SMALL, 0), "adminAccess": True}))
    await node.prepared(node.refs["one"])


async def joined(node: MigNode) -> None:
    """Claims for a partition that an administrator's claim made, and for one more on the same GPU or the other."""
    await shared(node)
    theirs = node.partition(1, SMALL, 0)
    await node.prepared(await node.add("first", {"device": theirs, "adminAccess": True}))
    await node.add("both", theirs, node.partition(1, SMALL, 1))
    await node.add("apart", theirs, node.partition(0, SMALL, 1))


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
        await enter(node, ref, replace(node.record().entries[ref.uid], name="", namespace=""))


async def left_half_done(node: MigNode) -> None:
    """A program died in the midst of preparing: on the second GPU something was made, or on both."""
    await shared(node)
    node.host.kill_after(12)
    assert await node.dies(asyncio.ensure_future(node.prepared(node.refs["across"])))
    await node.restart()
    assert node.state(node.refs["across"]) == "PrepareStarted"
    assert len(node.root.gpu_instances(0)) > 2 or node.root.gpu_instances(1)


async def unknown(node: MigNode) -> None:
    """Somebody's partitions, one beside a bystander's, on a node that is told to destroy such."""
    node.destroy_unknown = True
    node.root.set_mig_mode(1, True)
    node.root.create_mig(1, HALF, 4)
    await node.look()
    await node.warm()
    await node.prepared(await node.add("bystander", node.partition(1, SMALL, 0)))
    node.keep(next(device for device in node.root.mig_devices(1) if device.profile == SMALL))
    await node.restart()


async def enter(node: MigNode, ref: ClaimRef, entry: Entry) -> None:
    await node.ledger.submit(lambda record: Change(None, entries={ref.uid: entry}))


def status(node: MigNode, ref: ClaimRef) -> bytes:
    claims = node.kube.objects("resourceclaims")
    return json.dumps(next(claim["status"] for claim in claims if claim["metadata"]["uid"] == ref.uid)).encode()


def deserted(*names: str) -> Act:
    async def begin(node: MigNode) -> None:
        await prepared(*names)(node)
        for name in names:
            await node.delete(node.refs[name])
        await node.timely(node.sweep.stale_claims())

    return begin


# ── acts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def refuse(name: str) -> Act:
    return lambda node: node.refused(node.refs[name])


def replaced(name: str, device: Callable[[MigNode], str]) -> Act:
    """The claim is gone, and another one has its place: kubelet unprepares what it was answered only."""

    async def act(node: MigNode) -> None:
        ref = node.refs.pop(name)
        if node.state(ref) == "PrepareCompleted":
            await node.released(ref)
        await node.delete(ref)
        await node.prepared(await node.add("another", device(node)))

    return act


def overlapping(node: MigNode) -> str:
    return node.partition(1, HALF, 0)


def all_of_it(node: MigNode) -> str:
    return "gpu-1"


STORIES = {
    "prepare": Story(shared, prepare("one"), prepare("one")),
    "prepare, then released": Story(shared, prepare("one"), unprepare("one")),
    "prepare beside others": Story(shared, prepare("beside"), prepare("beside")),
    "prepare two partitions of a GPU": Story(shared, prepare("pair"), prepare("pair")),
    "prepare two partitions, then released": Story(shared, prepare("pair"), unprepare("pair")),
    "prepare on two GPUs": Story(shared, prepare("across"), prepare("across")),
    "prepare on two GPUs, then released": Story(shared, prepare("across"), unprepare("across")),
    "prepare two claims in one call": Story(shared, prepare("one", "pair"), prepare("pair", "one")),
    "prepare two claims, then one released": Story(
        shared, prepare("one", "pair"), then(unprepare("one"), prepare("pair"))
    ),
    "prepare a partition and a GPU": Story(whole_and_part, prepare("mixed"), prepare("mixed")),
    "prepare a partition and a GPU, then released": Story(whole_and_part, prepare("mixed"), unprepare("mixed")),
    "prepare for an administrator": Story(shared, prepare("monitor"), prepare("monitor")),
    "prepare what another has, and more": Story(shared, prepare("monitor and more"), prepare("monitor and more")),
    "prepare what another has, and more, then released": Story(
        shared, prepare("monitor and more"), unprepare("monitor and more")
    ),
    "unprepare what another has, and more": Story(
        prepared("monitor and more"), unprepare("monitor and more"), unprepare("monitor and more")
    ),
    "prepare what another lets go of": Story(joined, prepare("both"), then(unprepare("first"), prepare("both"))),
    "prepare what another lets go of, then released": Story(
        joined, prepare("both"), then(unprepare("first"), unprepare("both"))
    ),
    "prepare what another lets go of on two GPUs, then released": Story(
        joined, prepare("apart"), then(unprepare("first"), unprepare("apart"))
    ),
    "prepare, then allocated anew": Story(shared, prepare("across"), then(reallocate, prepare("across"))),
    "prepare, then another has its place": Story(shared, prepare("one"), replaced("one", overlapping)),
    "unprepare, then another has its place": Story(prepared("one"), unprepare("one"), replaced("one", overlapping)),
    "unprepare": Story(prepared("one"), unprepare("one"), unprepare("one")),
    "unprepare, then prepared": Story(prepared("one"), unprepare("one"), prepare("one")),
    "unprepare beside others": Story(prepared("beside"), unprepare("beside"), unprepare("beside")),
    "unprepare two partitions of a GPU": Story(prepared("pair"), unprepare("pair"), unprepare("pair")),
    "unprepare on two GPUs": Story(prepared("across"), unprepare("across"), unprepare("across")),
    "unprepare on two GPUs, then prepared": Story(prepared("across"), unprepare("across"), prepare("across")),
    "unprepare two claims in one call": Story(
        prepared("one", "pair"), unprepare("one", "pair"), unprepare("pair", "one")
    ),
    "unprepare a partition and a GPU": Story(
        then(whole_and_part, prepare("mixed")), unprepare("mixed"), unprepare("mixed")
    ),
    "unprepare an administrator's": Story(prepared("monitor"), unprepare("monitor"), unprepare("monitor")),
    "unprepare a shared one, then the other": Story(
        monitored, then(unprepare("first"), unprepare("one")), unprepare("one", "first")
    ),
    "allocated anew": Story(allocated_anew, prepare("across"), prepare("across")),
    "allocated anew, then released": Story(allocated_anew, prepare("across"), unprepare("across")),
    "a GPU instance is refused": Story(
        refused("nvmlDeviceCreateGpuInstanceWithPlacement"), refuse("across"), then(forgive, prepare("across"))
    ),
    "a compute instance is refused": Story(
        refused("nvmlGpuInstanceCreateComputeInstance"), refuse("pair"), then(forgive, prepare("pair"))
    ),
    "a compute instance is refused, then released": Story(
        refused("nvmlGpuInstanceCreateComputeInstance"), refuse("across"), then(forgive, unprepare("across"))
    ),
    "begun by the Go driver": Story(begun_by_the_go_driver(whole_partition), prepare("one"), prepare("one")),
    "begun by the Go driver, then released": Story(
        begun_by_the_go_driver(half_a_partition), prepare("one"), unprepare("one")
    ),
    "begun by the Go driver, rolled back": Story(begun_by_the_go_driver(half_a_partition), wake, wake),
    "begun by the Go driver, unprepare": Story(
        begun_by_the_go_driver(whole_partition), unprepare("one"), unprepare("one")
    ),
    "completed by the Go driver": Story(
        completed_by_the_go_driver, unprepare("one", "across"), unprepare("across", "one")
    ),
    "completed by the Go driver, asked again": Story(
        completed_by_the_go_driver, unprepare("across"), then(prepare("one"), unprepare("across"))
    ),
    "half done, rolled back": Story(left_half_done, wake, wake),
    "half done, rolled back, then prepared": Story(left_half_done, wake, prepare("across")),
    "half done, prepared": Story(left_half_done, prepare("across"), prepare("across")),
    "half done, unprepared": Story(left_half_done, unprepare("across"), unprepare("across")),
    "claims that are gone": Story(deserted("one", "across"), sweep_stale, sweep_stale),
}
# Where MIG mode is turned off for whoever wants all of a GPU.
TOGGLED = {
    "a GPU whose MIG mode was left on": Story(left_on, prepare("whole"), prepare("whole")),
    "a GPU whose MIG mode was left on, then released": Story(left_on, prepare("whole"), unprepare("whole")),
    "prepare, then another has all of the GPU": Story(shared, prepare("one"), replaced("one", all_of_it)),
    "unprepare, then another has all of the GPU": Story(prepared("one"), unprepare("one"), replaced("one", all_of_it)),
    "a partition that nobody knows": Story(unknown, wake, wake),
}
CASES = [*(("toggles", name) for name in STORIES | TOGGLED), *(("stays", name) for name in STORIES)]


@pytest.mark.parametrize(("mode", "name"), CASES)
async def test_every_death_comes_to_the_same_end(memory: Path, mode: str, name: str) -> None:
    """Portraits alike share a story's deaths. Half of the worlds ask before the fresh program has looked around."""
    story, portraits = (STORIES | TOGGLED)[name], PORTRAITS[mode]
    places = [lay_partitioned(memory / portrait, portrait) for portrait in portraits]
    ends = [(await told(MigNode(place), story, None))[0] for place in places]
    has_died, deaths = True, 0
    while has_died:
        turn = deaths % len(portraits)
        asks_first = (deaths % 2 == 1) == (mode == "toggles")
        reached, has_died = await told(MigNode(places[turn]), story, deaths, asks_first=asks_first)
        assert reached == ends[turn], f"after {deaths} effects on {portraits[turn]}"
        deaths += has_died
    assert deaths >= 2, "the act has no effects"


@pytest.mark.parametrize("name", ["prepare on two GPUs", "unprepare two partitions of a GPU", "allocated anew"])
async def test_dying_again_and_again_changes_nothing(memory: Path, name: str) -> None:
    """Each fresh program gets one effect further than the one before it."""
    story = STORIES[name]
    place = lay_partitioned(memory, "h100x8")
    end, _ = await told(MigNode(place), story, None)
    node = MigNode(place)
    await node.boot()
    await story.begin(node)
    for effects in range(60):
        node.host.kill_after(effects)
        if not await node.dies(asyncio.ensure_future(story.act(node))):
            break
        await node.restart()
        node.check()
    else:
        pytest.fail("it never gets through")
    await node.restart()
    await node.wakes()
    await story.again(node)
    node.check_settled()
    assert node.end() == end
    await node.stop()
