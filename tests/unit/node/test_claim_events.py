"""Events about claims, written to an API server in memory on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nvdra.api import ClaimRef
from nvdra.kube import ResourceApi
from nvdra.node.claim_events import COUNT_EVERY_S, EVENTS, ClaimEvents
from nvdra.node.hooks import Report
from nvdra.testing.clock import VirtualClock
from nvdra.testing.kube import FakeKube

CLAIM = ClaimRef("ns", "train", "uid-1")
REFUSED = Report(CLAIM, "PrepareFailed", "gpu-1 is in use by pod ns/other")


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.kube = FakeKube(clock=self.clock)
        self.events = ClaimEvents(ResourceApi(self.kube), self.clock, "gpu.nvidia.com", "node-a")
        self._running = asyncio.create_task(self.events.run())

    async def report(self, *reports: Report) -> None:
        for each in reports:
            self.events.report(each)
        await self.clock.settle()

    @property
    def written(self) -> list[dict[str, Any]]:
        return self.kube.objects("events")

    async def stop(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


async def test_an_event_names_the_claim_the_cause_and_the_driver(world: World) -> None:
    await world.report(REFUSED)
    (event,) = world.written
    assert event["involvedObject"] == {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "namespace": "ns",
        "name": "train",
        "uid": "uid-1",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "PrepareFailed", REFUSED.text)
    assert event["source"] == {"component": "gpu.nvidia.com", "host": "node-a"}
    assert event["metadata"]["namespace"] == "ns"
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2027-01-15T08:00:00Z"


async def test_a_repair_is_no_warning(world: World) -> None:
    await world.report(Report(CLAIM, "CDIFileRepaired", "rewrote the file", is_warning=False))
    assert [event["type"] for event in world.written] == ["Normal"]


async def test_a_repetition_raises_the_count_and_writes_once_a_minute(world: World) -> None:
    for _ in range(10):
        await world.report(REFUSED)
    assert [event["count"] for event in world.written] == [1]
    await world.clock.advance(COUNT_EVERY_S)
    await world.report(REFUSED)
    (event,) = world.written
    assert (event["count"], event["lastTimestamp"]) == (11, "2027-01-15T08:01:00Z")
    assert world.kube.calls["patch", "events"] == 1


async def test_another_cause_or_claim_is_an_event_of_its_own(world: World) -> None:
    other = Report(ClaimRef("ns", "train", "uid-2"), "PrepareFailed", REFUSED.text)
    await world.report(REFUSED, Report(CLAIM, "PrepareFailed", "another cause"), other)
    assert len({event["metadata"]["name"] for event in world.written}) == 3


async def test_an_event_that_expired_is_written_anew(world: World) -> None:
    await world.report(REFUSED)
    (event,) = world.written
    await world.kube.delete(EVENTS, event["metadata"]["name"], "ns")
    await world.clock.advance(COUNT_EVERY_S)
    await world.report(REFUSED)
    assert [each["count"] for each in world.written] == [1]


async def test_a_long_text_and_a_long_name_are_cut(world: World) -> None:
    claim = ClaimRef("ns", "n" * 253, "uid")
    await world.report(Report(claim, "PrepareFailed", "ä" * 2000))
    (event,) = world.written
    assert len(event["message"].encode()) <= 1024
    assert event["message"].endswith("...")
    assert len(event["metadata"]["name"]) <= 253


@pytest.mark.parametrize("status", [403, 404, 422, 500])
async def test_an_event_that_is_refused_is_dropped_and_the_next_one_written(world: World, status: int) -> None:
    world.kube.fail(status, verb="create", plural="events")
    await world.report(REFUSED)
    assert world.written == []
    await world.report(Report(CLAIM, "RolledBack", "rolled back"))
    assert [event["reason"] for event in world.written] == ["RolledBack"]


async def test_a_flood_while_the_server_is_away_costs_bounded_memory(world: World) -> None:
    world.kube.delay_s = 3600.0
    await world.report(*(Report(CLAIM, "PrepareFailed", str(number)) for number in range(5000)))
    world.kube.delay_s = 0.0
    await world.clock.advance(3600)
    await world.clock.settle()
    assert 0 < len(world.written) < 600


async def test_a_claim_without_a_name_has_no_event(world: World) -> None:
    await world.report(Report(ClaimRef("", "", "uid"), "RolledBack", "rolled back"))
    assert world.written == []
