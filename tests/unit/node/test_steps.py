"""The step runner: steps applied side by side and in order, and rolled back where they fail."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nvdra.node.locks import FOLDER, ResourceLocks
from nvdra.node.steps import StepFailed, StepJournal, StepRunner
from nvdra.testing.host import FakeHost

P = "/plugins/gpu.nvidia.com"
A, B = "0000:0a:00.0", "0000:0b:00.0"


@dataclass(frozen=True, slots=True)
class Mark:
    """Puts a mark on resources."""

    kind: ClassVar[str] = "mark"

    key: str
    resources: frozenset[str] = frozenset((A,))


def mark(key: str, *resources: str) -> Mark:
    return Mark(key, frozenset(resources or (A,)))


class Marker:
    """An actor that tells what it did.

    refused   "apply" or "roll back" and key of a step, to what it says then
    held      key of a step that waits for an event before it is applied
    met       applying goes on only when all parties do
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self.marks: set[str] = set()
        self.refused: dict[tuple[str, str], Exception] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.met: asyncio.Barrier | None = None
        self.journals: dict[str, StepJournal] = {}
        self._busy: set[str] = set()

    async def apply(self, step: Mark, journal: StepJournal) -> Mapping[str, Any]:
        await self._alone("apply", step, journal)
        return {step.key: f"fact of {step.key}"}

    async def roll_back(self, step: Mark, journal: StepJournal) -> None:
        await self._alone("roll back", step, journal)

    async def _alone(self, what: str, step: Mark, journal: StepJournal) -> None:
        assert not self._busy & step.resources, "two at once on one resource"
        self._busy |= step.resources
        try:
            await self._do(what, step, journal)
        finally:
            self._busy -= step.resources

    async def _do(self, what: str, step: Mark, journal: StepJournal) -> None:
        self.told.append(f"{what} {step.key}")
        self.journals[step.key] = journal
        await asyncio.sleep(0)
        if what == "apply":
            if step.key in self.held:
                await self.held[step.key].wait()
            if self.met is not None:
                async with asyncio.timeout(30):
                    await self.met.wait()
            journal.touch()
        if (error := self.refused.pop((what, step.key), None)) is not None:
            raise error
        (self.marks.add if what == "apply" else self.marks.discard)(step.key)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = FakeHost(folder)
        (folder / f"{P}/{FOLDER}".strip("/")).mkdir(parents=True)
        self.locks = ResourceLocks(self.host, P)
        self.actor = Marker()
        self.runner = StepRunner(self.locks, {"mark": self.actor})

    def take(self, claim: str, *resources: str) -> None:
        resources = resources or (A, B)
        assert self.locks.try_take(claim, resources)
        self.locks.begin(claim, resources)

    async def apply(self, claim: str, *steps: Mark) -> Mapping[str, Any]:
        return await self.runner.apply(claim, steps)

    async def fails(self, claim: str, *steps: Mark) -> StepFailed:
        with pytest.raises(StepFailed) as failed:
            await self.runner.apply(claim, steps)
        return failed.value


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- order ---


async def test_what_the_steps_found_out_is_told_together(bench: Bench) -> None:
    bench.take("c1")
    assert await bench.apply("c1", mark("a"), mark("b", B)) == {"a": "fact of a", "b": "fact of b"}
    assert await bench.apply("c1") == {}


async def test_steps_that_share_no_resource_run_side_by_side(bench: Bench) -> None:
    bench.take("c1")
    bench.actor.met = asyncio.Barrier(2)
    await bench.apply("c1", mark("a", A), mark("b", B))


async def test_steps_of_one_claim_on_one_resource_run_in_their_order(bench: Bench) -> None:
    bench.take("c1")
    await bench.apply("c1", mark("2"), mark("1"), mark("3"))
    assert bench.actor.told == ["apply 2", "apply 1", "apply 3"]


