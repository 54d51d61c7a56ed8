"""Whether IMEX is ready, by the question that the probes ask too; asked less often the longer nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from nvdra import telemetry
from nvdra.ports import Clock

# DROP-IN: the only answer that counts as ready.
READY = b"READY\n"
FIRST_S, LIMIT_S, READY_S = 0.1, 5.0, 10.0
ASK_S = 10.0


async def ask(argv: Sequence[str], clock: Clock) -> tuple[bool, str]:
    """Whether IMEX is ready, and what was said."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        return False, f"error running {argv[0]}: {error.strerror}"
    try:
        async with clock.deadline(ASK_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return False, f"{argv[0]} did not answer within {ASK_S:g} s"
    is_ready = process.returncode == 0 and said.endswith(READY) and said.splitlines()[-1] == READY.strip()
    return is_ready, said.decode(errors="replace").strip()


class Readiness:
    """IMEX's readiness as last heard.

    is_ready   None: it was not asked yet
    """

    def __init__(self, argv: Sequence[str], clock: Clock, is_running: Callable[[], bool]) -> None:
        self._argv = tuple(argv)
        self._clock = clock
        self._is_running = is_running
        self.is_ready: bool | None = None

    async def run(self, on_change: Callable[[], None]) -> None:
        """Ask for ever."""
        pause_s, said = FIRST_S, ""
        while True:
            is_ready, heard = await ask(self._argv, self._clock) if self._is_running() else (False, "IMEX does not run")
            if (is_ready, heard) != (self.is_ready, said):
                telemetry.info(0, "IMEX is ready" if is_ready else "IMEX is not ready", answer=heard)
                said, pause_s = heard, FIRST_S
            if is_ready != self.is_ready:
                self.is_ready = is_ready
                on_change()
            await self._clock.sleep(READY_S if is_ready else pause_s)
            pause_s = min(pause_s * 1.5, LIMIT_S)
