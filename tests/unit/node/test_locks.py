"""The locks of resources: two programs on one folder, and what the journals say to whoever comes after a death."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.node.locks import FOLDER, ResourceLocks
from nvdra.ports import LockError
from nvdra.testing.host import FakeHost

P = "/plugins/gpu.nvidia.com"
A, B, C = "0000:0a:00.0", "0000:0b:00.0", "0000:0c:00.0"
FORMER = {A: "GPU-a", B: "GPU-b"}


@dataclass(frozen=True, slots=True)
class Change:
    """A step as the journal knows it."""

    key: str
    resources: frozenset[str] = frozenset((A,))
    kind: str = "partition"


HERE, THERE = Change("19@0"), Change("9@4")


def former(resource: str) -> Iterable[str]:
    return (FORMER.get(resource, ""),)


class Programs:
    """Programs on one node, each with its host: flock tells them apart as it tells processes apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hosts: list[FakeHost] = []
        (folder / f"{P}/{FOLDER}".strip("/")).mkdir(parents=True, exist_ok=True)

    def start(self, former: Callable[[str], Iterable[str]] = lambda _: ()) -> ResourceLocks:
        self._hosts.append(FakeHost(self.folder))
        return ResourceLocks(self.host, P, former)

    @property
    def host(self) -> FakeHost:
        """Of the program started last."""
        return self._hosts[-1]

    def die(self, number: int = -1) -> None:
        self._hosts[number].close()

    def close(self) -> None:
        for host in self._hosts:
            host.close()

    def path(self, gpu: str) -> Path:
        return self.folder / f"{P}/{FOLDER}/{gpu}".strip("/")

    def lines(self, gpu: str) -> list[str]:
        return self.path(gpu).read_text().splitlines()


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    made = Programs(tmp_path)
    yield made
    made.close()


# --- who has them ---


async def test_a_gpu_belongs_to_one_program_for_all_its_claims(programs: Programs) -> None:
    one, other = programs.start(), programs.start()
    assert one.try_take("c1", [A])
    assert one.try_take("c2", [A, B])
    assert not other.try_take("c3", [B])
    one.give_back("c2", is_done=True)
    assert other.try_take("c3", [B])
    assert not other.try_take("c4", [A])
    one.give_back("c1", is_done=True)
    assert other.try_take("c4", [A])
    assert not one.try_take("c5", [A])
    assert not one.try_take("c5", [B])


async def test_of_several_gpus_all_are_taken_or_none(programs: Programs) -> None:
    one, other = programs.start(), programs.start()
    assert other.try_take("c1", [B])
    assert not one.try_take("c2", [C, B, A])
    third = programs.start()
    assert third.try_take("c3", [A, C])


async def test_a_lock_that_cannot_be_opened_leaves_none_taken(programs: Programs) -> None:
    one, other = programs.start(), programs.start()
    programs.path(B).mkdir()
    with pytest.raises(LockError, match=rf"error opening lock file \({P}/{FOLDER}/{B}\): Is a directory"):
        one.try_take("c1", [A, B])
    assert other.try_take("c2", [A])


async def test_what_a_death_frees_is_there_for_the_next(programs: Programs) -> None:
    one, other = programs.start(), programs.start()
    assert one.try_take("c1", [A])
    programs.die(0)
    assert other.try_take("c1", [A])


async def test_another_program_is_waited_for_until_it_is_done(programs: Programs) -> None:
    one, other = programs.start(), programs.start()
    assert one.try_take("c1", [A])
    waiting = asyncio.create_task(other.wait([A, B]))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    one.give_back("c1", is_done=True)
    await waiting
    assert other.try_take("c2", [A, B])
    await other.wait([A, B])  # its own it never waits for


async def test_a_claim_is_the_last_on_a_gpu_once_no_other_has_work_there(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A, B])
    assert locks.try_take("c2", [B])
    assert locks.try_take("c3", [B])
    assert locks.is_last("c1", A)
    assert not locks.is_last("c1", B)
    locks.give_back("c2", is_done=False)
    assert not locks.is_last("c1", B)
    locks.settled("c3", B)  # in work still, but not on the GPU: of two that end together one must be the last
    assert locks.is_last("c1", B)


