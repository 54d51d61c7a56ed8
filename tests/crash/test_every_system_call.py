"""The real process, killed at every durable system call of a prepare and of an unprepare; a fresh one converges.

strace lets SIGKILL strike at the entry of the n-th such call of a thread; all of them are the writer thread's, so that
n counts through the whole act. The enumeration ends at the first n that is not reached. Where GPUs are changed, the
mock makes such calls in threads of its own: then the writer alone is traced.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from nvdra import cdi, claims
from nvdra.testing.kubelet import PluginError
from tests.contract.plugin_node import PluginNode, plugin_node, until
from tests.crash.sample import Sample
from tests.folders import contents

DURABLE = ("rename", "fsync", "unlink", "renameat", "renameat2", "fdatasync", "unlinkat")

# The CDI file's rename, the checkpoint's fsync, the checkpoint's rename.
PREPARE = (("rename", 1), ("rename", 2), ("fsync", 1))
# The checkpoint's rename, its fsync, the CDI file's unlink.
UNPREPARE = (("rename", 1), ("fsync", 1), ("unlink", 1))
# The checkpoint says begun, before any GPU is touched; the CDI file; the checkpoint says completed.
PREPARE_PARTITIONS = (("rename", 1), ("rename", 2), ("rename", 3), ("fsync", 1), ("fsync", 2))
# The checkpoint says begun again, before any GPU is touched; the entry leaves it; the CDI file goes.
UNPREPARE_PARTITIONS = (("rename", 1), ("rename", 2), ("fsync", 1), ("fsync", 2), ("unlink", 1))

ASKED = ("asked again", "the opposite")


class Enumeration:
    """(system call, n) from n = 1 on, until told that an n was not reached; strace counts each call by itself.

    A sample takes its share of the calls that are known to be made.
    """

    def __init__(self, known: Sequence[tuple[str, int]], sample: Sample, asked: str) -> None:
        self._ended: set[str] = set()
        self._share = None if sample.is_whole else sample.of(known, ASKED.index(asked), len(ASKED))
        self.expected = list(known) if self._share is None else self._share

    def __iter__(self) -> Iterator[tuple[str, int]]:
        if self._share is not None:
            yield from self._share
            return
        for call in DURABLE:
            number = 1
            while call not in self._ended:
                yield call, number
                number += 1

    def ends(self, call: str) -> None:
        self._ended.add(call)


@pytest.fixture(params=ASKED)
def next_asked(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    async with plugin_node() as node:
        await node.start()
        yield node


async def killed_at(
    node: PluginNode, call: str, number: int, act: Callable[[], Awaitable[object]], thread: int | None = None
) -> bool:
    """Whether the program was killed at the entry of its n-th such call, or of the thread's; else the act is done."""
    assert node.process is not None
    process = node.process
    strike = f"inject={call}:signal=KILL:when={number}"
    async with node.traced("-e", f"trace={call}", "-e", strike, thread=thread) as trace:
        try:
            await act()
        except PluginError:
            await asyncio.wait_for(process.wait(), 30)
    report = trace.read_text()
    was_killed = "+++ killed by SIGKILL +++" in report
    assert was_killed == (process.returncode == -9), report
    assert process.returncode in (None, -9), node.log
    return was_killed


def check_files(node: PluginNode) -> None:
    """Every completed entry has its CDI file, with its devices; no file lies about that is half written."""
    for uid in node.checkpoint().entries:
        document = cdi.parse((node.cdi / cdi.GPU_CLAIMS.file_name(uid)).read_bytes())
        assert all(device.name.startswith(f"{uid}-gpu-") for device in document.devices)


async def test_a_prepare(node: PluginNode, next_asked: str, sample: Sample) -> None:
    bystander = await node.claim("gpu-7")
    ref = await node.claim("gpu-0", "gpu-1")
    await node.prepared(bystander)
    without = node.files()
    await node.prepared(ref)
    with_it = node.files()
    await node.released(ref)
    await node.settled(without)

    struck = []
    enumeration = Enumeration(PREPARE, sample, next_asked)
    for call, number in enumeration:
        if await killed_at(node, call, number, lambda: node.prepared(ref)):
            struck.append((call, number))
            check_files(node)
            await node.stop()
            await node.start()
            if next_asked == "asked again":
                assert await node.prepared(ref) == ["gpu-0", "gpu-1"]
        else:
            enumeration.ends(call)
        if next_asked == "asked again":
            await node.settled(with_it)
        await node.released(ref)
        await node.settled(without)
    assert struck == enumeration.expected


async def test_an_unprepare(node: PluginNode, next_asked: str, sample: Sample) -> None:
    bystander = await node.claim("gpu-7")
    ref = await node.claim("gpu-0", "gpu-1")
    await node.prepared(bystander)
    without = node.files()
    await node.prepared(ref)
    with_it = node.files()

    struck = []
    enumeration = Enumeration(UNPREPARE, sample, next_asked)
    for call, number in enumeration:
        if await killed_at(node, call, number, lambda: node.released(ref)):
            struck.append((call, number))
            check_files(node)
            await node.stop()
            await node.start()
            if next_asked == "asked again":
                await node.released(ref)
        else:
            enumeration.ends(call)
        if next_asked == "asked again":
            await node.settled(without)
        assert await node.prepared(ref) == ["gpu-0", "gpu-1"]
        await node.settled(with_it)
    assert struck == enumeration.expected


