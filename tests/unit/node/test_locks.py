"""The locks of GPUs: two programs on one folder, and what the files say to whoever comes after a death."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.node.locks import FOLDER, ResourceLocks
from nvdra.ports import LockError
from nvdra.testing.host import FakeHost

P = "/plugins/gpu.nvidia.com"
A, B, C = "GPU-a", "GPU-b", "GPU-c"
HERE, THERE = (19, 0), (9, 4)


class Programs:
    """Programs on one node, each with its host: flock tells them apart as it tells processes apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hosts: list[FakeHost] = []
        (folder / f"{P}/{FOLDER}".strip("/")).mkdir(parents=True, exist_ok=True)

    def start(self) -> ResourceLocks:
        self._hosts.append(FakeHost(self.folder))
        return ResourceLocks(self.host, P)

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
    assert (one.claims, other.claims) == (frozenset(), {"c3", "c4"})


async def test_of_several_gpus_all_are_taken_or_none(programs: Programs) -> None:
    one, other = programs.start(), programs.start()
    assert other.try_take("c1", [B])
    assert not one.try_take("c2", [C, B, A])
    assert one.claims == frozenset()
    third = programs.start()
    assert third.try_take("c3", [A, C])


async def test_a_lock_that_cannot_be_opened_leaves_none_taken(programs: Programs) -> None:
    one, other = programs.start(), programs.start()
    programs.path(B).mkdir()
    with pytest.raises(LockError, match=rf"error opening lock file \({P}/{FOLDER}/{B}\): Is a directory"):
        one.try_take("c1", [A, B])
    assert other.try_take("c2", [A])
    assert one.claims == frozenset()


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


async def test_a_claim_in_work_is_waited_for_until_it_is_out_of_work(programs: Programs) -> None:
    locks = programs.start()
    await locks.until_done("c1")
    assert locks.try_take("c1", [A])
    assert locks.try_take("c2", [A])
    waiting = asyncio.create_task(locks.until_done("c1"))
    await asyncio.sleep(0)
    locks.give_back("c2", is_done=True)
    await asyncio.sleep(0)
    assert not waiting.done()
    locks.give_back("c1", is_done=False)
    await waiting


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
    locks.touch("c1", A, HERE)
    assert programs.lines(A) == ["c1", "c1 19@0"]
    assert programs.lines(B) == []
    assert locks.try_take("c2", [A])
    locks.begin("c2", [A])
    locks.give_back("c1", is_done=True)
    assert programs.lines(A) == ["c1", "c1 19@0", "c2", "-c1"]
    locks.give_back("c2", is_done=True)
    assert programs.lines(A) == []


async def test_after_a_death_what_was_begun_is_known_by_place(programs: Programs) -> None:
    one = programs.start()
    assert one.try_take("c1", [A])
    one.begin("c1", [A])
    one.touch("c1", A, HERE)
    programs.die()
    other = programs.start()
    assert other.try_take("c1", [A])
    assert other.touched("c1", A, HERE)
    assert not other.touched("c1", A, THERE)
    # Of a claim without a line the entry's word is all: another driver begun it.
    assert other.touched("c2", A, THERE)


async def test_what_is_not_done_stays_said_for_whoever_undoes_it(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A])
    locks.begin("c1", [A])
    locks.touch("c1", A, HERE)
    locks.give_back("c1", is_done=False)
    assert programs.lines(A) == ["c1", "c1 19@0"]
    assert locks.try_take("c1", [A])
    assert not locks.touched("c1", A, THERE)
    locks.give_back("c1", is_done=True)
    assert programs.lines(A) == []


async def test_a_claim_that_begins_anew_is_not_held_to_what_was_said_before(programs: Programs) -> None:
    one = programs.start()
    assert one.try_take("c1", [A])
    one.begin("c1", [A])
    one.touch("c1", A, HERE)
    one.begin("c1", [A])
    assert not one.touched("c1", A, HERE)
    programs.die()
    other = programs.start()
    assert other.try_take("c1", [A])
    assert not other.touched("c1", A, HERE)