async def test_giving_back_again_gives_back_nothing(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A])
    locks.give_back("c1", is_done=True)
    assert locks.try_take("c2", [A])
    locks.give_back("c1", is_done=True)
    assert locks.is_last("c2", A)


async def test_a_gpu_is_kept_until_the_calls_that_were_left_in_it_return(programs: Programs) -> None:
    locks, other = programs.start(), programs.start()
    calls: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
    assert locks.try_take("c1", [A])
    for call in calls:
        locks.keep(A, call)
    locks.give_back("c1", is_done=False)
    assert not other.try_take("c2", [A])
    assert locks.try_take("c3", [A])  # the program's own claims wait for the GPU itself
    calls[0].set_result(None)
    locks.give_back("c3", is_done=True)
    await asyncio.sleep(0)
    assert not other.try_take("c2", [A])
    calls[1].set_exception(OSError())
    await asyncio.sleep(0)
    assert other.try_take("c2", [A])


async def test_the_folder_is_made_for_nobody_else(tmp_path: Path) -> None:
    (tmp_path / P.strip("/")).mkdir(parents=True)
    host = FakeHost(tmp_path)
    locks = ResourceLocks(host, P)
    with pytest.raises(LockError):
        locks.try_take("c1", [A])
    await locks.make_folder()
    assert (tmp_path / f"{P}/{FOLDER}".strip("/")).stat().st_mode & 0o777 == 0o750
    assert locks.try_take("c1", [A])
    host.close()


# --- what the files say ---


async def test_a_file_says_who_is_in_work_and_what_may_have_been_begun(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A, B])
    locks.begin("c1", [A])
    locks.touch("c1", HERE)
    assert programs.lines(A) == ["c1", "c1 partition 19@0"]
    assert programs.lines(B) == []
    assert locks.try_take("c2", [A])
    locks.begin("c2", [A])
    locks.give_back("c1", is_done=True)
    assert programs.lines(A) == ["c1", "c1 partition 19@0", "c2", "-c1"]
    locks.give_back("c2", is_done=True)
    assert programs.lines(A) == []


async def test_after_a_crash_begun_steps_are_known_by_placement(programs: Programs) -> None:
    one = programs.start()
    assert one.try_take("c1", [A])
    one.begin("c1", [A])
    one.touch("c1", HERE)
    programs.die()
    other = programs.start()
    assert other.try_take("c1", [A])
    assert other.touched("c1", HERE)
    assert not other.touched("c1", THERE)
    # Of a claim without a line the entry's word is all: another driver begun it.
    assert other.touched("c2", THERE)


async def test_lines_of_unfinished_steps_stay_for_the_rollback(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A])
    locks.begin("c1", [A])
    locks.touch("c1", HERE)
    locks.give_back("c1", is_done=False)
    assert programs.lines(A) == ["c1", "c1 partition 19@0"]
    assert locks.try_take("c1", [A])
    assert not locks.touched("c1", THERE)
    locks.give_back("c1", is_done=True)
    assert programs.lines(A) == []


async def test_a_claim_that_begins_anew_is_not_held_to_what_was_said_before(programs: Programs) -> None:
    one = programs.start()
    assert one.try_take("c1", [A])
    one.begin("c1", [A])
    one.touch("c1", HERE)
    one.begin("c1", [A])
    assert not one.touched("c1", HERE)
    programs.die()
    other = programs.start()
    assert other.try_take("c1", [A])
    assert not other.touched("c1", HERE)


async def test_lines_of_claims_that_are_not_begun_are_dropped_but_those_in_work(programs: Programs) -> None:
    one = programs.start()
    for claim in ("gone", "begun"):
        assert one.try_take(claim, [A])
        one.begin(claim, [A])
        one.touch(claim, HERE)
    programs.die()
    other = programs.start()
    assert other.try_take("new", [A])
    other.begin("new", [A])
    other.forget_others(A, {"begun"}, set())
    assert other.touched("gone", THERE)  # as if it had never been
    assert not other.touched("begun", THERE)
    assert not other.touched("new", THERE)
    other.give_back("new", is_done=True)
    assert other.try_take("begun", [A])
    other.give_back("begun", is_done=True)
    assert programs.lines(A) == []


