"""The program dies after every single effect, on the disk or on a GPU, of what claims do to GPUs.

Whatever is asked next, a fresh program comes to the end of the same story told without a death: the same files, the
same partitions, and at no moment was a partition gone that a completed claim or somebody else has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.mig_beginnings import (
    allocated_anew,
    begun_by_the_go_driver,
    completed_by_the_go_driver,
    deserted,
    forgive,
    half_a_partition,
    left_half_prepared,
    left_on,
    monitored,
    prepared,
    reallocate,
    refused,
    shared,
    unmanaged,
    whole_and_part,
    whole_partition,
)
from tests.crash.mig_node import HALF, STAYS, MigNode, lay_partitioned
from tests.crash.sample import Sample
from tests.crash.story import Act, Story, prepare, sweep_stale, then, told, unprepare, wake

# Where MIG mode is changed as it is needed; on those of STAYS it is on from the beginning and never changed.
TOGGLES = ("h100x8", "b200x8", "gb200x4")

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
    "unprepare a shared one, then the other": Story(
        monitored, then(unprepare("first"), unprepare("one")), unprepare("one", "first")
    ),
    "unprepare what an administrator looks at": Story(monitored, unprepare("one"), unprepare("one")),
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
    "half done, rolled back": Story(left_half_prepared, wake, wake),
    "half done, rolled back, then prepared": Story(left_half_prepared, wake, prepare("across")),
    "half done, prepared": Story(left_half_prepared, prepare("across"), prepare("across")),
    "half done, unprepared": Story(left_half_prepared, unprepare("across"), unprepare("across")),
    "claims that are gone": Story(deserted("one", "across"), sweep_stale, sweep_stale),
}
# Where a GPU that can be partitioned is offered whole too, and MIG mode turned off for whoever wants all of it.
TOGGLED = {
    "prepare for an administrator": Story(shared, prepare("monitor"), prepare("monitor")),
    "prepare for an administrator, and more": Story(shared, prepare("monitor and more"), prepare("monitor and more")),
    "prepare for an administrator, and more, then released": Story(
        shared, prepare("monitor and more"), unprepare("monitor and more")
    ),
    "unprepare an administrator's, and more": Story(
        prepared("monitor and more"), unprepare("monitor and more"), unprepare("monitor and more")
    ),
    "unprepare an administrator's": Story(prepared("monitor"), unprepare("monitor"), unprepare("monitor")),
    "a GPU whose MIG mode was left on": Story(left_on, prepare("whole"), prepare("whole")),
    "a GPU whose MIG mode was left on, then released": Story(left_on, prepare("whole"), unprepare("whole")),
    "prepare, then another has all of the GPU": Story(shared, prepare("one"), replaced("one", all_of_it)),
    "unprepare, then another has all of the GPU": Story(prepared("one"), unprepare("one"), replaced("one", all_of_it)),
    "a partition that nobody knows": Story(unmanaged, wake, wake),
}
CASES = [
    *((portrait, name) for portrait in TOGGLES for name in STORIES | TOGGLED),
    *((portrait, name) for portrait in STAYS for name in STORIES),
]


@pytest.mark.parametrize(("portrait", "name"), CASES)
async def test_every_death_comes_to_the_same_end(memory: Path, sample: Sample, portrait: str, name: str) -> None:
    """After every other death, by portrait, the world asks before the fresh program has looked around.

    A sample of one death in four meets every death of a story on one of the portraits.
    """
    story = (STORIES | TOGGLED)[name]
    place = lay_partitioned(memory / portrait, portrait)
    end, _ = await told(MigNode(place), story, None)
    first = (*TOGGLES, *STAYS).index(portrait)
    has_died, effects = True, sample.first(first)
    while has_died:
        asks_first = (effects // sample.step + first) % 2 == 1
        reached, has_died = await told(MigNode(place), story, effects, asks_first=asks_first)
        assert reached == end, f"after {effects} effects"
        effects += sample.step
    assert effects >= 3, "the act has no effects"


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
