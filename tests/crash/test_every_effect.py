"""The program dies after every single effect on the disk; a fresh one comes to the same end, whatever is asked next.

The end must be, byte for byte, the end of the same story told without a death.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nvdra.checkpoint import Entry
from nvdra.node.checkpoint_writer import Change
from tests.crash.sample import Sample
from tests.crash.story import Act, Node, Story, prepare, sweep_stale, then, told, unprepare, wake
from tests.unit.node.world import CHECKPOINT, C, P, cdi_path

# ── beginnings ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def bystander(node: Node) -> None:
    """Somebody else is prepared, and claims wait to be."""
    await node.warm()
    await node.prepared(await node.add("bystander", "gpu-3"))
    await node.add("a", "gpu-0")
    await node.add("pair", "gpu-1", "gpu-2")


async def fresh(node: Node) -> None:
    """Nothing was ever prepared here."""
    await node.edits_provider.refresh(node.inventory.devices.values())
    await node.add("a", "gpu-0")


async def both_prepared(node: Node) -> None:
    await bystander(node)
    await node.prepared(node.refs["a"], node.refs["pair"])


async def file_lost(node: Node) -> None:
    await both_prepared(node)
    await node.host.remove(cdi_path(node.refs["pair"]))


async def allocated_anew(node: Node) -> None:
    await both_prepared(node)
    await node.released(node.refs["pair"])
    await node.allocate(node.refs["a"], "gpu-1", "gpu-2")


async def begun_by_the_go_driver(node: Node) -> None:
    await bystander(node)
    ref = node.refs["a"]
    status = json.dumps(
        next(c["status"] for c in node.kube.objects("resourceclaims") if c["metadata"]["uid"] == ref.uid)
    )
    entry = Entry("PrepareStarted", status.encode(), (), ref.name, ref.namespace)
    await node.checkpoint_writer.submit(lambda checkpoint: Change(None, entries={ref.uid: entry}))


def lost(damage: Callable[[bytes], bytes | None]) -> Act:
    async def begin(node: Node) -> None:
        await both_prepared(node)
        await node.delete(node.refs["pair"])
        damaged = damage(node.host.read(CHECKPOINT))
        await node.stop()
        if damaged is None:
            (node.folder / CHECKPOINT.strip("/")).unlink()
        else:
            node.host.write(CHECKPOINT, damaged, mode=0o600)
        node.host = node.host.revive()
        node.start()

    return begin


async def rebooted(node: Node) -> None:
    await both_prepared(node)
    await node.stop()
    node.host.boot = "99999999-2222-3333-4444-555555555555"
    node.host = node.host.revive()
    node.start()


async def littered(node: Node) -> None:
    await both_prepared(node)
    for path in (
        f"{C}/k8s.gpu.nvidia.com-claim_orphan.yaml",
        f"{C}/k8s.gpu.nvidia.com-claim_orphan.yaml.7.tmp",
        f"{P}/.4711",
    ):
        node.host.write(path, b"x")


async def deserted(node: Node) -> None:
    await both_prepared(node)
    await node.delete(node.refs["a"])
    await node.timely(node.sweep.stale_claims())


STORIES = {
    "the first prepare ever": Story(fresh, prepare("a"), prepare("a")),
    "the first prepare ever, then released": Story(fresh, prepare("a"), unprepare("a")),
    "prepare": Story(bystander, prepare("a"), prepare("a")),
    "prepare two devices": Story(bystander, prepare("pair"), prepare("pair")),
    "prepare two claims in one call": Story(bystander, prepare("a", "pair"), prepare("a", "pair")),
    "prepare, then released": Story(bystander, prepare("pair"), unprepare("pair")),
    "prepare, then another": Story(bystander, prepare("a"), then(prepare("pair"), prepare("a"))),
    "unprepare": Story(both_prepared, unprepare("a"), unprepare("a")),
    "unprepare two": Story(both_prepared, unprepare("a", "pair"), unprepare("pair", "a")),
    "unprepare, then prepared": Story(both_prepared, unprepare("pair"), prepare("pair")),
    "repair": Story(file_lost, prepare("pair"), prepare("pair"), is_damage=True),
    "repair, then released": Story(file_lost, prepare("pair"), unprepare("pair"), is_damage=True),
    "allocated anew": Story(allocated_anew, prepare("a"), prepare("a")),
    "allocated anew, then released": Story(allocated_anew, prepare("a"), unprepare("a")),
    "begun by the Go driver": Story(begun_by_the_go_driver, prepare("a"), prepare("a")),
    "begun by the Go driver, then released": Story(begun_by_the_go_driver, prepare("a"), unprepare("a")),
    "a corrupt checkpoint": Story(lost(lambda checkpoint: checkpoint.replace(b"gpu-0", b"gpu-9")), wake, wake),
    "a truncated checkpoint": Story(lost(lambda checkpoint: checkpoint[:99]), wake, prepare("a")),
    "a missing checkpoint": Story(lost(lambda checkpoint: None), wake, wake),
    "a missing checkpoint, then released": Story(lost(lambda checkpoint: None), wake, unprepare("a")),
    "a reboot": Story(rebooted, wake, prepare("bystander", "a", "pair")),
    "leftovers": Story(littered, wake, wake),
    "a claim that is gone": Story(deserted, sweep_stale, sweep_stale),
}


@pytest.mark.parametrize("name", STORIES)
async def test_every_death_comes_to_the_same_end(memory: Path, sample: Sample, name: str) -> None:
    story = STORIES[name]
    end, _ = await told(Node(memory / "whole"), story, None)
    effects, has_died = sample.first(list(STORIES).index(name)), True
    while has_died:
        reached, has_died = await told(Node(memory / f"after-{effects}"), story, effects)
        assert reached == end, f"after {effects} effects"
        effects += sample.step
    assert effects >= 3, "the act has no effects"


@pytest.mark.parametrize("name", ["prepare two devices", "unprepare two", "allocated anew"])
async def test_dying_again_and_again_changes_nothing(memory: Path, name: str) -> None:
    """Each fresh program gets one effect further than the one before it."""
    story = STORIES[name]
    end, _ = await told(Node(memory / "whole"), story, None)
    node = Node(memory / "node")
    node.start()
    await story.begin(node)
    for effects in range(40):
        node.host.kill_after(effects)
        acting = asyncio.ensure_future(story.act(node))
        if not await node.dies(acting):
            break
        await node.restart()
        node.check()
    else:
        pytest.fail("it never gets through")
    await node.restart()
    await node.wakes()
    await story.again(node)
    await node.wakes()
    assert node.files() == end
    await node.stop()