# ── partitions ─────────────────────────────────────────────────────────────────────────────────────────────────────

DYNAMIC = {"feature_gates": "DynamicMIG=true"}
BESIDE, HERE, THERE = "gpu-0-mig-3g40gb-9-4", "gpu-0-mig-1g10gb-19-0", "gpu-1-mig-1g10gb-19-0"


class Partitioned:
    """A node with a bystander's partition on the first GPU, and a claim for one beside it and one on another GPU."""

    def __init__(self, node: PluginNode) -> None:
        self.node = node
        self._writer: tuple[int, int] = (0, 0)

    async def start(self) -> None:
        await self.node.start(**DYNAMIC)

    async def begin(self) -> None:
        await self.start()
        self.bystander, self.ref = await self.node.claim(BESIDE), await self.node.claim(HERE, THERE)
        self.unpartitioned = await self.node.claim("gpu-2")
        await self.node.prepared(self.bystander)

    async def prepare(self) -> None:
        assert await self.node.prepared(self.ref) == [HERE, THERE]

    async def release(self) -> None:
        await self.node.released(self.ref)

    async def killed_at(self, call: str, number: int, act: Callable[[], Awaitable[object]]) -> bool:
        return await killed_at(self.node, call, number, act, await self.writer())

    async def writer(self) -> int:
        """The thread that makes durable calls for the program that runs now."""
        pid = self.node.pid
        if self._writer[0] != pid:
            async with self.node.traced("-e", "trace=fsync") as trace:
                await self.node.prepared(self.unpartitioned)
                await self.node.released(self.unpartitioned)
            (thread,) = set(re.findall(r"^(\d+) +fsync\(", trace.read_text(), re.MULTILINE))
            self._writer = pid, int(thread)
        return self._writer[1]

    def state(self) -> dict[str, Any]:
        """All that is on the node of claims: files, partitions, MIG modes, lines in lock files."""
        root = self.node.root
        return {
            "files": self.node.files(),
            "partitions": root.mig_devices(),
            "GPU instances": [root.gpu_instances(minor) for minor in range(3)],
            "modes": [root.mig_mode(minor) for minor in range(3)],
            "lines": b"".join(contents(self.node.plugin_dir / ".locks").values()),
        }

    async def settled(self, wanted: dict[str, Any]) -> None:
        try:
            await until(lambda: self.state() == wanted and not self.node.leftovers())
        except AssertionError:
            assert (self.state(), self.node.leftovers()) == (wanted, [])

    def check(self) -> None:
        """Whatever is completed has its file and its partitions, and the bystander is."""
        entries = self.node.checkpoint().entries
        completed = {uid: entry for uid, entry in entries.items() if entry.state == "PrepareCompleted"}
        assert self.bystander.uid in completed
        live = {device.uuid for device in self.node.root.mig_devices()}
        for uid, entry in completed.items():
            document = cdi.parse((self.node.cdi / cdi.GPU_CLAIMS.file_name(uid)).read_bytes())
            devices = {device.device: device.uuid for device in claims.answers(entry)}
            assert {device.name for device in document.devices} == {f"{uid}-{name}" for name in devices}
            assert set(devices.values()) <= live


@pytest.fixture
async def partitioned() -> AsyncIterator[Partitioned]:
    async with plugin_node(gpus=(0, 1, 2)) as node:
        made = Partitioned(node)
        await made.begin()
        yield made


async def test_a_prepare_of_partitions(partitioned: Partitioned, next_asked: str, sample: Sample) -> None:
    without = partitioned.state()
    await partitioned.prepare()
    with_them = partitioned.state()
    await partitioned.release()
    await partitioned.settled(without)

    struck = []
    enumeration = Enumeration(PREPARE_PARTITIONS, sample, next_asked)
    for call, number in enumeration:
        if await partitioned.killed_at(call, number, partitioned.prepare):
            struck.append((call, number))
            partitioned.check()
            await partitioned.node.stop()
            await partitioned.start()
            if next_asked == "asked again":
                await partitioned.prepare()
        else:
            enumeration.ends(call)
        if next_asked == "asked again":
            await partitioned.settled(with_them)
        await partitioned.release()
        await partitioned.settled(without)
    assert struck == enumeration.expected


async def test_an_unprepare_of_partitions(partitioned: Partitioned, next_asked: str, sample: Sample) -> None:
    without = partitioned.state()
    await partitioned.prepare()
    with_them = partitioned.state()

    struck = []
    enumeration = Enumeration(UNPREPARE_PARTITIONS, sample, next_asked)
    for call, number in enumeration:
        if await partitioned.killed_at(call, number, partitioned.release):
            struck.append((call, number))
            partitioned.check()
            await partitioned.node.stop()
            await partitioned.start()
            if next_asked == "asked again":
                await partitioned.release()
        else:
            enumeration.ends(call)
        if next_asked == "asked again":
            await partitioned.settled(without)
        await partitioned.prepare()
        await partitioned.settled(with_them)
    assert struck == enumeration.expected
