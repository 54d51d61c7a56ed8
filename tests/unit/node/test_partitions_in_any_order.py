"""Claims for partitions in any order, several at once, with calls that fail: what must hold after every step."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nvdra import claims
from nvdra.api import ClaimRef
from nvdra.devices import MigName, Partitions, parse_name
from nvdra.node.walk import Failure
from nvdra.nvml import IN_USE
from tests.unit.node.gpus import refusal
from tests.unit.node.mig_world import ONE, ZERO, MigWorld, half, small

# A disk takes milliseconds an fsync.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

WANTED: tuple[tuple[Any, ...], ...] = (
    (small(0),),
    (small(1), small(4, minor=1)),
    (half(0),),
    (half(4), half(4, minor=1)),
    ({"device": small(0), "adminAccess": True}, small(2)),
    ("gpu-0",),
    ({"device": "gpu-1", "adminAccess": True},),
)
VERBS = (
    *("mig", "set_mig_mode", "create_gpu_instance", "create_compute_instance"),
    *("destroy_compute_instance", "destroy_gpu_instance"),
)

ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(st.tuples(st.booleans(), st.integers(0, len(WANTED) - 1)), max_size=4)),
        st.tuples(st.just("refuse"), st.tuples(st.sampled_from(VERBS), st.sampled_from((ZERO, ONE)))),
        st.tuples(st.just("sweep"), st.none()),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=10,
)


class Story(MigWorld):
    """The node and its claims."""

    async def begin(self) -> None:
        self.start()
        await self.warm()
        self.refs: list[ClaimRef] = [await self.claim(f"c{n}", *devices) for n, devices in enumerate(WANTED)]

    async def act(self, act: str, more: Any) -> None:
        match act:
            case "ask":
                # Kubelet's calls, side by side.
                calls = [
                    self.walk.prepare([self.refs[number]]) if is_prepare else self.walk.unprepare([self.refs[number]])
                    for is_prepare, number in more
                ]
                await self.timely(asyncio.gather(*calls))
            case "refuse":
                verb, uuid = more
                self.gpus.refuse(verb, uuid, refusal(IN_USE))
            case "sweep":
                await self.timely(self.sweep.half_done())
            case _:
                await self.restart()
                self.look()
                await self.warm()

    def check(self) -> None:
        """Completed claims have their partitions, nobody has another's, and what no entry names is not there."""
        standing = {
            (uuid, gi.profile_id, gi.start): [compute.uuid for compute in gi.compute]
            for uuid in (ZERO, ONE)
            for gi in self.gpus.partitions(uuid).instances
        }
        record = self.record()
        named: set[tuple[str, int, int]] = set()
        for entry in record.entries.values():
            for text in claims.names(entry):
                if isinstance(name := parse_name(text), MigName):
                    named.add(((ZERO, ONE)[name.parent_minor], name.profile_id, name.start))
            if entry.state == "PrepareCompleted":
                for device in claims.answers(entry):
                    name = parse_name(device.device)
                    if device.mig is not None and isinstance(name, MigName):
                        assert standing[device.mig.parent_uuid, name.profile_id, name.start] == [device.uuid]
                    elif claims.allocation(entry.status).results[0].admin_access is not True:
                        assert not self.gpus.partitions(device.uuid).instances
        assert standing.keys() <= named
        for ref in self.refs:
            if self.state(ref) == "PrepareCompleted":
                assert self.has_file(ref)

    async def end(self) -> None:
        self.gpus.relent()
        answers = await self.unprepare(*self.refs)
        assert not [answer for answer in answers.values() if isinstance(answer, Failure)]
        assert self.record().entries == {}
        assert not any(map(self.has_file, self.refs))
        for uuid in (ZERO, ONE):
            assert self.gpus.partitions(uuid) == Partitions()
            assert self.lines(uuid) == []
        assert self.locks.claims == frozenset()
        await self.stop()


@settings(max_examples=60, deadline=None)
@given(ACTS)
async def test_no_partition_is_lost_and_none_destroyed_under_a_claim(acts: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        story = Story(Path(folder))
        await story.begin()
        for act, more in acts:
            await story.act(act, more)
            story.check()
        await story.end()
