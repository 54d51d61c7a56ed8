"""Virtual time passes only when told to, in order."""

from __future__ import annotations

import asyncio

import pytest

from nvdra.testing.clock import VirtualClock


async def test_sleepers_wake_in_order_at_their_moments() -> None:
    clock = VirtualClock()
    start, seen = clock.now(), []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            seen.append((name, clock.now() - start))

    tasks = [asyncio.create_task(sleeper("a", 3, 3)), asyncio.create_task(sleeper("b", 1, 1, 1))]
    await clock.advance(2.5)
    assert seen == [("b", 1), ("b", 2)]
    assert clock.now() - start == 2.5
    await clock.advance(10)
    assert seen[2:] == [("a", 3), ("b", 3), ("a", 6)]
    assert clock.now() - start == 12.5
    await asyncio.gather(*tasks)


async def test_the_wall_moves_along() -> None:
    clock = VirtualClock(wall=1000.0)
    await clock.advance(5)
    assert clock.wall() == 1005.0


async def test_a_deadline_ends_its_body() -> None:
    clock = VirtualClock()

    async def body(nap: float) -> str:
        async with clock.deadline(10):
            await clock.sleep(nap)
        return "done"

    late, early = asyncio.create_task(body(11)), asyncio.create_task(body(9))
    await clock.advance(9)
    assert early.done()
    assert early.result() == "done"
    assert not late.done()
    await clock.advance(1)
    with pytest.raises(TimeoutError):
        await late


async def test_a_sleeper_that_is_cancelled_is_forgotten() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.settle()
    task.cancel()
    await clock.advance(2)
    assert task.cancelled()
