"""Child processes with a log file each: started in order, ended by pid in the opposite order."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class ChildEnded(Exception):
    """A process that should be running has ended; the text holds the end of its log."""


@dataclass(slots=True)
class Child:
    """A running program whose output goes to `log`."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """The program runs; its output is appended to the log."""
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the program as last started."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def must_run(self) -> None:
        """Raises ChildEnded, with the end of its log, if the program is not running."""
        if not self.is_running:
            status = None if self._process is None else self._process.returncode
            raise ChildEnded(f"{self.name} ended with status {status}; the end of {self.log}:\n{self.tail()}")

    def kill(self) -> None:
        """The program is gone, without a chance to tidy up."""
        self._end(signal.SIGKILL, 0.0)

    def stop(self, grace_s: float = 10.0) -> int | None:
        """The exit status of the program, asked to end and killed if it does not within the grace."""
        self._end(signal.SIGTERM, grace_s)
        return None if self._process is None else self._process.returncode

    def _end(self, how: signal.Signals, grace_s: float) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(grace_s or None)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return tail(self.log, lines)


def tail(log: Path, lines: int) -> str:
    """The last lines of a log; none if there is no log."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
