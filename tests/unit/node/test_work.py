"""Claims whose steps are being run: other claims wait for them."""

from __future__ import annotations

import asyncio

from nvdra.node.work import WorkRegistry


async def test_a_claim_is_waited_for_until_its_work_ends() -> None:
    work = WorkRegistry()
    work.begin("c1")
    work.begin("c2")
    assert work.claims == {"c1", "c2"}
    waiting = [asyncio.create_task(work.until_done("c1")) for _ in range(2)]
    await asyncio.sleep(0)
    work.end("c2")
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    work.end("c1")
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)
    assert work.claims == frozenset()


async def test_a_claim_that_nothing_works_on_is_not_waited_for() -> None:
    work = WorkRegistry()
    async with asyncio.timeout(30):
        await work.until_done("c1")
    work.end("c1")  # nor does its end mean anything
    work.begin("c1")
    work.end("c1")
    async with asyncio.timeout(30):
        await work.until_done("c1")


async def test_work_that_is_begun_again_is_the_same_work() -> None:
    """A decision that is made again begins it again."""
    work = WorkRegistry()
    work.begin("c1")
    waiting = asyncio.create_task(work.until_done("c1"))
    await asyncio.sleep(0)
    work.begin("c1")
    work.end("c1")
    async with asyncio.timeout(30):
        await waiting
    assert work.claims == frozenset()


async def test_who_waits_and_goes_away_ends_nothing() -> None:
    work = WorkRegistry()
    work.begin("c1")
    waiting = asyncio.create_task(work.until_done("c1"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert work.claims == {"c1"}
