"""SIGUSR2: writes every stack into one file, also while the program hangs.

The C signal handler writes the dump, so it needs neither the interpreter nor the event loop. When the interpreter runs
again, it rewrites the file: this dump alone, followed by the stacks of asyncio's tasks.
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
    """The open dump file. The C handler uses its descriptor, so the file stays open until the process ends."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: io.FileIO | None = None
        self.size = 0  # size of the file before the next dump
        self.is_busy = False
        self.is_again = False  # another signal came while the last one was handled

    def arm(self) -> None:
        """Let the C handler write; to standard error if there is nowhere else."""
        try:
            self.file = _open(self.path)
            target: int | io.FileIO = self.file
        except OSError:
            target = 2
        faulthandler.register(signal.SIGUSR2, file=target, all_threads=True, chain=True)

    def caught(self, _signum: int, _frame: Any) -> None:
        """Runs in the interpreter, after the C handler has written."""
        self.is_again = True
        # A signal may come at any line of this function. The pending flag makes sure that each one is handled.
        while self.is_again and not self.is_busy:
            self.is_busy = True
            self.is_again = False
            try:
                self.renew()
            except OSError as reason:
                # The C handler has printed to standard error, or into a file that somebody may have deleted.
                if self.file is not None:
                    faulthandler.dump_traceback(2, all_threads=True)
                os.write(2, task_stacks())
                log.error(f"Could not write {self.path}: {reason.strerror or reason}")
            finally:
                self.is_busy = False

    def renew(self) -> None:
        """Replace the file by this dump alone, with a rename: a concurrent reader sees the older, longer file.

        The C handler is pointed at the new file before it gets its name, so a signal sent on seeing it lands in it.
        """
        beside = f"{self.path}.{os.getpid()}"
        renewed = _open(beside)
        fresh = os.pread(self.file.fileno(), 1 << 21, self.size) if self.file is not None else b""
        if not fresh:
            faulthandler.dump_traceback(renewed, all_threads=True)
        renewed.write(fresh + task_stacks())
        old, self.file, self.size = self.file, renewed, os.fstat(renewed.fileno()).st_size
        faulthandler.register(signal.SIGUSR2, file=renewed, all_threads=True, chain=True)
        if old is not None:
            old.close()
        os.rename(beside, self.path)
        log.info(0, f"Wrote: {self.path}")


def _open(path: str) -> io.FileIO:
    # Append mode: the C handler may write again before the last dump was handled. The folder is open to all users, so a
    # link of this name is not followed.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    return io.FileIO(fd, "r+")


def install_stack_dump(path: str = DUMP_PATH) -> None:
    """Handle SIGUSR2 from here on.

    Call it in the main thread before heavy imports: without a handler the signal kills the process.
    """
    dump = _Dump(path)
    # The Python handler first: faulthandler chains to the one that is installed when it registers.
    signal.signal(signal.SIGUSR2, dump.caught)
    dump.arm()
    log.info(0, "Started debug signal handler(s)")


def task_stacks() -> bytes:
    """The stacks of the running loop's tasks as text; stacks of threads do not show waiting tasks."""
    if "asyncio" not in sys.modules:
        return b""
    import asyncio

    loop = asyncio._get_running_loop()
    if loop is None:
        return b""
    out = io.StringIO()
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        out.write(f"\nTask {task.get_name()} {'done' if task.done() else 'waiting'}:\n")
        for frame in task.get_stack(limit=20):
            # Compiled coroutines (a gRPC server's) have no line, which Task.print_stack cannot show.
            code, line = frame.f_code, frame.f_lineno
            out.write(f'  File "{code.co_filename}", {"in" if line is None else f"line {line} in"} {code.co_name}\n')
    return out.getvalue().encode("utf-8", "backslashreplace")