@pytest.mark.parametrize(
    ("content", "begun"),
    [
        ("c1\nc1 partition 19@0\nc1 partition 9@", {"19@0"}),  # cut off in the middle
        ("c1\nc1 partition 19@0\nc1 partition", {"19@0"}),
        ("c1\nc1 partition 19@0", set()),
        ("c1\nc1 partition 19@0\nc1 \nc1  \nc1 other 9@4\n", {"19@0"}),
        ("hello\n\n - \nc1\nc1 partition 19@0\n-\n-nobody\n", {"19@0"}),
        ("c1\nc1 partition 19@0\n-c1\nc1\n", set()),
        ("c1\nc1 19@0\n", {"19@0"}),  # as earlier releases wrote it
        ("c1\nc1 19@0\nc1 partition 9@4\n", {"19@0", "9@4"}),
        ("c1\nc1 19@0\n-c1\nc1\n", set()),
    ],
)
async def test_lines_that_are_torn_or_mean_nothing_say_nothing(
    programs: Programs, content: str, begun: set[str]
) -> None:
    programs.path(A).write_text(content)
    locks = programs.start()
    assert locks.try_take("c1", [A])
    assert {step.key for step in (HERE, THERE, Change("9@-4")) if locks.touched("c1", step)} == begun


async def test_bytes_that_are_no_text_stop_nothing(programs: Programs) -> None:
    programs.path(A).write_bytes(b"\xff\xfe\x00\nc1\nc1 partition 19@0\n")
    locks = programs.start()
    assert locks.try_take("c1", [A])
    assert locks.touched("c1", HERE)
    assert not locks.touched("c1", THERE)


async def test_a_step_is_known_by_its_kind_too_and_on_each_of_its_resources(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A, B])
    locks.begin("c1", [A, B])
    both = Change("0", frozenset((A, B)), "join")
    locks.touch("c1", both)
    assert programs.lines(A) == programs.lines(B) == ["c1", "c1 join 0"]
    assert locks.touched("c1", both)
    assert not locks.touched("c1", Change("0", kind="partition"))
    # A death between the two lines may have come after an effect on neither; one line is enough to look.
    programs.path(B).write_text("c1\n")
    programs.die()
    other = programs.start()
    assert other.try_take("c1", [A, B])
    assert other.touched("c1", both)


STORIES = st.lists(
    st.tuples(st.sampled_from(("begin", "touch", "leave", "done")), st.sampled_from(("c1", "c2"))), max_size=12
)


@given(STORIES)
async def test_whoever_comes_after_a_death_knows_what_the_dead_program_knew(story: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(Path(folder))
        locks = programs.start()
        steps = [Change(str(number)) for number in range(len(story))]
        begun: dict[str, set[Change]] = {}
        for step, (act, claim) in zip(steps, story, strict=True):
            assert locks.try_take(claim, [A])
            match act:
                case "begin":
                    locks.begin(claim, [A])
                    begun[claim] = set()
                case "touch":
                    locks.touch(claim, step)
                    begun.setdefault(claim, set()).add(step)
                case "leave":
                    locks.give_back(claim, is_done=False)
                case "done":
                    locks.give_back(claim, is_done=True)
                    begun.pop(claim, None)
        programs.die()
        heir = programs.start()
        for claim in ("c1", "c2"):
            assert heir.try_take(claim, [A])
            known = {step for step in steps if heir.touched(claim, step)}
            assert known == begun.get(claim, set(steps))
        programs.close()


# --- states from before a step ---

SLICE = Change("interval", kind="timeslice")


async def test_a_state_from_before_a_step_stays_until_the_teardown(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A])
    locks.begin("c1", [A])
    locks.touch("c1", HERE)
    locks.touch("c1", SLICE, {"interval": 2})
    assert locks.previous("c1", SLICE) == {"interval": 2}
    assert locks.previous("c1", HERE) == locks.previous("c2", SLICE) == {}
    locks.give_back("c1", is_done=True, is_prepared=True)
    programs.die()  # the plugin is restarted, or dies, while the claim is prepared
    other = programs.start()
    assert other.try_take("c1", [A])
    assert not other.touched("c1", HERE)  # its line went with its completion
    # The teardown touches what it rolls back, and knows no state of its own: the earlier one stays.
    other.touch("c1", SLICE)
    other.touch("c1", SLICE, {"interval": 0})
    other.touch("c1", HERE)
    assert other.previous("c1", SLICE) == {"interval": 2}
    other.give_back("c1", is_done=False)  # and it fails once
    assert other.try_take("c1", [A])
    assert other.previous("c1", SLICE) == {"interval": 2}
    other.give_back("c1", is_done=True)
    assert programs.lines(A) == []


