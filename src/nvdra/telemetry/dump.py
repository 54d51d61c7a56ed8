"""SIGUSR2: every stack into one file, also while the program is stuck.

The dump is written inside the C signal handler, so it needs neither the interpreter nor the event loop. When the
interpreter does get its turn, the file is renewed: this dump alone, with the stacks of asyncio's tasks below it.
"""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

from nvdra.telemetry import log

DUMP_PATH = "/tmp/goroutine-stacks.dump"
T = TypeVar("T")


def _entry(main: Callable[[], T]) -> T:
    return main()


# DROP-IN: tests of the Go driver look for its main function's name in the dump. A stack dump shows names of code
# objects, so the frame a plugin runs in carries that name.
_named = types.FunctionType(
    _entry.__code__.replace(co_name="main.RunPlugin", co_qualname="main.RunPlugin"), globals(), "main.RunPlugin"
)


def run_plugin(main: Callable[[], T]) -> T:
    """Run a program's main function under the frame that stack dumps show as `main.RunPlugin`."""
    result: T = _named(main)
    return result


class _Dump:
    """The open dump file. The C handler holds its descriptor, so it stays open for the life of the process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: io.FileIO | None = None
        self.size = 0  # of the file before the next dump
        self.reason = ""

    def open(self, path: str) -> io.FileIO:
        # Appending: the C handler may write again before the last dump was looked after.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        return io.FileIO(fd, "r+")

    def arm(self) -> None:
        try:
            self.file = self.open(self.path)
            faulthandler.register(signal.SIGUSR2, file=self.file, all_threads=True, chain=True)
        except OSError as reason:
            # Nowhere to write: the stacks go to standard error at the signal.
            self.file = None
            self.reason = reason.strerror or str(reason)
            faulthandler.register(signal.SIGUSR2, file=2, all_threads=True, chain=True)

    def caught(self, _signum: int, _frame: Any) -> None:
        """The interpreter's turn, after the C handler wrote."""
        try:
            if self.file is None:
                self.retry()
            else:
                self.renew(self.file)
        except OSError as reason:
            log.error(f"Could not write {self.path}: {reason.strerror or reason}")
            os.write(2, _tasks())

    def retry(self) -> None:
        """The file could not be opened before; the C handler has printed the stacks to standard error."""
        log.error(f"Could not write {self.path}: {self.reason}")
        old = self.reason
        self.arm()
        if self.file is None and self.reason != old:
            log.error(f"Could not write {self.path}: {self.reason}")

    def renew(self, file: io.FileIO) -> None:
        """Put this dump alone into the file, by renaming: who reads meanwhile sees the older, longer one."""
        fresh = os.pread(file.fileno(), 1 << 21, self.size)
        beside = f"{self.path}.{os.getpid()}"
        renewed = self.open(beside)
        renewed.write(fresh + _tasks())
        os.rename(beside, self.path)
        self.size = os.fstat(renewed.fileno()).st_size
        self.file = renewed
        faulthandler.register(signal.SIGUSR2, file=renewed, all_threads=True, chain=True)
        file.close()
        log.info(0, f"Wrote: {self.path}")


def install_stack_dump(path: str = DUMP_PATH) -> None:
    """Answer SIGUSR2 from here on.

    Call it in the main thread before heavy imports: without a handler the signal kills.
    """
    dump = _Dump(path)
    # The Python handler first: faulthandler chains to the one that is installed when it registers.
    signal.signal(signal.SIGUSR2, dump.caught)
    dump.arm()
    log.info(0, "Started debug signal handler(s)")


def _tasks() -> bytes:
    """The stacks of the running loop's tasks: what waits, which thread stacks do not show."""
    if "asyncio" not in sys.modules:
        return b""
    import asyncio

    loop = asyncio._get_running_loop()
    if loop is None:
        return b""
    out = io.StringIO()
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        out.write(f"\nTask {task.get_name()} {'done' if task.done() else 'waiting'}:\n")
        task.print_stack(limit=20, file=out)
    return out.getvalue().encode("utf-8", "backslashreplace")
