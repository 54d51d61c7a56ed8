"""`nvidia-cuda-mps-control` of a driver root, asked over the pipe folder of a daemon.

Source: NVIDIA Multi-Process Service, chapter "Tools and interface reference"; answers measured on an H200.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from nvdra.host.driver_root import DriverFileMissing, DriverRoot, find_program
from nvdra.ports import Finished, Host

PROGRAM = "nvidia-cuda-mps-control"
DEADLINE_S = 2.0

_PERCENTAGE = re.compile(rb"\d+(\.\d+)?\s*", re.ASCII)
# What a shell says of a program that cannot be executed, and the loader of one whose libraries do not fit.
_CANNOT_RUN = frozenset((126, 127))
# The program asks a daemon only if it sees its process: not from a container without the host's PID namespace.
_UNSEEN = b"Cannot find MPS control daemon process"
_PID = "nvidia-cuda-mps-control.pid"
_LOADER = re.compile(rb"error while loading shared libraries|version `GLIBC_|cannot execute|not found")


class MpsControlError(Exception):
    """The daemon does not answer, or not with what was asked for; the text says which."""


class MpsControlUnusable(Exception):
    """The program is not there, or cannot ask from this container: nothing is known of the daemon."""


@dataclass(frozen=True, slots=True)
class MpsControl:
    """The control program of one driver root."""

    host: Host
    root: DriverRoot

    async def default_percentage(self, pipe_folder: str) -> float:
        """The active thread percentage that the daemon gives to clients. Raises MpsControlError, MpsControlUnusable."""
        command = "get_default_active_thread_percentage"
        finished = await self._ask(pipe_folder, command)
        if finished.exit_code != 0 or not _PERCENTAGE.fullmatch(finished.stdout):
            said = " ".join((finished.stdout + b"\n" + finished.stderr).decode(errors="replace").split())[:200]
            raise MpsControlError(f"{command} was answered with exit status {finished.exit_code}: {said or 'nothing'}")
        return float(finished.stdout)

    async def _ask(self, pipe_folder: str, command: str) -> Finished:
        environ = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": pipe_folder}
        try:
            program = find_program(self.host, self.root, PROGRAM)
            finished = await self.host.spawn(
                [program], env=environ, stdin=f"{command}\n".encode(), timeout_s=DEADLINE_S
            )
        except TimeoutError:
            raise MpsControlError(f"{command} was not answered within {DEADLINE_S:g} s") from None
        except (DriverFileMissing, OSError) as error:
            raise MpsControlUnusable(str(error)) from None
        if _UNSEEN in finished.stdout + finished.stderr and self._has_started(pipe_folder):
            raise MpsControlUnusable("the daemon's process cannot be seen from this PID namespace")
        if finished.exit_code in _CANNOT_RUN or (finished.exit_code != 0 and _LOADER.search(finished.stderr)):
            raise MpsControlUnusable(finished.stderr.decode(errors="replace").strip())
        return finished

    def _has_started(self, pipe_folder: str) -> bool:
        """Whether the daemon wrote its process id, which it removes at its end."""
        try:
            return bool(self.host.read(f"{pipe_folder}/{_PID}"))
        except OSError:
            return False
