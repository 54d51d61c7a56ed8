"""The real process, killed at every durable system call of a prepare and of an unprepare; a fresh one converges.

strace lets SIGKILL strike at the entry of the n-th such call of a thread; all of them are the writer thread's, so that
n counts through the whole act. The enumeration ends at the first n that is not reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from nvdra import cdi
from nvdra.testing.kubelet import PluginError
from tests.contract.plugin_node import PluginNode, plugin_node

DURABLE = ("rename", "fsync", "unlink", "renameat", "renameat2", "fdatasync", "unlinkat")


class Enumeration:
    """(system call, n) from n = 1 on, until told that an n was not reached; strace counts each call by itself."""

    def __init__(self) -> None:
        self._ended: set[str] = set()

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for call in DURABLE:
            number = 1
            while call not in self._ended:
                yield call, number
                number += 1

    def ends(self, call: str) -> None:
        self._ended.add(call)


@pytest.fixture(params=["asked again", "the opposite"])
def next_asked(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    async with plugin_node() as node:
        await node.start()
        yield node


async def killed_at(node: PluginNode, call: str, number: int, act: Callable[[], Awaitable[object]]) -> bool:
    """Whether the program was killed at the entry of its n-th such call; else the act is done."""
    assert node.process is not None
    process = node.process
    async with node.traced("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}") as trace:
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
    for uid in node.record().entries:
        document = cdi.parse((node.cdi / cdi.file_name(uid)).read_bytes())
        assert all(device.name.startswith(f"{uid}-gpu-") for device in document.devices)


async def test_a_prepare(node: PluginNode, next_asked: str) -> None:
    bystander = await node.claim("gpu-7")
    ref = await node.claim("gpu-0", "gpu-1")
    await node.prepared(bystander)
    without = node.files()
    await node.prepared(ref)
    with_it = node.files()
    await node.released(ref)
    assert node.files() == without

    struck = []
    enumeration = Enumeration()
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
            await settled(node, with_it)
        await node.released(ref)
        await settled(node, without)
    # The CDI file's rename, the record's fsync, the record's rename.
    assert struck == [("rename", 1), ("rename", 2), ("fsync", 1)]


async def test_an_unprepare(node: PluginNode, next_asked: str) -> None:
    bystander = await node.claim("gpu-7")
    ref = await node.claim("gpu-0", "gpu-1")
    await node.prepared(bystander)
    without = node.files()
    await node.prepared(ref)
    with_it = node.files()

    struck = []
    enumeration = Enumeration()
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
            await settled(node, without)
        assert await node.prepared(ref) == ["gpu-0", "gpu-1"]
        await settled(node, with_it)
    # The record's rename, its fsync, the CDI file's unlink.
    assert struck == [("rename", 1), ("fsync", 1), ("unlink", 1)]


async def settled(node: PluginNode, wanted: dict[str, bytes]) -> None:
    """The disk is as wanted; what a killed writer left beside its files is swept soon after the start."""
    try:
        async with asyncio.timeout(30):
            while node.files() != wanted:  # noqa: ASYNC110  another process sweeps
                await asyncio.sleep(0.01)
    except TimeoutError:
        assert node.files() == wanted
