"""The ledger: the record on disk, changed in batches.

What arrives while a batch is being written waits for the next one and shares its locks, its read and its write.
The two file locks span one batch and nothing slower; they exclude another instance of this driver, ours or the Go
driver. What a change contains is decided elsewhere, by pure functions; this module only carries it out:

    CDI files that a new entry needs   →   the record, once, durably   →   CDI files nobody needs any more

so that a completed entry is never without its file, and a file without entry is an orphan that a sweep removes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from nvdra.checkpoint import Entry, Record
from nvdra.node.record_file import RecordFile
from nvdra.ports import Host, LockError

T = TypeVar("T")

LOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What one decision does to the node.

    answer   what its asker gets once everything below is on disk
    entries  claim UID to its new entry; None: the entry leaves the record
    write    CDI files to put in place before the record, path to content
    remove   CDI files to take away after the record
    """

    answer: T
    entries: Mapping[str, Entry | None] = field(default_factory=dict)
    write: Mapping[str, bytes] = field(default_factory=dict)
    remove: tuple[str, ...] = ()


Decide = Callable[[Record], Change[T]]


class LedgerError(Exception):
    """A change that could not be made durable; the text names the file and the cause. Nothing of it remains."""

    def __init__(self, text: str, *, lock: bool = False) -> None:
        super().__init__(text)
        self.lock = lock  # the locks were not to be had: counted apart


@dataclass(slots=True)
class _Job:
    decide: Callable[[Record], Change[Any]]
    done: asyncio.Future[Any]
    change: Change[Any] | None = None

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Ledger:
    """Decisions in, durable changes out; one batch at a time.

    on_written(record)   called after each write and after the first read, for gauges
    """

    def __init__(
        self, host: Host, record_file: RecordFile, plugin_dir: str, on_written: Callable[[Record], None]
    ) -> None:
        self._host = host
        self._file = record_file
        self._pu_lock = f"{plugin_dir}/pu.lock"
        self._cp_lock = f"{plugin_dir}/cp.lock"
        self._on_written = on_written
        self._waiting: deque[_Job] = deque()
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._batches(), name="ledger")

    async def stop(self) -> None:
        """Finish the batch in work, then stop; what still waits is refused."""
        if self._loop is None:
            return
        self._loop.cancel()
        await asyncio.wait([self._loop])
        while self._waiting:
            self._waiting.popleft().fail(LedgerError("the plugin is shutting down; kubelet will ask its successor"))

    async def submit(self, decide: Decide[T]) -> T:
        """Run `decide` on the record as it will then be, carry its change out, return its answer.

        `decide` must be pure and quick: it runs under the node's locks. Raises LedgerError, or what `decide` raises.
        """
        job = _Job(decide, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._wake.set()
        answer: T = await job.done
        return answer

    async def _batches(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = list(self._waiting)
            self._waiting.clear()
            work = asyncio.ensure_future(self._carry_out(batch))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise

    async def _carry_out(self, batch: list[_Job]) -> None:
        try:
            async with (
                self._host.lock(self._pu_lock, timeout_s=LOCK_TIMEOUT_S),
                self._host.lock(self._cp_lock, timeout_s=LOCK_TIMEOUT_S),
            ):
                await self._under_locks(batch)
        except LockError as refused:
            # Texts of the Go driver, so that existing alerts still match.
            which = "prep/unprep lock" if refused.path == self._pu_lock else "cplock"
            for job in batch:
                job.fail(LedgerError(f"error acquiring {which}: {refused}", lock=True))
        except Exception as error:
            # One bad batch never ends the ledger: its claims fail, kubelet asks again, the next batch reads anew.
            self._file.forget()
            for job in batch:
                job.fail(error)
        for job in batch:
            if not job.done.done():
                assert job.change is not None
                job.done.set_result(job.change.answer)

    async def _under_locks(self, batch: list[_Job]) -> None:
        before = await self._file.current()
        record = before
        for job in batch:
            try:
                job.change = job.decide(record)
            except Exception as error:
                job.fail(error)
                continue
            record = _with(record, job.change.entries)

        await asyncio.gather(*(self._put_files(job) for job in batch))
        # Decided again without the claims whose file could not be written.
        record = before
        for job in _alive(batch):
            record = _with(record, _change(job).entries)

        if record.entries != before.entries:
            try:
                await self._file.store(record)
            except OSError as error:
                self._file.forget()
                await self._take_back(batch, before, error)
                return
            self._on_written(record)
        for job in _alive(batch):
            for path in _change(job).remove:
                # The entry is gone: a file that cannot be removed now is an orphan for the sweep.
                try:
                    await self._host.remove(path)
                except OSError:
                    continue

    async def _put_files(self, job: _Job) -> None:
        if job.done.done() or job.change is None:
            return
        for path, content in job.change.write.items():
            try:
                await self._host.replace(path, content, mode=0o644, durable=False)
            except OSError as error:
                job.fail(LedgerError(f"unable to create CDI spec file for claim: {path}: {error.strerror or error}"))
                return

    async def _take_back(self, batch: list[_Job], before: Record, error: OSError) -> None:
        """The record could not be written: nothing of this batch's changes may remain."""
        for job in _alive(batch):
            change = _change(job)
            if not change.entries:
                continue  # an answer from the record, or a repaired file: true all the same
            for path in change.write:
                if all(uid not in before.entries for uid in change.entries):
                    await self._host.remove(path)
            job.fail(LedgerError(f"unable to update checkpoint: {self._file.path}: {error.strerror or error}"))


def _alive(batch: list[_Job]) -> list[_Job]:
    return [job for job in batch if not job.done.done()]


def _change(job: _Job) -> Change[Any]:
    assert job.change is not None
    return job.change


def _with(record: Record, entries: Mapping[str, Entry | None]) -> Record:
    if not entries:
        return record
    merged = dict(record.entries)
    for uid, entry in entries.items():
        if entry is None:
            merged.pop(uid, None)
        else:
            merged[uid] = entry
    return replace(record, entries=merged)
