"""The program dies after every single effect of fabric partitions, on nodes with one, four and eight GPUs.

Whatever is asked next, a fresh program comes to the end of the same story told without a death: the same files, the
same active partitions.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra.gpu import Inventory
from nvdra.gpu.fabric_topology import FabricPartition
from nvdra.gpu.shares import Shares
from nvdra.gpu.sharing import Sharing
from nvdra.node.gpu.actors.fabric import FabricActor
from nvdra.node.gpu.fabric import MODULES, Fabric
from nvdra.testing.fabric import FakeFabric
from nvdra.testing.host import FakeHost, Killed
from tests.crash.sample import Sample
from tests.crash.story import Node, Story, prepare, then, told, unprepare
from tests.unit.node.fabric_world import lay
from tests.unit.node.world import P


class MortalFabric(Fabric):
    """Fabric Manager as one program has it: changes are effects of its host, and once that is dead nothing is heard."""

    host: FakeHost

    async def partitions(self) -> tuple[FabricPartition, ...]:
        if self.host.is_dead:
            raise Killed
        return await super().partitions()

    async def activate(self, partition: int) -> None:
        change = super().activate
        await self.host.perform("activate", str(partition), lambda: change(partition))

    async def deactivate(self, partition: int) -> None:
        change = super().deactivate
        await self.host.perform("deactivate", str(partition), lambda: change(partition))


class FabricNode(Node):
    """A node with a fabric. Claims: `all` its GPUs, or the `half` and the `first` GPU of them."""

    manager: FakeFabric
    changes: int

    def __init__(self, folder: Path, gpus: int, *, shares: bool = False) -> None:
        super().__init__(folder)
        lay(self, gpus)
        self.count = gpus
        if shares:
            self.gates += ",ConsumableShares=true"
            self.sharing = Sharing(Shares("unlimited"))

    def make_fabric(self) -> FabricActor:
        self.fabric = MortalFabric(self.manager, self.host, self.clock, f"{P}/{MODULES}", lambda: True, lambda: None)
        self.fabric.host = self.host
        return FabricActor(self.fabric, self.clock)

    def seen(self) -> Inventory:
        return self.fabric.of(self.inventory)

    async def boot(self) -> None:
        await super().boot()
        await self._look()

    async def restart(self) -> None:
        await super().restart()
        await self._look()

    async def _look(self) -> None:
        """As the program does: Fabric Manager is looked for once the GPUs have been read."""
        self.seen()
        await self.timely(self.fabric.look())

    async def wakes(self) -> None:
        await super().wakes()
        await self.timely(self.sweep.half_prepared())

    def check(self) -> None:
        super().check()
        assert len(self.manager.active) >= bool(self.completed()), "a prepared claim has no partition"

    def end(self) -> object:
        return self.files(), self.manager.active


def named(node: FabricNode, first: int = 0, count: int = 0) -> list[str]:
    return [f"gpu-{minor}" for minor in range(first, first + (count or node.count))]


async def allocated(node: FabricNode) -> None:
    await node.add("all", *named(node))
    await node.add("first", *named(node, 0, 1))
    await node.add("half", *named(node, node.count // 2, max(node.count // 2, 1)))


async def whole(node: FabricNode) -> None:
    await allocated(node)
    await node.prepared(node.refs["all"])


async def apart(node: FabricNode) -> None:
    await allocated(node)
    await node.prepared(node.refs["half"])


async def shared(node: FabricNode) -> None:
    await whole(node)
    await node.add("other", *named(node))
    await node.prepared(node.refs["other"])


STORIES = {
    "prepare": Story(allocated, prepare("all"), prepare("all")),
    "prepare, then released": Story(allocated, prepare("all"), unprepare("all")),
    "prepare, then others": Story(allocated, prepare("all"), then(unprepare("all"), prepare("half"))),
    "unprepare": Story(whole, unprepare("all"), unprepare("all")),
    "unprepare, then prepared": Story(whole, unprepare("all"), prepare("all")),
    "unprepare beside another": Story(apart, unprepare("half"), unprepare("half")),
}


@pytest.mark.parametrize("gpus", [1, 4, 8])
@pytest.mark.parametrize("name", STORIES)
async def test_every_death_comes_to_the_same_end_with_a_fabric(
    memory: Path, sample: Sample, name: str, gpus: int
) -> None:
    story = STORIES[name]
    end, _ = await told(FabricNode(memory / "whole", gpus), story, None)
    effects, has_died = sample.first(list(STORIES).index(name)), True
    while has_died:
        reached, has_died = await told(FabricNode(memory / f"after-{effects}", gpus), story, effects)
        assert reached == end, f"after {effects} effects"
        effects += sample.step
    assert effects >= 5, "the act has no effects"


@pytest.mark.parametrize("asks_first", [False, True])
async def test_every_death_leaves_a_shared_partition_to_who_needs_it(
    memory: Path, sample: Sample, asks_first: bool
) -> None:
    story = Story(shared, unprepare("all"), unprepare("all"))
    end, _ = await told(FabricNode(memory / "whole", 4, shares=True), story, None)
    assert end[1] == {0}  # type: ignore[index]
    effects, has_died = 0, True
    while has_died:
        node = FabricNode(memory / f"after-{effects}", 4, shares=True)
        reached, has_died = await told(node, story, effects, asks_first=asks_first)
        assert reached == end, f"after {effects} effects"
        effects += sample.step