async def test_lines_of_claims_that_are_not_begun_are_dropped_but_those_in_work(programs: Programs) -> None:
    one = programs.start()
    for claim in ("gone", "begun"):
        assert one.try_take(claim, [A])
        one.begin(claim, [A])
        one.touch(claim, A, HERE)
    programs.die()
    other = programs.start()
    assert other.try_take("new", [A])
    other.begin("new", [A])
    other.forget_others(A, {"begun"})
    assert other.touched("gone", A, THERE)  # as if it had never been
    assert not other.touched("begun", A, THERE)
    assert not other.touched("new", A, THERE)
    other.give_back("new", is_done=True)
    assert other.try_take("begun", [A])
    other.give_back("begun", is_done=True)
    assert programs.lines(A) == []


@pytest.mark.parametrize(
    ("content", "begun"),
    [
        ("c1\nc1 19@0\nc1 9@", {HERE}),  # cut off in the middle
        ("c1\nc1 19@0\nc1 9", {HERE}),
        ("c1\nc1 19@0", set()),
        ("c1\nc1 19@0\nc1 x@4\nc1 9@-4\nc1 9@4@4\nc1 \n", {HERE}),
        ("hello\n\n - \nc1\nc1 19@0\n-\n-nobody\n", {HERE}),
        ("c1\nc1 19@0\n-c1\nc1\n", set()),
    ],
)
async def test_lines_that_are_torn_or_mean_nothing_say_nothing(
    programs: Programs, content: str, begun: set[tuple[int, int]]
) -> None:
    programs.path(A).write_text(content)
    locks = programs.start()
    assert locks.try_take("c1", [A])
    assert {place for place in (HERE, THERE, (9, -4)) if locks.touched("c1", A, place)} == begun


async def test_bytes_that_are_no_text_stop_nothing(programs: Programs) -> None:
    programs.path(A).write_bytes(b"\xff\xfe\x00\nc1\nc1 19@0\n")
    locks = programs.start()
    assert locks.try_take("c1", [A])
    assert locks.touched("c1", A, HERE)
    assert not locks.touched("c1", A, THERE)


STORIES = st.lists(
    st.tuples(st.sampled_from(("begin", "touch", "leave", "done")), st.sampled_from(("c1", "c2"))), max_size=12
)


@given(STORIES)
async def test_whoever_comes_after_a_death_knows_what_the_dead_program_knew(story: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(Path(folder))
        locks = programs.start()
        begun: dict[str, set[tuple[int, int]]] = {}
        for number, (act, claim) in enumerate(story):
            assert locks.try_take(claim, [A])
            match act:
                case "begin":
                    locks.begin(claim, [A])
                    begun[claim] = set()
                case "touch":
                    locks.touch(claim, A, (number, 0))
                    begun.setdefault(claim, set()).add((number, 0))
                case "leave":
                    locks.give_back(claim, is_done=False)
                case "done":
                    locks.give_back(claim, is_done=True)
                    begun.pop(claim, None)
        programs.die()
        heir = programs.start()
        for claim in ("c1", "c2"):
            assert heir.try_take(claim, [A])
            places = [(number, 0) for number in range(len(story))]
            known = {place for place in places if heir.touched(claim, A, place)}
            assert known == begun.get(claim, set(places))
        programs.close()


# --- a full disk ---


async def test_a_claim_that_cannot_be_written_down_does_not_begin(programs: Programs) -> None:
    locks = programs.start()
    assert locks.try_take("c1", [A])
    programs.host.refuse("append", f"{P}/{FOLDER}", errno.ENOSPC)
    text = rf"error writing lock file \({P}/{FOLDER}/{A}\): No space left on device"
    with pytest.raises(LockError, match=text):
        locks.begin("c1", [A])
    with pytest.raises(LockError, match=text):
        locks.touch("c1", A, HERE)
    locks.give_back("c1", is_done=True)
    assert locks.claims == frozenset()


async def test_a_gpu_is_given_back_although_its_file_cannot_be_written(programs: Programs) -> None:
    locks, other = programs.start(), programs.start()
    host = programs._hosts[0]
    for claim in ("c1", "c2"):
        assert locks.try_take(claim, [A])
        locks.begin(claim, [A])
    for kind in ("append", "truncate"):
        host.refuse(kind, f"{P}/{FOLDER}", errno.EIO)
    waiting = asyncio.create_task(locks.until_done("c1"))
    await asyncio.sleep(0)
    locks.give_back("c1", is_done=True)
    await waiting
    locks.give_back("c2", is_done=True)
    assert other.try_take("c3", [A])