@pytest.mark.parametrize("first", [0, 1, 2])
async def test_a_step_on_two_resources_runs_between_those_on_each(bench: Bench, first: int) -> None:
    bench.take("c1")
    steps = [mark("a", A), mark("b", B)]
    steps.insert(first, mark("both", A, B))
    await bench.apply("c1", *steps)
    order = [told.removeprefix("apply ") for told in bench.actor.told]
    for alone in ("a", "b"):
        both = [step.key for step in steps if step.key in (alone, "both")]
        assert [key for key in order if key in both] == both


async def test_claims_on_one_resource_come_in_the_order_they_asked(bench: Bench) -> None:
    gate = bench.actor.held["3"] = asyncio.Event()
    for claim in ("3", "1", "2"):
        bench.take(claim)
    work = [asyncio.create_task(bench.apply(claim, mark(claim))) for claim in ("3", "1", "2")]
    await asyncio.sleep(0.01)
    assert bench.actor.told == ["apply 3"]
    gate.set()
    await asyncio.gather(*work)
    assert bench.actor.told == ["apply 3", "apply 1", "apply 2"]


async def test_claims_on_different_resources_do_not_wait_for_each_other(bench: Bench) -> None:
    bench.actor.met = asyncio.Barrier(2)
    bench.take("c1", A)
    bench.take("c2", B)
    await asyncio.gather(bench.apply("c1", mark("a", A)), bench.apply("c2", mark("b", B)))


async def test_who_takes_turns_takes_them_with_the_steps(bench: Bench) -> None:
    bench.take("c1")
    async with bench.runner.turns((B, A)):
        work = asyncio.create_task(bench.apply("c1", mark("a")))
        await asyncio.sleep(0.01)
        assert bench.actor.told == []
    await work


# --- failures ---


@pytest.mark.parametrize("failing", ["a1", "a2", "b"])
async def test_whichever_step_fails_all_are_rolled_back(bench: Bench, failing: str) -> None:
    bench.take("c1")
    bench.actor.refused["apply", failing] = StepFailed(f"{failing} does not go")
    failed = await bench.fails("c1", mark("a1"), mark("a2"), mark("b", B))
    assert (str(failed), failed.is_rolled_back) == (f"{failing} does not go", True)
    assert bench.actor.marks == set()


async def test_they_are_rolled_back_in_reverse_and_those_after_the_failure_too(bench: Bench) -> None:
    bench.take("c1")
    bench.actor.refused["apply", "2"] = StepFailed("2 does not go")
    await bench.fails("c1", mark("1"), mark("2"), mark("3"))
    assert bench.actor.told == ["apply 1", "apply 2", "roll back 3", "roll back 2", "roll back 1"]


async def test_of_several_failures_the_first_is_told(bench: Bench) -> None:
    bench.take("c1")
    for key in ("a", "b"):
        bench.actor.refused["apply", key] = StepFailed(f"{key} does not go")
    assert str(await bench.fails("c1", mark("b", B), mark("a", A))) == "b does not go"


async def test_what_cannot_be_rolled_back_is_said_and_left_for_later(bench: Bench) -> None:
    bench.take("c1")
    bench.actor.refused["apply", "a"] = StepFailed("a does not go")
    bench.actor.refused["roll back", "a"] = StepFailed("it stays")
    failed = await bench.fails("c1", mark("before", A), mark("a", A), mark("b", B))
    assert str(failed) == "a does not go; and the rollback failed: it stays"
    assert not failed.is_rolled_back
    # What shares no resource with it goes all the same; what does waits, for it was there first.
    assert bench.actor.marks == {"before"}
    await bench.runner.roll_back("c1", (mark("a", A), mark("before", A)))
    assert bench.actor.marks == set()


async def test_a_rollback_alone_tells_its_failure_and_goes_on_elsewhere(bench: Bench) -> None:
    bench.take("c1")
    await bench.apply("c1", mark("a", A), mark("b", B))
    bench.actor.refused["roll back", "a"] = StepFailed("it stays")
    with pytest.raises(StepFailed, match=r"^it stays$"):
        await bench.runner.roll_back("c1", (mark("a", A), mark("b", B)))
    assert bench.actor.marks == {"a"}