async def test_a_claim_that_is_prepared_again_keeps_the_first_state(programs: Programs) -> None:
    """Its entry is completed and nothing is torn down: the lock is taken and given back for another look."""
    locks = programs.start()
    assert locks.try_take("c1", [A])
    locks.begin("c1", [A])
    locks.touch("c1", SLICE, {"interval": 2})
    locks.give_back("c1", is_done=True, is_prepared=True)
    lines = programs.lines(A)
    assert locks.try_take("c1", [A])
    locks.give_back("c1", is_done=True, is_prepared=True)
    assert programs.lines(A) == lines
    assert locks.try_take("c1", [A])
    assert locks.previous("c1", SLICE) == {"interval": 2}


async def test_states_of_prepared_claims_outlive_others_and_the_start_of_a_program(programs: Programs) -> None:
    locks = programs.start()
    for claim in ("prepared", "gone", "begun"):
        assert locks.try_take(claim, [A])
        locks.begin(claim, [A])
        locks.touch(claim, SLICE, {"interval": 2})
    locks.give_back("prepared", is_done=True, is_prepared=True)
    programs.die()
    other = programs.start()
    assert other.try_take("upkeep", [A])
    other.forget_others(A, {"begun"}, {"prepared"})
    states = {claim: other.previous(claim, SLICE) for claim in ("prepared", "gone", "begun")}
    assert states == {"prepared": {"interval": 2}, "gone": {}, "begun": {"interval": 2}}
    other.give_back("upkeep", is_done=True)
    assert other.try_take("prepared", [A])
    other.give_back("prepared", is_done=True)
    assert other.try_take("begun", [A])
    other.give_back("begun", is_done=True)
    assert programs.lines(A) == []


async def test_a_claim_that_begins_anew_has_no_state_from_before(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A])
    locks.begin("c1", [A])
    locks.touch("c1", SLICE, {"interval": 2})
    locks.give_back("c1", is_done=True, is_prepared=True)
    assert locks.try_take("c1", [A])
    locks.begin("c1", [A])
    assert not locks.touched("c1", SLICE)
    assert locks.previous("c1", SLICE) == {}


@pytest.mark.parametrize("state", ["{", '"text"', "[1]", "{}", "", "  "])
async def test_a_state_that_is_torn_is_none_and_its_step_is_touched_all_the_same(
    programs: Programs, state: str
) -> None:
    programs.path(A).write_text(f"c1\nc1 timeslice interval {state}\n")
    locks = programs.start()
    assert locks.try_take("c1", [A])
    assert locks.touched("c1", SLICE)
    assert locks.previous("c1", SLICE) == {}


@pytest.mark.parametrize("state", [{"a text": "with spaces\nand more"}, {"n": 1, "deep": {"l": [1, None]}}])
async def test_any_state_comes_back_as_it_was(programs: Programs, state: dict[str, Any]) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A])
    locks.touch("c1", SLICE, state)
    programs.die()
    other = programs.start()
    assert other.try_take("c1", [A])
    assert other.previous("c1", SLICE) == state


# --- names that locks had before ---


