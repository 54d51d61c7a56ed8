"""The IMEX process: started, restarted when it ends, told to resolve names again, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence

from nvdra import telemetry
from nvdra.daemon.identity import DaemonFailed
from nvdra.ports import Clock

# IMEX ignores SIGUSR1 within five seconds of the last one; a fresh process may not handle it yet.
BETWEEN_SIGNALS_S = 5.1
SETTLED_S = 1.0
BACKOFF_FIRST_S, BACKOFF_LIMIT_S = 0.5, 30.0
HEALTHY_S = 60.0  # a process that lived so long starts anew without a pause
STOP_S = 10.0


class ImexProcess:
    """Supervises one IMEX process.

    argv   the command
    """

    def __init__(self, argv: Sequence[str], clock: Clock) -> None:
        self._argv = tuple(argv)
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._wanted = asyncio.Event()
        self._restart = False
        self._started_s = 0.0
        self._signal_due_s: float | None = None
        self._signalled_s = -BETWEEN_SIGNALS_S
        self._wake = asyncio.Event()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def start(self) -> None:
        """The process is wanted from now on."""
        self._wanted.set()

    def restart(self) -> None:
        """Stop the process, so that a new one reads its files."""
        if self.is_running:
            self._restart = True
            self._signal_due_s = None
            self._wake.set()
        self._wanted.set()

    def reload(self) -> None:
        """Tell the process to resolve names again: now, or as soon as it listens to it. A burst is one signal."""
        if self.is_running and not self._restart:
            earliest = max(self._signalled_s + BETWEEN_SIGNALS_S, self._started_s + SETTLED_S)
            self._signal_due_s = max(self._clock.now(), earliest)
            self._wake.set()

    async def run(self) -> None:
        """Keep the process running for ever, once it is wanted. Raises DaemonFailed if it cannot be started."""
        failures = 0
        await self._wanted.wait()
        while True:
            await self._spawn()
            assert self._process is not None
            status = await self._until_end(self._process)
            if self._restart:
                self._restart, failures = False, 0
                telemetry.info(0, "Restarting IMEX", status=status)
                continue
            lived_s = self._clock.now() - self._started_s
            failures = 1 if lived_s >= HEALTHY_S else failures + 1
            pause_s = 0.0 if lived_s >= HEALTHY_S else min(BACKOFF_FIRST_S * 2.0 ** (failures - 1), BACKOFF_LIMIT_S)
            # DROP-IN: the first two texts are the Go driver's.
            telemetry.warning(
                "Watchdog: child terminated unexpectedly",
                cause=f"Child exited with code {status}",
                lived_s=round(lived_s, 1),
                restart_in_s=pause_s,
            )
            await self._clock.sleep(pause_s)

    async def stop(self) -> None:
        """Stop the process: it tells its peers. One that does not end is killed."""
        process = self._process
        if process is not None and process.returncode is None:
            await self._end(process)

    async def _spawn(self) -> None:
        try:
            self._process = await asyncio.create_subprocess_exec(*self._argv, stdin=asyncio.subprocess.DEVNULL)
        except OSError as error:
            raise DaemonFailed(
                4,
                f"cannot start {' '.join(self._argv)}: {error.strerror}; CDI brings it into the container from the "
                "node's driver, so the driver may lack IMEX (package nvidia-imex)",
            ) from error
        self._started_s = self._clock.now()
        self._signal_due_s = None
        telemetry.info(0, "Started IMEX", pid=self._process.pid)

    async def _until_end(self, process: asyncio.subprocess.Process) -> int:
        """The exit status of the process; signals are delivered meanwhile."""
        ending = asyncio.ensure_future(process.wait())
        try:
            while not ending.done():
                self._wake.clear()
                if self._restart:
                    await self._end(process)
                    continue
                now, due = self._clock.now(), self._signal_due_s
                if due is not None and due <= now:
                    self._signal_due_s, self._signalled_s = None, now
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(signal.SIGUSR1)
                    telemetry.info(1, "Told IMEX to resolve names again")
                    continue
                await self._wait(ending, None if due is None else due - now)
            return ending.result()
        finally:
            ending.cancel()

    async def _wait(self, ending: asyncio.Future[int], timeout_s: float | None) -> None:
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((ending, waking), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with self._clock.deadline(STOP_S):
                await process.wait()
        except TimeoutError:
            telemetry.warning("IMEX does not end, killing it", pid=process.pid, waited_s=STOP_S)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
