"""Device metadata: the program is killed after every single effect, and everything comes to the same end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nvdra.claims import metadata
from tests.crash.sample import Sample
from tests.crash.story import Node, Story, prepare, told, unprepare
from tests.unit.node.world import DRIVER, P


class MetadataNode(Node):
    """A node whose containers get metadata of their devices."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gates = "PassthroughSupport=true,DeviceMetadata=true"

    def check(self) -> None:
        super().check()
        for uid in self.completed():
            names = [path.name for path in (self.folder / "cdi").iterdir()]
            assert uid in {metadata.cdi_claim(DRIVER, name) for name in names}


async def allocated(node: Node) -> None:
    await node.add("bystander", "gpu-3")
    await node.add("pair", "gpu-0", "gpu-1")
    await node.prepared(node.refs["bystander"])


async def prepared(node: Node) -> None:
    await allocated(node)
    await node.prepared(node.refs["pair"])


async def files_lost(node: Node) -> None:
    await prepared(node)
    shutil.rmtree(node.folder / f"{P}/dra-device-metadata".strip("/"))


STORIES = {
    "prepare": Story(allocated, prepare("pair"), prepare("pair")),
    "prepare, then released": Story(allocated, prepare("pair"), unprepare("pair")),
    "unprepare": Story(prepared, unprepare("pair"), unprepare("pair")),
    "unprepare, then prepared": Story(prepared, unprepare("pair"), prepare("pair")),
    "repair": Story(files_lost, prepare("pair", "bystander"), prepare("pair", "bystander"), is_damage=True),
}


@pytest.mark.parametrize("name", STORIES)
async def test_every_death_comes_to_the_same_end_with_metadata(memory: Path, sample: Sample, name: str) -> None:
    story = STORIES[name]
    end, _ = await told(MetadataNode(memory / "whole"), story, None)
    effects, has_died = sample.first(list(STORIES).index(name)), True
    while has_died:
        reached, has_died = await told(MetadataNode(memory / f"after-{effects}"), story, effects)
        assert reached == end, f"after {effects} effects"
        effects += sample.step
    assert effects >= 5, "the act has no effects"
