"""The writer's turns, and what it makes once nobody asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from nvdra.host.writer import Writer


@pytest.fixture
async def writer() -> AsyncIterator[Writer]:
    made = Writer()
    yield made
    made.close()


async def test_what_was_put_off_is_made_when_nobody_asks_any_more(writer: Writer) -> None:
    made: list[str] = []
    await writer.run(lambda: made.append("asked"))
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    writer.later(lambda: (made.append("put off"), loop.call_soon_threadsafe(done.set)))
    await writer.run(lambda: made.append("asked after it"))
    async with asyncio.timeout(10):
        await done.wait()
    assert made == ["asked", "asked after it", "put off"]


async def test_what_is_put_off_long_after_the_last_call_is_made_too(writer: Writer) -> None:
    await writer.run(lambda: None)
    await asyncio.sleep(0.1)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    writer.later(lambda: loop.call_soon_threadsafe(done.set))
    async with asyncio.timeout(10):
        await done.wait()


async def test_nothing_put_off_is_forgotten_at_the_end() -> None:
    made: list[int] = []
    writer = Writer()
    await writer.run(lambda: None)
    for number in range(3):
        writer.later(lambda number=number: made.append(number))  # type: ignore[misc]
    writer.close()
    assert made == [0, 1, 2]


async def test_only_so_much_is_put_off_however_busy_it_is(writer: Writer) -> None:
    made: list[int] = []
    await writer.run(lambda: None)
    for number in range(100):
        writer.later(lambda number=number: made.append(number))  # type: ignore[misc]
        await writer.run(lambda: None)
    assert made[:50] == list(range(50))


async def test_before_the_first_turn_there_is_nobody_to_put_it_off_to(writer: Writer) -> None:
    made: list[str] = []
    writer.later(lambda: made.append("at once"))
    assert made == ["at once"]


async def test_a_call_that_fails_is_its_callers_alone(writer: Writer) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    failed, done = await asyncio.gather(writer.run(fail), writer.run(lambda: "done"), return_exceptions=True)
    assert isinstance(failed, OSError)
    assert done == "done"


async def test_a_caller_that_goes_away_stops_nothing(writer: Writer) -> None:
    made: list[str] = []
    asked = asyncio.create_task(writer.run(lambda: made.append("made")))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await writer.drain()
    assert made == ["made"]
