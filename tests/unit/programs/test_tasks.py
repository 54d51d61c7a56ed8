"""Parts of a program that end by themselves: the log says of what."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import cast

import pytest

from nvdra import telemetry
from nvdra.programs.stop import Stop
from nvdra.programs.tasks import Tasks


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    out = io.StringIO()
    telemetry.set_up(stream=out)
    yield out
    telemetry.set_up()


class _Asked:
    """Takes the wish to stop without the process's signals."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def ask(self) -> None:
        self.asked.set()


async def _fails() -> None:
    raise RuntimeError("what went wrong")


async def _group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fails())


async def test_a_part_of_parts_that_fails_tells_the_cause_and_its_place(log: io.StringIO) -> None:
    stop = _Asked()
    tasks = Tasks(cast(Stop, stop))
    tasks.start("publication", _group())
    async with asyncio.timeout(10):
        await stop.asked.wait()
    assert tasks.failed
    said = log.getvalue()
    assert "The publication task ended, so the program stops" in said
    assert "RuntimeError at test_tasks.py:" in said
    assert "what went wrong" in said
    assert "TaskGroup" not in said
