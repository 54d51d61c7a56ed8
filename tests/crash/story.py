"""Stories of a node whose program dies: what was before, an act that is cut short, and what the world asks next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvdra import cdi, claims
from nvdra.api import ClaimRef
from nvdra.checkpoint import Entry, Unreadable
from tests.unit.node.world import World


class Node(World):
    """A node with its claims by name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.refs: dict[str, ClaimRef] = {}

    async def add(self, name: str, *devices: Any) -> ClaimRef:
        self.refs[name] = await self.claim(name, *devices)
        return self.refs[name]

    async def boot(self) -> None:
        """The program starts, the first time."""
        self.start()

    async def stop(self) -> None:
        await self.checkpoint_writer.stop()
        await self.bury()
        self.host.close()

    async def bury(self) -> None:
        """End what a dead program left waiting; its host lets nothing of that touch the node."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def wakes(self) -> None:
        """What a program does by itself after its start."""
        await self.warm()
        await self.timely(self.sweep.settle())
        await self.timely(self.sweep.leftovers())

    def completed(self) -> dict[str, Entry]:
        """The checkpoint's completed entries, by UID; none while there is no checkpoint, or none that can be read."""
        try:
            entries = self.checkpoint().entries
        except (FileNotFoundError, Unreadable):
            return {}
        return {uid: entry for uid, entry in entries.items() if entry.state == "PrepareCompleted"}

    def check(self) -> None:
        """What must hold at any moment: a completed claim has a CDI file with its very devices."""
        for uid, entry in self.completed().items():
            document = cdi.parse((self.folder / f"cdi/{cdi.GPU_CLAIMS.file_name(uid)}").read_bytes())
            assert {device.name for device in document.devices} == {
                cdi_id.partition("=")[2] for device in claims.answers(entry) for cdi_id in device.cdi_ids
            }

    def check_settled(self) -> None:
        """What must hold once a fresh program has put right what it found."""

    def end(self) -> object:
        """Everything a story comes to."""
        return self.files()


Act = Callable[[Any], Awaitable[object]]


@dataclass(frozen=True)
class Story:
    """begin: what was before. act: what is cut short. again: what the world asks next, told the same in the end.

    is_damage   what was before is damage, so that what must hold at any moment need not
    """

    begin: Act
    act: Act
    again: Act
    is_damage: bool = False


def prepare(*names: str) -> Act:
    return lambda node: node.prepared(*(node.refs[name] for name in names))


def unprepare(*names: str) -> Act:
    return lambda node: node.released(*(node.refs[name] for name in names))


async def wake(node: Node) -> None:
    await node.wakes()


async def sweep_stale(node: Node) -> None:
    for _ in range(2):  # a fresh program must see it twice again
        await node.timely(node.sweep.stale_claims())


def then(*acts: Act) -> Act:
    async def one_after_the_other(node: Node) -> None:
        for act in acts:
            await act(node)

    return one_after_the_other


async def told(node: Node, story: Story, dies_after: int | None, *, asks_first: bool = False) -> tuple[object, bool]:
    """The end of a story, and whether its act was cut short.

    asks_first   the world asks before the fresh program has looked around
    """
    await node.boot()
    try:
        await story.begin(node)
        has_died = False
        if dies_after is None:
            await story.act(node)
        else:
            node.host.kill_after(dies_after)
            acting = asyncio.ensure_future(story.act(node))
            has_died = await node.dies(acting)
            if not has_died:
                acting.result()
        await node.restart()
        if not story.is_damage:
            node.check()
        if not asks_first:
            await node.wakes()
            node.check_settled()
        await story.again(node)
        await node.wakes()
        node.check_settled()
        return node.end(), has_died
    finally:
        await node.stop()