async def test_a_fault_of_the_program_is_no_failed_step_and_comes_when_all_have_ended(bench: Bench) -> None:
    bench.take("c1")
    bench.actor.refused["apply", "a"] = ZeroDivisionError()
    gate = bench.actor.held["b"] = asyncio.Event()
    work = asyncio.create_task(bench.apply("c1", mark("a", A), mark("b", B)))
    await asyncio.sleep(0.01)
    assert not work.done()
    gate.set()
    with pytest.raises(ZeroDivisionError):
        await work


# --- what the steps are told ---


async def test_a_claim_is_the_last_once_no_other_has_steps_to_run_there(bench: Bench) -> None:
    for claim in ("c1", "c2", "c3"):
        bench.take(claim, A)
    await bench.apply("c1", mark("a"))
    assert not bench.actor.journals["a"].is_last(A)
    await bench.apply("c2", mark("b"))
    bench.actor.refused["apply", "c"] = StepFailed("c does not go")
    await bench.fails("c3", mark("c"))
    # The three hold the lock still; their steps are over.
    assert bench.actor.journals["a"].is_last(A)


async def test_a_failed_rollback_ends_the_claim_s_steps_too(bench: Bench) -> None:
    bench.take("c1", A)
    bench.take("c2", A)
    bench.actor.refused["roll back", "b"] = StepFailed("it stays")
    with pytest.raises(StepFailed):
        await bench.runner.roll_back("c2", (mark("b"),))
    await bench.apply("c1", mark("a"))
    assert bench.actor.journals["a"].is_last(A)


async def test_a_step_is_touched_once_its_line_is_written(bench: Bench) -> None:
    bench.take("c1", A)
    journal = StepJournal(bench.locks, "c1", mark("a"))
    assert not journal.is_touched
    journal.touch({"mode": 2})
    assert journal.is_touched
    assert journal.previous == {"mode": 2}
    assert StepJournal(bench.locks, "c1", mark("b")).previous == {}
    # A step of a claim without any line was begun by another program: it may have had effects.
    assert bench.locks.try_take("c2", [A])
    assert StepJournal(bench.locks, "c2", mark("a")).is_touched


async def test_where_the_line_cannot_be_written_the_step_fails(bench: Bench) -> None:
    bench.take("c1")
    bench.host.refuse("append", f"{P}/{FOLDER}", errno.ENOSPC)
    failed = await bench.fails("c1", mark("a"))
    assert str(failed) == f"error writing lock file ({P}/{FOLDER}/{A}): No space left on device"
    assert failed.is_rolled_back
    assert bench.actor.marks == set()


@pytest.mark.parametrize("ends", ["applied", "goes on", "refused", "not rolled back"])
async def test_what_a_step_waits_for_is_told_until_it_waits_no_more(bench: Bench, ends: str) -> None:
    bench.take("c1")
    bench.take("c2")
    assert bench.runner.waiting("c1") == ""
    gate = bench.actor.held["a"] = asyncio.Event()
    work = asyncio.create_task(bench.apply("c1", mark("a")))
    await asyncio.sleep(0.01)
    bench.actor.journals["a"].waits("a call does not return")
    assert bench.runner.waiting("c1") == "a call does not return"
    assert bench.runner.waiting("c2") == ""
    if ends == "goes on":
        bench.actor.journals["a"].waits("")
        assert bench.runner.waiting("c1") == ""
    if ends in ("refused", "not rolled back"):
        bench.actor.refused["apply", "a"] = StepFailed("a does not go")
    if ends == "not rolled back":
        bench.actor.refused["roll back", "a"] = StepFailed("it stays")
    gate.set()
    await asyncio.gather(work, return_exceptions=True)
    assert bench.runner.waiting("c1") == ""


async def test_a_resource_is_kept_until_the_call_that_a_step_left_in_it_returns(bench: Bench) -> None:
    bench.take("c1", A)
    await bench.apply("c1", mark("a"))
    call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    bench.actor.journals["a"].keep(A, call)
    bench.locks.give_back("c1", is_done=True)
    other = FakeHost(bench.folder)
    theirs = ResourceLocks(other, P)
    assert not theirs.try_take("c2", [A])
    call.set_result(None)
    await asyncio.sleep(0)
    assert theirs.try_take("c2", [A])
    other.close()
