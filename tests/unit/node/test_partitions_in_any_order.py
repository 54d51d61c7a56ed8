"""Claims for partitions in any order, several at once, with calls that fail and deaths: what must hold all the time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nvdra import claims
from nvdra.api import ClaimRef
from nvdra.gpu import MigName, Partitions, parse_name
from nvdra.node.claim_service import Failure
from nvdra.nvml import IN_USE
from nvdra.testing.host import FakeHost, Killed
from tests.unit.node.gpus import Gpus, refusal
from tests.unit.node.mig_world import AT_ONE, AT_ZERO, ONE, ZERO, MigWorld, half, small
from tests.unit.node.world import DRIVER

# A disk takes milliseconds an fsync.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

WANTED: tuple[tuple[Any, ...], ...] = (
    (small(0),),
    (small(1), small(4, minor=1)),
    (half(0),),
    (half(4), half(4, minor=1)),
    ({"device": "gpu-0", "adminAccess": True}, small(2)),
    ({"device": small(0), "adminAccess": True},),
    ("gpu-0",),
    ({"device": "gpu-1", "adminAccess": True},),
)
CHANGES = (
    *("set_mig_mode", "create_gpu_instance", "create_compute_instance"),
    *("destroy_compute_instance", "destroy_gpu_instance"),
)

CALLS = st.lists(st.tuples(st.booleans(), st.integers(0, len(WANTED) - 1)), max_size=4)

ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), CALLS),
        st.tuples(st.just("ask and die"), st.tuples(CALLS, st.integers(0, 20))),
        st.tuples(st.just("refuse"), st.tuples(st.sampled_from(("mig", *CHANGES)), st.sampled_from((ZERO, ONE)))),
        st.tuples(st.just("sweep"), st.none()),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=10,
)


class Mortal:
    """The GPUs as one program has them: its changes are effects of its host, and once that is dead it hears nothing."""

    def __init__(self, gpus: Gpus, host: FakeHost) -> None:
        self._gpus = gpus
        self._host = host

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        async def call(uuid: str, *more: Any) -> Any:
            if verb in CHANGES:
                return await self._host.perform(verb, uuid, lambda: getattr(self._gpus, verb)(uuid, *more))
            answer = await getattr(self._gpus, verb)(uuid, *more)
            if self._host.is_dead:
                raise Killed
            return answer

        return call


class Story(MigWorld):
    """The node and its claims."""

    def start(self) -> None:
        gpus = self.gpus
        self.gpus = Mortal(gpus, self.host)  # type: ignore[assignment]
        super().start()
        self.gpus = gpus

    async def begin(self) -> None:
        self.start()
        await self.warm()
        self.refs: list[ClaimRef] = [await self.claim(f"c{n}", *devices) for n, devices in enumerate(WANTED)]

    async def act(self, act: str, more: Any) -> None:
        match act:
            case "ask":
                await self.timely(self.asked(more))
            case "ask and die":
                calls, effects = more
                self.host.kill_after(effects)
                if await self.dies(asyncio.ensure_future(self.asked(calls))):
                    await bury()
                await self.wake()
            case "refuse":
                verb, uuid = more
                self.gpus.refuse(verb, uuid, refusal(IN_USE))
            case "sweep":
                await self.timely(self.sweep.half_prepared())
            case _:
                await self.wake()

    async def asked(self, calls: list[tuple[bool, int]]) -> None:
        """Kubelet's calls, side by side."""
        await asyncio.gather(
            *(
                self.service.prepare([self.refs[number]]) if is_prepare else self.service.unprepare([self.refs[number]])
                for is_prepare, number in calls
            )
        )

    async def wake(self) -> None:
        """A fresh program, as far as it comes before anybody asks it."""
        await self.restart()
        self.look()
        await self.warm()
        await self.timely(self.upkeep().clean_up())

    def check(self) -> None:
        """Completed claims have their partitions, nobody has another's, and what no entry names is not there."""
        standing = {
            (uuid, gi.profile_id, gi.start): [compute.uuid for compute in gi.compute]
            for uuid in (ZERO, ONE)
            for gi in self.gpus.partitions(uuid).instances
        }
        checkpoint = self.checkpoint()
        named: set[tuple[str, int, int]] = set()
        for entry in checkpoint.entries.values():
            for text in claims.names(entry, DRIVER):
                if isinstance(name := parse_name(text), MigName):
                    named.add(((ZERO, ONE)[name.parent_minor], name.profile_id, name.start))
            if entry.state == "PrepareCompleted":
                for device in claims.answers(entry):
                    name = parse_name(device.device)
                    if device.mig is not None and isinstance(name, MigName):
                        assert standing[device.mig.parent_uuid, name.profile_id, name.start] == [device.uuid]
                    elif claims.allocation(entry.status, DRIVER).results[0].admin_access is not True:
                        assert not self.gpus.partitions(device.uuid).instances
        assert standing.keys() <= named
        for ref in self.refs:
            if self.state(ref) == "PrepareCompleted":
                assert self.has_file(ref)

    async def end(self) -> None:
        self.gpus.relent()
        await self.wake()
        answers = await self.unprepare(*self.refs)
        assert not [answer for answer in answers.values() if isinstance(answer, Failure)]
        assert self.checkpoint().entries == {}
        assert not any(map(self.has_file, self.refs))
        for uuid in (ZERO, ONE):
            assert self.gpus.partitions(uuid) == Partitions()
        assert self.lines(AT_ZERO) == self.lines(AT_ONE) == []
        assert self.context.work.claims == frozenset()
        await self.stop()


async def bury() -> None:
    """End what still waits in a dead program."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
