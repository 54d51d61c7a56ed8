"""The checkpoint writer: changes the checkpoint on disk in batches.

Jobs that arrive while a batch is being written go into the next batch and share its locks, its read and its write. A
batch waits a moment for jobs that are announced by `coming`.
The two file locks span one batch and nothing slower. They exclude other instances of this driver and the Go driver.
Pure functions decide the changes; this module carries them out in this order:

    CDI files of new entries   →   the checkpoint, once, durably   →   removal of CDI files without an entry

A completed entry is therefore never without its file, and a file without an entry is an orphan that the sweep removes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from nvdra.checkpoint import Checkpoint, Entry
from nvdra.node.checkpoint_file import CheckpointFile
from nvdra.ports import Clock, Host, LockError, Put, Removal

T = TypeVar("T")

LOCK_TIMEOUT_S = 10.0

# After idleness a batch takes milliseconds, whatever it contains, so a claim that is nearly fetched should join it. The
# GETs of eight claims of one call take about this long.
GATHER_S = 0.008


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """The effects of one decision.

    answer   for the caller, once everything below is on disk
    entries  claim UID to its new entry; None: the entry leaves the checkpoint
    write    CDI files to put in place before the checkpoint, path to content
    remove   CDI files to remove after the checkpoint
    discard  called if the change is dropped and decided again: releases the locks that the decision took
    """

    answer: T
    entries: Mapping[str, Entry | None] = field(default_factory=dict)
    write: Mapping[str, bytes] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    discard: Callable[[], None] | None = None


Decide = Callable[[Checkpoint], Change[T]]


class CheckpointError(Exception):
    """A change that could not be made durable; the text names the file and the cause. The change left no effect."""

    def __init__(self, text: str, *, lock: bool = False) -> None:
        super().__init__(text)
        self.lock = lock  # the locks could not be taken; the metrics count this error separately


@dataclass(slots=True)
class _Job:
    decide: Callable[[Checkpoint], Change[Any]]
    done: asyncio.Future[Any]
    change: Change[Any] | None = None
    has_failed: bool = False

    def fail(self, error: Exception) -> None:
        self.has_failed = True
        if not self.done.done():
            self.done.set_exception(error)

    def drop_decision(self) -> None:
        if self.change is not None and self.change.discard is not None:
            self.change.discard()
        self.change = None


class CheckpointWriter:
    """Runs decisions on the checkpoint and makes their changes durable, one batch at a time.

    on_checkpoint(checkpoint)   called with each new checkpoint, written here or found on disk; for gauges
    lock_timeout_s              how long each of the two locks may be held by another program
    """

    def __init__(
        self,
        host: Host,
        checkpoint_file: CheckpointFile,
        plugin_dir: str,
        on_checkpoint: Callable[[Checkpoint], None],
        *,
        clock: Clock,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self._host = host
        self._clock = clock
        self._lock_timeout_s = lock_timeout_s
        self._file = checkpoint_file
        self._plugin_dir = plugin_dir
        self._pu_lock = f"{plugin_dir}/pu.lock"
        self._cp_lock = f"{plugin_dir}/cp.lock"
        self._on_checkpoint = on_checkpoint
        self._announced: Checkpoint | None = None
        self._waiting: deque[_Job] = deque()
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._has_stopped = False
        self._coming = 0
        self._none_coming = asyncio.Event()

    def start(self) -> None:
        self._loop = asyncio.create_task(self._batches(), name="checkpoint writer")

    async def stop(self) -> None:
        """Finish the current batch, then stop; waiting and later jobs are refused."""
        self._has_stopped = True
        if self._loop is None:
            return
        self._wake.set()
        # Consume the task's result. A non-Exception, such as SystemExit, has ended the program by itself.
        await asyncio.gather(self._loop, return_exceptions=True)
        while self._waiting:
            self._waiting.popleft().fail(_shutting_down())

    async def submit(self, decide: Decide[T]) -> T:
        """Run `decide` in the next batch, carry out its change, return its answer.

        `decide` gets the checkpoint with the batch's earlier changes. It must be quick, because it runs under the
        node's locks, and it may run again. Cancelling the caller does not stop the change. Raises CheckpointError, or
        the error of `decide`.
        """
        if self._has_stopped:
            raise _shutting_down()
        job = _Job(decide, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._wake.set()
        answer: T = await job.done
        return answer

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        """Announce a `submit`: a batch that is about to begin waits for it, at most GATHER_S."""
        self._coming += 1
        self._none_coming.clear()
        try:
            yield
        finally:
            self._coming -= 1
            if not self._coming:
                self._none_coming.set()

    @property
    def last_seen(self) -> Checkpoint | None:
        """The checkpoint as this program last saw it; it may be outdated, so no decision may rest on it."""
        return self._file.last_seen

    def peek(self) -> Checkpoint | None:
        """The current checkpoint without any lock, for answers that change nothing; None: `submit` must read it."""
        return self._file.peek()

    async def _batches(self) -> None:
        while True:
            await self._wake.wait()
            if self._has_stopped:
                return
            self._wake.clear()
            await self._gather()
            batch = list(self._waiting)
            self._waiting.clear()
            await self._carry_out(batch)

    async def _gather(self) -> None:
        if self._coming:
            with contextlib.suppress(TimeoutError):
                async with self._clock.deadline(GATHER_S):
                    await self._none_coming.wait()

    async def _carry_out(self, batch: list[_Job]) -> None:
        try:
            async with (
                self._host.lock(self._pu_lock, timeout_s=self._lock_timeout_s),
                self._host.lock(self._cp_lock, timeout_s=self._lock_timeout_s),
            ):
                await self._under_locks(batch)
        except LockError as refused:
            # DROP-IN: texts and counters of the Go driver, so that existing alerts still match.
            if refused.path == self._pu_lock:
                failure = CheckpointError(f"error acquiring prep/unprep lock: {refused}", lock=True)
            else:
                failure = CheckpointError(f"unable to get checkpoint: error acquiring cplock: {refused}")
            for job in batch:
                job.fail(failure)
        except Exception as error:
            # A batch that fails does not end the writer: its claims fail, and the next batch reads the file again.
            self._file.forget()
            for job in batch:
                job.fail(error)
        for job in batch:
            if not job.done.done():
                assert job.change is not None
                job.done.set_result(job.change.answer)

    async def _under_locks(self, batch: list[_Job]) -> None:
        try:
            before = await self._file.current()
        except OSError as error:
            raise CheckpointError(
                f"unable to get checkpoint: {error.filename or self._file.path}: {error.strerror or error}"
            ) from None
        written = await self._write(batch, before)
        if written is not self._announced:
            self._announced = written
            self._on_checkpoint(written)

    async def _write(self, batch: list[_Job], before: Checkpoint) -> Checkpoint:
        """The checkpoint with the batch's changes, carried out in one turn of the host's writer.

        If a file cannot be written, the jobs that need it fail, and the rest is carried out again. Decisions after a
        failed job were made on its entries, so they are made again.
        """
        made: set[str] = set()
        while True:
            checkpoint = before
            for job in _alive(batch):
                checkpoint = self._decided(job, checkpoint)
            alive = _alive(batch)
            put = [Put(path, content, mode=0o644) for job in alive for path, content in _change(job).write.items()]
            removals = _removals(alive)
            try:
                if checkpoint.entries != before.entries:
                    await self._file.store(checkpoint, first=put, then=removals)
                    return checkpoint
                if put or removals:
                    await self._host.carry_out([*put, *removals])
                return before
            except OSError as error:
                concerned = [job for job in alive if error.filename in _change(job).write]
                if concerned and await self._made_folder(error, made):
                    continue
                if concerned:
                    text = f"unable to create CDI spec file for claim: {error.filename}: {error.strerror or error}"
                    for job in concerned:
                        job.fail(CheckpointError(text))
                else:
                    self._file.forget()
                    await self._fail_changes(alive, before, error)
                first = next(index for index, job in enumerate(alive) if job.has_failed)
                for job in _alive(alive[first:]):
                    job.drop_decision()

    def _decided(self, job: _Job, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the job's entries; runs the decision if it has not been made yet."""
        try:
            if job.change is None:
                job.change = job.decide(checkpoint)
                self._check(job.change, checkpoint)
        except Exception as error:
            job.fail(error)
            return checkpoint
        return _with(checkpoint, job.change.entries)

    def _check(self, change: Change[Any], checkpoint: Checkpoint) -> None:
        """Raise CheckpointError for an entry that could not be read back: it would make the whole file unreadable."""
        for uid, entry in change.entries.items():
            if entry is not None and entry != checkpoint.entries.get(uid) and (why := self._file.refusal(uid, entry)):
                raise CheckpointError(
                    f"unable to update checkpoint: {self._file.path} could not be read again with claim {uid}: {why}"
                )

    async def _made_folder(self, error: OSError, made: set[str]) -> bool:
        """Whether the folder of the file that could not be written was missing and has now been made."""
        folder = error.filename.rpartition("/")[0]
        if not isinstance(error, FileNotFoundError) or folder in made:
            return False
        made.add(folder)
        with contextlib.suppress(OSError):  # then the caller reports the file's own error
            # DROP-IN: the modes of the CDI folder and of the folders of device metadata.
            await self._host.mkdir(folder, mode=0o755 if folder.startswith(self._plugin_dir) else 0o750)
            return True
        return False

    async def _fail_changes(self, alive: list[_Job], before: Checkpoint, error: OSError) -> None:
        """Fail the batch's changes because the checkpoint could not be written, and remove their new CDI files."""
        # Answers from the checkpoint and repaired files do not depend on this write.
        failed = [job for job in alive if _change(job).entries or _change(job).remove] or alive
        new = [job for job in failed if all(uid not in before.entries for uid in _change(job).entries)]
        # These files have no entry: the sweep removes those that cannot be removed now.
        await self._host.carry_out([Removal(path) for job in new for path in _change(job).write])
        for job in failed:
            job.fail(CheckpointError(f"unable to update checkpoint: {self._file.path}: {error.strerror or error}"))


def _removals(alive: list[_Job]) -> list[Removal]:
    """Removals of the batch, without paths that a later job of the batch writes."""
    put: set[str] = set()
    found: list[Removal] = []
    for job in reversed(alive):
        found += (Removal(path) for path in _change(job).remove if path not in put)
        put.update(_change(job).write)
    return found


def _alive(batch: list[_Job]) -> list[_Job]:
    return [job for job in batch if not job.has_failed]


def _change(job: _Job) -> Change[Any]:
    assert job.change is not None
    return job.change


def _shutting_down() -> CheckpointError:
    return CheckpointError("the plugin is shutting down; kubelet will ask its successor")


def _with(checkpoint: Checkpoint, entries: Mapping[str, Entry | None]) -> Checkpoint:
    if not entries:
        return checkpoint
    merged = dict(checkpoint.entries)
    for uid, entry in entries.items():
        if entry is None:
            merged.pop(uid, None)
        else:
            merged[uid] = entry
    return replace(checkpoint, entries=merged)
