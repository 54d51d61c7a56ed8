"""The queue of domains: each key once, one worker at a time, capped pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from nvdra.controller.queue import BACKOFF_LIMIT_S, WorkQueue, backoff_s
from nvdra.testing.clock import VirtualClock


class Work:
    """Records what is worked on; work on a key ends when `ended` is set, and fails as often as told."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.began: list[str] = []
        self.at_once = 0
        self.failures: list[tuple[str, int]] = []
        self.fails: dict[str, int] = {}
        self.blocked: dict[str, asyncio.Event] = {}
        self.running: set[str] = set()
        self.queue = WorkQueue(self.clock, self.handle, on_failure=self.failed, workers=2, jitter=lambda: 1.0)

    async def handle(self, key: str) -> None:
        assert key not in self.running
        self.running.add(key)
        self.began.append(key)
        self.at_once = max(self.at_once, len(self.running))
        try:
            if key in self.blocked:
                await self.blocked[key].wait()
            if self.fails.get(key, 0) > 0:
                self.fails[key] -= 1
                raise RuntimeError(f"{key} is odd")
        finally:
            self.running.discard(key)

    def failed(self, key: str, error: Exception, failures: int) -> None:
        assert str(error) == f"{key} is odd"
        self.failures.append((key, failures))


@asynccontextmanager
async def working(set_up: Callable[[Work], None] = lambda _: None) -> AsyncIterator[Work]:
    work = Work()
    set_up(work)
    task = asyncio.create_task(work.queue.run())
    try:
        yield work
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_key_is_worked_on_once_however_often_it_was_added() -> None:
    async with working() as work:
        for _ in range(5):
            work.queue.add("a", 1.0)
        work.queue.add("a", 0.5)
        work.queue.add("b")
        await work.clock.advance(0.0)
        assert work.began == ["b"]
        await work.clock.advance(0.5)
        assert work.began == ["b", "a"]
        await work.clock.advance(60.0)
        assert work.began == ["b", "a"]
        assert work.queue.depth == 0


async def test_a_change_during_the_work_is_worked_on_afterwards() -> None:
    async with working(lambda work: work.blocked.update(a=asyncio.Event())) as work:
        work.queue.add("a")
        await work.clock.advance(0.0)
        work.queue.add("a")
        work.queue.add("a", 5.0)
        await work.clock.advance(1.0)
        assert work.began == ["a"]
        work.blocked["a"].set()
        await work.clock.advance(0.0)
        assert work.began == ["a", "a"]


async def test_workers_are_bounded_and_the_longest_wait_goes_first() -> None:
    async with working(lambda work: work.blocked.update({key: asyncio.Event() for key in "abcd"})) as work:
        for key in "abcd":
            work.queue.add(key)
            await work.clock.advance(0.1)
        assert work.began == ["a", "b"]
        work.blocked["b"].set()
        await work.clock.advance(0.0)
        assert work.began == ["a", "b", "c"]
        for event in work.blocked.values():
            event.set()
        await work.clock.advance(0.0)
        assert work.began == ["a", "b", "c", "d"]
        assert work.at_once == 2


async def test_failures_are_told_and_tried_again_after_growing_pauses() -> None:
    async with working(lambda work: work.fails.update(a=2)) as work:
        work.queue.add("a")
        await work.clock.advance(0.0)
        assert work.failures == [("a", 1)]
        await work.clock.advance(backoff_s(1, 1.0))
        assert work.failures == [("a", 1), ("a", 2)]
        await work.clock.advance(backoff_s(2, 1.0))
        assert len(work.began) == 3
        work.fails["a"] = 1
        work.queue.add("a")
        await work.clock.advance(0.0)
        assert work.failures[-1] == ("a", 1)


async def test_a_change_ends_the_pause_after_a_failure() -> None:
    async with working(lambda work: work.fails.update(a=8)) as work:
        work.queue.add("a")
        await work.clock.advance(3.0)
        tried = len(work.began)
        work.queue.add("a")
        await work.clock.advance(0.0)
        assert len(work.began) == tried + 1


def test_pauses_are_capped() -> None:
    assert backoff_s(1, 0.0) < backoff_s(1, 1.0) < backoff_s(2, 1.0)
    assert backoff_s(10**6, 1.0) == BACKOFF_LIMIT_S
