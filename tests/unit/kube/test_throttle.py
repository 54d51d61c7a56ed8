"""The token bucket, on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from nvdra.kube import Throttle
from nvdra.testing.clock import VirtualClock


async def admissions(clock: VirtualClock, throttle: Throttle, count: int) -> list[float]:
    moments: list[float] = []
    start = clock.now()

    async def call() -> None:
        await throttle.admit()
        moments.append(round(clock.now() - start, 6))

    calls = [asyncio.create_task(call()) for _ in range(count)]
    await clock.advance(1000)
    await asyncio.gather(*calls)
    return moments


async def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    clock = VirtualClock()
    moments = await admissions(clock, Throttle(5, 10, clock.now, clock.sleep), 13)
    assert moments == [0.0] * 10 + [0.2, 0.4, 0.6]


async def test_rest_fills_the_bucket_up_to_the_burst() -> None:
    clock = VirtualClock()
    throttle = Throttle(5, 3, clock.now, clock.sleep)
    await admissions(clock, throttle, 3)
    assert await admissions(clock, throttle, 4) == [0.0] * 3 + [0.2]


@pytest.mark.parametrize("qps", [0, -1])
async def test_no_rate_is_no_limit(qps: float) -> None:
    clock = VirtualClock()
    assert await admissions(clock, Throttle(qps, 1, clock.now, clock.sleep), 500) == [0.0] * 500


async def test_one_that_gave_up_waiting_took_nothing() -> None:
    clock = VirtualClock()
    throttle = Throttle(1, 1, clock.now, clock.sleep)
    await throttle.admit()
    given_up = asyncio.create_task(throttle.admit())
    await clock.settle()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert await admissions(clock, throttle, 1) == [1.0]
