"""Leader election by a Lease."""

from __future__ import annotations

import asyncio

import orjson

from nvdra.controller.election import Election, LeaseSettings
from nvdra.controller.settings import LEASES
from nvdra.testing.clock import VirtualClock
from nvdra.testing.kube import FakeKube


def candidate(kube: FakeKube, clock: VirtualClock, name: str) -> Election:
    return Election(kube, clock, LeaseSettings("driver", "controller", f"{name}-uuid"))


def lease(kube: FakeKube) -> dict[str, object]:
    spec: dict[str, object] = kube.objects("leases")[0]["spec"]
    return spec


async def test_one_leads_and_renews_while_the_other_stands_by() -> None:
    kube, clock = FakeKube(), VirtualClock()
    first, second = candidate(kube, clock, "a"), candidate(kube, clock, "b")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    holding = asyncio.create_task(first.hold())
    renewed = lease(kube)["renewTime"]
    for _ in range(40):
        await clock.advance(1.0)
    assert not waiting.done()
    assert not holding.done()
    assert lease(kube)["holderIdentity"] == "a-uuid"
    assert lease(kube)["leaseTransitions"] == 0
    assert str(lease(kube)["renewTime"]) > str(renewed)
    waiting.cancel()
    holding.cancel()
    await asyncio.gather(waiting, holding, return_exceptions=True)


async def test_a_dead_leader_is_followed_within_twenty_seconds() -> None:
    kube, clock = FakeKube(), VirtualClock()
    await candidate(kube, clock, "a").acquire()
    waiting = asyncio.create_task(candidate(kube, clock, "b").acquire())
    for _ in range(14):
        await clock.advance(1.0)
    assert not waiting.done()
    for _ in range(5):
        await clock.advance(1.0)
    assert waiting.done()
    assert lease(kube)["holderIdentity"] == "b-uuid"
    assert lease(kube)["leaseTransitions"] == 1


async def test_a_released_lease_is_taken_at_the_next_attempt() -> None:
    kube, clock = FakeKube(), VirtualClock()
    first = candidate(kube, clock, "a")
    await first.acquire()
    waiting = asyncio.create_task(candidate(kube, clock, "b").acquire())
    await clock.advance(0.5)
    await first.release()
    assert lease(kube)["holderIdentity"] == ""
    await clock.advance(2.0)
    assert waiting.done()


async def test_a_leader_that_cannot_renew_gives_up_before_another_one_can_lead() -> None:
    kube, clock = FakeKube(), VirtualClock()
    first = candidate(kube, clock, "a")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    kube.go_away()
    for _ in range(14):
        await clock.advance(1.0)
    assert holding.done()


async def test_a_leader_whose_calls_hang_gives_up_in_time() -> None:
    clock = VirtualClock()
    kube = FakeKube(clock=clock)
    first = candidate(kube, clock, "a")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    await clock.advance(3.0)
    kube.delay_s = 25.0
    for _ in range(12):
        await clock.advance(1.0)
    assert holding.done()


async def test_a_lease_taken_by_another_one_ends_the_leadership() -> None:
    kube, clock = FakeKube(), VirtualClock()
    first = candidate(kube, clock, "a")
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    body = orjson.dumps({"spec": {"holderIdentity": "c-uuid", "leaseDurationSeconds": 15}})
    await kube.patch(LEASES, "controller", body, "driver")
    await clock.advance(3.0)
    assert holding.done()
    await first.release()
    assert lease(kube)["holderIdentity"] == "c-uuid"


async def test_of_two_that_take_a_free_lease_one_gets_it() -> None:
    kube, clock = FakeKube(), VirtualClock()
    tasks = [asyncio.create_task(candidate(kube, clock, name).acquire()) for name in "ab"]
    await clock.advance(5.0)
    assert sum(task.done() for task in tasks) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
