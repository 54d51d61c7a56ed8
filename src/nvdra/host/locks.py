"""File locks between programs: flock(2) on a whole file. A blocked thread waits for a busy lock.

Nothing polls: a free lock is taken at once, a busy one as soon as its holder releases it. The files are never removed.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from nvdra.ports import LockError, LockTimeout


class _Wait:
    """A thread blocked in flock. If its asker left, the next asker inherits it; without one it releases the lock."""

    def __init__(self, path: str, descriptor: int, abandoned: dict[str, _Wait]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._abandoned = abandoned
        self._mutex = threading.Lock()
        self._asker: tuple[asyncio.AbstractEventLoop, asyncio.Future[int]] | None = None
        self._is_over = False

    def start(self) -> asyncio.Future[int]:
        asker = self._ask()
        threading.Thread(target=self._block, name=f"lock {self._path}", daemon=True).start()
        return asker

    def inherit(self) -> asyncio.Future[int] | None:
        """The future of a new asker for an abandoned wait; None if the wait has just ended."""
        with self._mutex:
            return None if self._is_over else self._ask()

    def _ask(self) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._asker = (loop, future)
        return future

    def leave(self) -> None:
        """Abandon the wait. The thread stays blocked: flock cannot be interrupted without harm to other threads."""
        with self._mutex:
            if self._asker is not None and not self._is_over:
                self._asker = None
                self._abandoned[self._path] = self
                return
        # The lock was granted at the same moment: `_tell` is scheduled and releases it.

    def _block(self) -> None:
        error: OSError | None = None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # a signal does not end it (PEP 475)
        except OSError as failed:
            error = failed
        with self._mutex:
            self._is_over = True
            if self._asker is None:
                if self._abandoned.get(self._path) is self:
                    self._abandoned.pop(self._path, None)
                os.close(self._descriptor)
                return
            loop, future = self._asker
        try:
            loop.call_soon_threadsafe(self._tell, future, error)
        except RuntimeError:  # the loop is closed: the program is ending
            os.close(self._descriptor)

    def _tell(self, future: asyncio.Future[int], error: OSError | None) -> None:
        if future.done():
            os.close(self._descriptor)
        elif error is None:
            future.set_result(self._descriptor)
        else:
            os.close(self._descriptor)
            future.set_exception(error)


class LockFile:
    """A lock that is held, and the lines in its file.

    shown    the file's name in texts
    change   carries out a change of the file: its kind, "append" or "truncate", and the call that makes it
    """

    def __init__(self, descriptor: int, shown: str, change: Callable[[str, Callable[[], object]], object]) -> None:
        self._descriptor = descriptor
        self._shown = shown
        self._change = change

    def lines(self) -> tuple[str, ...]:
        whole = self._whole().decode(errors="replace")
        return tuple(whole.removesuffix("\n").split("\n")) if whole else ()

    def add(self, line: str) -> None:
        content, end = f"{line}\n".encode(), len(self._whole())

        def append() -> None:
            # A signal cannot interrupt one write of a few bytes to a regular file. Only a full disk writes a part; the
            # next line overwrites that part.
            if os.pwrite(self._descriptor, content, end) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self._written("append", append)

    def clear(self) -> None:
        if os.fstat(self._descriptor).st_size:
            self._written("truncate", lambda: os.ftruncate(self._descriptor, 0))

    def _whole(self) -> bytes:
        """The content without an incomplete last line."""
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        return content[: content.rfind(b"\n") + 1]

    def _written(self, kind: str, call: Callable[[], object]) -> None:
        try:
            self._change(kind, call)
        except OSError as error:
            raise LockError(self._shown, f"error writing lock file ({self._shown}): {error.strerror}") from None

    def close(self) -> None:
        """Release the lock; a second call has no effect."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Locks:
    """File locks of one program. Two locks on one path also exclude each other inside the program."""

    def __init__(self) -> None:
        self._abandoned: dict[str, _Wait] = {}

    @asynccontextmanager
    async def lock(self, path: str, shown: str, timeout_s: float) -> AsyncIterator[None]:
        """Hold the lock on the file at `path`; `shown` is its name in texts."""
        descriptor = self.try_lock(path, shown)
        if descriptor is None:
            descriptor = await self._wait(path, shown, timeout_s)
        try:
            yield
        finally:
            os.close(descriptor)

    def try_lock(self, path: str, shown: str) -> int | None:
        """A descriptor that holds the lock until it is closed; None if the lock is busy."""
        descriptor = _open(path, shown)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise _refused(shown, error) from None
        return descriptor

    async def _wait(self, path: str, shown: str, timeout_s: float) -> int:
        wait = self._abandoned.pop(path, None)
        asker = wait.inherit() if wait is not None else None
        if wait is None or asker is None:
            wait = _Wait(path, _open(path, shown), self._abandoned)
            asker = wait.start()
        try:
            # asyncio.wait, not wait_for: a lock that is granted at the last moment must not be lost.
            await asyncio.wait([asker], timeout=timeout_s)
        except BaseException:
            _give_up(wait, asker)
            raise
        if not asker.done():
            _give_up(wait, asker)
            raise LockTimeout(shown, timeout_s)
        try:
            return asker.result()
        except OSError as error:
            raise _refused(shown, error) from None


def _give_up(wait: _Wait, asker: asyncio.Future[int]) -> None:
    wait.leave()
    if asker.done() and not asker.cancelled() and asker.exception() is None:
        os.close(asker.result())
    asker.cancel()


def _open(path: str, shown: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LockError(shown, f"error opening lock file ({shown}): {error.strerror}") from None


def _refused(shown: str, error: OSError) -> LockError:
    return LockError(shown, f"error acquiring lock ({shown}): {error.strerror}")