async def test_lines_under_a_former_name_are_adopted_and_go_with_the_claim(programs: Programs) -> None:
    """A program of an earlier release died in the midst of two claims."""
    programs.path("GPU-a").write_text("c1\nc1 19@0\nc2\nc2 9@4\n-c2\nc3\nc3 9@4\n")
    locks = programs.start(former)
    assert locks.try_take("c1", [A])
    assert locks.touched("c1", HERE)
    assert not locks.touched("c1", THERE)
    locks.give_back("c1", is_done=True)
    # The other one's stay, for whoever comes.
    other = programs.start(former)
    assert other.try_take("c3", [A])
    assert other.touched("c3", THERE)
    assert not other.touched("c3", HERE)
    assert other.touched("c1", THERE)  # as if it had never been
    other.give_back("c3", is_done=True)
    assert programs.lines("GPU-a") == programs.lines(A) == []


async def test_a_program_of_an_earlier_release_keeps_a_resource_by_its_former_name(programs: Programs) -> None:
    earlier = programs.start()
    assert earlier.try_take("c1", ["GPU-a"])
    locks = programs.start(former)
    assert not locks.try_take("c2", [A, B])
    assert programs.start().try_take("c3", [A, B])  # nothing of them was kept
    waiting = asyncio.create_task(locks.wait([A]))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    earlier.give_back("c1", is_done=True)
    programs.die()
    async with asyncio.timeout(30):
        await waiting
    assert locks.try_take("c2", [A])
    assert not earlier.try_take("c1", ["GPU-a"])
    locks.give_back("c2", is_done=True)
    assert earlier.try_take("c1", ["GPU-a"])


async def test_a_former_name_without_a_file_is_not_made_one(programs: Programs) -> None:
    locks = programs.start(former)
    assert locks.try_take("c1", [A, B, C])
    locks.begin("c1", [A, B, C])
    assert not programs.path("GPU-a").exists()
    assert not programs.path("GPU-b").exists()


async def test_what_a_claim_begins_anew_is_not_held_to_lines_under_a_former_name(programs: Programs) -> None:
    programs.path("GPU-a").write_text("c1\nc1 19@0\n")
    locks = programs.start(former)
    assert locks.try_take("c1", [A])
    locks.begin("c1", [A])
    assert not locks.touched("c1", HERE)
    programs.die()
    other = programs.start(former)
    assert other.try_take("c1", [A])
    assert not other.touched("c1", HERE)


async def test_lines_under_a_former_name_are_dropped_with_those_of_other_dead_claims(programs: Programs) -> None:
    programs.path("GPU-a").write_text("gone\ngone 19@0\nbegun\nbegun 19@0\n")
    locks = programs.start(former)
    assert locks.try_take("upkeep", [A])
    locks.forget_others(A, {"begun"}, set())
    programs.die()
    other = programs.start(former)
    assert other.try_take("begun", [A])
    assert other.touched("gone", THERE)
    assert not other.touched("begun", THERE)


# --- a full disk ---


async def test_a_claim_that_cannot_be_written_down_does_not_begin(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A])
    programs.host.refuse("append", f"{P}/{FOLDER}", errno.ENOSPC)
    text = rf"error writing lock file \({P}/{FOLDER}/{A}\): No space left on device"
    with pytest.raises(LockError, match=text):
        locks.begin("c1", [A])
    with pytest.raises(LockError, match=text):
        locks.touch("c1", HERE)
    locks.give_back("c1", is_done=True)
    assert programs.start().try_take("c1", [A])


async def test_a_gpu_is_given_back_although_its_file_cannot_be_written(programs: Programs) -> None:
    locks, other = programs.start(), programs.start()
    host = programs._hosts[0]
    for claim in ("c1", "c2"):
        assert locks.try_take(claim, [A])
        locks.begin(claim, [A])
    for kind in ("append", "truncate"):
        host.refuse(kind, f"{P}/{FOLDER}", errno.EIO)
    locks.give_back("c1", is_done=True)
    locks.give_back("c2", is_done=True)
    assert other.try_take("c3", [A])
