"""compute-domain-kubelet-plugin, killed at every durable system call and around every write to the API server.

A fresh program, asked again or for the opposite, comes to the same end as without a death: checkpoint, files, label.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import pytest

from nvdra.api import ClaimRef
from nvdra.ports import Resource
from nvdra.testing.kube import FakeKube
from nvdra.testing.kubelet import PluginError
from tests.contract.domain_node import DomainNode, domain_node
from tests.crash.sample import Sample
from tests.crash.test_every_system_call import ASKED, Enumeration, killed_at
from tests.waiting import until

# The entry begins; the CDI file; the entry is complete.
CHANNEL = (("rename", 1), ("rename", 2), ("rename", 3), ("fsync", 1), ("fsync", 2))
# As above, with the two files of the domain's folder after the beginning.
DAEMON = (*CHANNEL, ("rename", 4), ("rename", 5))
# The entry is half done again; it leaves; the CDI file goes.
UNPREPARE = (("rename", 1), ("rename", 2), ("fsync", 1), ("fsync", 2), ("unlink", 1))


class DeadlyKube(FakeKube):
    """An API server whose client is killed around the next write of a node.

    strikes   when: before the write is done, or after it, before the client hears of it
    """

    def __init__(self) -> None:
        super().__init__()
        self.strikes: Literal["before", "after", ""] = ""
        self.kill: Callable[[], None] = lambda: None

    async def patch(self, resource: Resource, *arguments: Any, **named: Any) -> bytes:
        strikes, self.strikes = (self.strikes, "") if resource.plural == "nodes" else ("", self.strikes)
        if strikes == "before":
            self.kill()
            raise asyncio.CancelledError
        answer = await super().patch(resource, *arguments, **named)
        if strikes == "after":
            self.kill()
            raise asyncio.CancelledError
        return answer


@pytest.fixture
async def node() -> AsyncIterator[DomainNode]:
    async with domain_node(kube=DeadlyKube()) as node:
        await node.start()
        yield node


async def ready_domain(node: DomainNode) -> str:
    domain = await node.domain()
    await node.clique(domain)
    await until((node.cdi / "k8s.compute-domain.nvidia.com-device_base.yaml").exists, "the base document")
    return domain


def end(node: DomainNode) -> object:
    return node.files(), node.label()


async def comes_to(node: DomainNode, wanted: object) -> None:
    """Return once everything is as wanted and nothing is left over."""
    files, label = wanted  # type: ignore[misc]
    await node.settled(files)
    assert node.label() == label


async def tell(
    node: DomainNode,
    ref: ClaimRef,
    cut: Callable[[Callable[[], Awaitable[object]]], Awaitable[bool]],
    act: Literal["prepare", "unprepare"],
    asked: str,
    with_it: object,
    without: object,
) -> bool:
    """One death in an act and what follows; whether there was one. The claim is unprepared afterwards."""
    if act == "unprepare":
        await node.prepared(ref)
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "prepare": lambda: node.prepared(ref),
        "unprepare": lambda: node.released(ref),
    }
    was_killed = await cut(acts[act])
    if was_killed:
        await node.stop()
        await node.start()
    is_wanted = (act == "prepare") == (asked == "asked again" or not was_killed)
    await acts["prepare" if is_wanted else "unprepare"]()
    if is_wanted:
        await comes_to(node, with_it)
        await node.released(ref)
    elif (entry := node.checkpoint().entries.get(ref.uid)) is not None:
        # A claim that was given up before it was prepared: it refuses late prepares for a while.
        assert (entry.state, node.label()) == ("PrepareAborted", "")
        return was_killed
    await comes_to(node, without)
    return was_killed


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    ("kind", "act", "calls"),
    [("channel", "prepare", CHANNEL), ("daemon", "prepare", DAEMON), ("channel", "unprepare", UNPREPARE)],
)
async def test_every_durable_call(
    node: DomainNode,
    sample: Sample,
    kind: str,
    act: Literal["prepare", "unprepare"],
    calls: tuple[tuple[str, int], ...],
    asked: str,
) -> None:
    domain = await ready_domain(node)
    ref = await (node.channel(domain) if kind == "channel" else node.daemon(domain))
    without = end(node)
    await node.prepared(ref)
    with_it = end(node)
    await node.released(ref)
    without = end(node)
    enumeration, struck = Enumeration(calls, sample, asked), []
    for call, number in enumeration:

        async def cut(work: Callable[[], Awaitable[object]], call: str = call, number: int = number) -> bool:
            return await killed_at(node, call, number, work)

        if await tell(node, ref, cut, act, asked, with_it, without):
            struck.append((call, number))
            if ref.uid in node.checkpoint().entries:  # aborted: the next claim is another one
                ref = await (node.channel(domain) if kind == "channel" else node.daemon(domain))
                await node.prepared(ref)
                with_it = end(node)
                await node.released(ref)
                without = end(node)
        else:
            enumeration.ends(call)
    assert sorted(struck) == sorted(enumeration.expected)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("strikes", ["before", "after"])
@pytest.mark.parametrize("act", ["prepare", "unprepare"])
async def test_every_write_of_the_label(
    node: DomainNode, act: Literal["prepare", "unprepare"], strikes: Literal["before", "after"], asked: str
) -> None:
    kube = node.kube
    assert isinstance(kube, DeadlyKube)
    domain = await ready_domain(node)
    ref = await node.channel(domain)
    await node.prepared(ref)
    with_it = end(node)
    await node.released(ref)
    without = end(node)

    async def cut(work: Callable[[], Awaitable[object]]) -> bool:
        assert node.process is not None
        process, kube.kill, kube.strikes = node.process, node.process.kill, strikes
        with pytest.raises(PluginError):
            await work()
        assert await asyncio.wait_for(process.wait(), 30) == -9
        return True

    assert await tell(node, ref, cut, act, asked, with_it, without)
