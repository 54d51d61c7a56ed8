"""Time slices and compute modes, set through the driver root's `nvidia-smi` with the Go driver's arguments.

Only `nvidia-smi` sets and reads time slices: NVML has no call for them. Each run takes about 20 ms on an idle H200.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from nvdra.api.configs import INTERVALS
from nvdra.host.driver_root import DriverRoot, find_library, find_program
from nvdra.ports import Finished, Host

ComputeMode = Literal["DEFAULT", "EXCLUSIVE_PROCESS", "PROHIBITED"]
_MODES: Mapping[str, ComputeMode] = MappingProxyType(
    {"DEFAULT": "DEFAULT", "EXCLUSIVE_PROCESS": "EXCLUSIVE_PROCESS", "PROHIBITED": "PROHIBITED"}
)

_DEADLINE_S = 15.0  # without persistence mode each run initialises the GPUs, which takes seconds on a large machine
_NOT_SUPPORTED_STATUS = 3  # documented in nvidia-smi's manual
_NOT_SUPPORTED = re.compile("not supported", re.IGNORECASE)
_DAEMON = "/run/nvidia-persistenced/socket"
_ROW = re.compile(r"^\|\s+(\d+)\s+Timeslice\s+(\w+)\s+\|\s*$", re.ASCII | re.MULTILINE | re.IGNORECASE)
_MOST_SAID = 500  # characters of output that an error text carries


class NvidiaSmiError(Exception):
    """A run of `nvidia-smi` that failed. The text begins with the Go driver's and ends with the command and its output.

    is_not_supported   the GPU does not support the setting: a retry cannot help
    is_timeout         the run was killed at its deadline: the setting may have changed or not
    """

    def __init__(self, text: str, *, is_not_supported: bool = False, is_timeout: bool = False) -> None:
        super().__init__(text)
        self.is_not_supported = is_not_supported
        self.is_timeout = is_timeout


@dataclass(frozen=True, slots=True)
class NvidiaSmi:
    """The `nvidia-smi` of a driver root.

    program   its path, as this program sees it
    library   libnvidia-ml.so.1, preloaded into each run: the loader's own search would look outside the driver root
    """

    host: Host
    program: str
    library: str

    async def set_time_slice(self, uuid: str, time_slice: int, *, timeout_s: float = _DEADLINE_S) -> None:
        """Set the time slice of a GPU: 0 default, 1 short, 2 medium, 3 long. Raises NvidiaSmiError."""
        arguments = ("compute-policy", "-i", uuid, "--set-timeslice", str(time_slice))
        await self._run("error setting time slice", arguments, timeout_s)

    async def read_time_slices(self, *, timeout_s: float = _DEADLINE_S) -> Mapping[int, int]:
        """Return the time slice of each GPU by NVML's index, which is nvidia-smi's; a GPU that refused is missing.

        Raises NvidiaSmiError if no GPU answered.
        """
        what, arguments = "error reading time slices", ("compute-policy", "-l")
        finished = await self._finish(what, arguments, timeout_s)
        listed = _ROW.findall(finished.stdout.decode(errors="replace"))
        numbers = {name.lower(): number for name, number in INTERVALS.items()}
        found = {int(index): numbers[value.lower()] for index, value in listed if value.lower() in numbers}
        if not found:
            raise self._failure(what, arguments, finished)
        return found

    async def set_compute_mode(self, uuid: str, mode: ComputeMode, *, timeout_s: float = _DEADLINE_S) -> None:
        """Set the compute mode of a GPU. Raises NvidiaSmiError."""
        await self._run("error setting compute mode", ("-i", uuid, "-c", mode), timeout_s)

    async def read_compute_modes(
        self, uuids: Iterable[str], *, timeout_s: float = _DEADLINE_S
    ) -> Mapping[str, ComputeMode]:
        """Return the compute mode of each of these GPUs, as `set_compute_mode` takes it. Raises NvidiaSmiError."""
        what = "error reading compute modes"
        arguments = ("-i", ",".join(uuids), "--query-gpu=uuid,compute_mode", "--format=csv,noheader")
        finished = await self._finish(what, arguments, timeout_s)
        if finished.exit_code != 0:
            raise self._failure(what, arguments, finished)
        rows = (line.partition(",") for line in finished.stdout.decode(errors="replace").splitlines())
        words = {uuid.strip(): mode.strip().upper() for uuid, _, mode in rows}
        return {uuid: _MODES[mode] for uuid, mode in words.items() if mode in _MODES}

    async def read_persistence_mode(self, gpu: str, *, timeout_s: float = _DEADLINE_S) -> bool | None:
        """Return whether the mode is on; None where nvidia-smi does not tell. Raises NvidiaSmiError.

        gpu   UUID or PCI address
        """
        what = "error reading persistence mode"
        arguments = ("-i", gpu, "--query-gpu=persistence_mode", "--format=csv,noheader")
        finished = await self._finish(what, arguments, timeout_s)
        if finished.exit_code != 0:
            raise self._failure(what, arguments, finished)
        return {"enabled": True, "disabled": False}.get(finished.stdout.decode(errors="replace").strip().lower())

    async def set_persistence_mode(
        self, gpu: str, on: bool, root: DriverRoot, *, timeout_s: float = _DEADLINE_S
    ) -> None:
        """Turn the persistence mode of a GPU on or off. Raises NvidiaSmiError.

        root   its persistence daemon is asked, which alone can let go of the GPU that it keeps open
        """
        arguments = ("-i", gpu, "-pm", str(int(on)))
        if root.path != "/" and self.host.exists(root.below(_DAEMON)):
            # nvidia-smi reaches the daemon by a fixed path.
            argv = ["chroot", root.path, root.inside(self.program), *arguments]
            with contextlib.suppress(OSError, TimeoutError):
                if (await self.host.spawn(argv, timeout_s=timeout_s)).exit_code == 0:
                    return
        await self._run("error setting persistence mode", arguments, timeout_s)

    async def _run(self, what: str, arguments: tuple[str, ...], timeout_s: float) -> None:
        finished = await self._finish(what, arguments, timeout_s)
        # If a GPU does not support a compute mode, nvidia-smi only warns: the exit status is 0.
        if finished.exit_code != 0 or _NOT_SUPPORTED.search(_said(finished)):
            raise self._failure(what, arguments, finished)

    async def _finish(self, what: str, arguments: tuple[str, ...], timeout_s: float) -> Finished:
        preloaded = os.environ.get("LD_PRELOAD", "")
        environ = {**os.environ, "LD_PRELOAD": f"{self.library}:{preloaded}".rstrip(":")}
        try:
            return await self.host.spawn([self.program, *arguments], env=environ, timeout_s=timeout_s)
        except TimeoutError:
            cause = f"no answer within {timeout_s:g} s, killed; a driver that hangs shows in `dmesg`"
            raise NvidiaSmiError(self._text(what, arguments, cause), is_timeout=True) from None
        except OSError as error:
            raise NvidiaSmiError(self._text(what, arguments, error.strerror or str(error))) from None

    def _failure(self, what: str, arguments: tuple[str, ...], finished: Finished) -> NvidiaSmiError:
        said = _said(finished)
        cause = f"exit status {finished.exit_code}" if finished.exit_code >= 0 else f"signal {-finished.exit_code}"
        refused = finished.exit_code == _NOT_SUPPORTED_STATUS or _NOT_SUPPORTED.search(said) is not None
        return NvidiaSmiError(self._text(what, arguments, cause, said[:_MOST_SAID]), is_not_supported=refused)

    def _text(self, what: str, arguments: tuple[str, ...], cause: str, said: str = "") -> str:
        # DROP-IN: the text up to the cause.
        text = f"{what}: error running nvidia-smi: {cause} ({self.program} {' '.join(arguments)})"
        return f"{text}: {said}" if said else text


def find_nvidia_smi(host: Host, root: DriverRoot) -> NvidiaSmi:
    """Return the `nvidia-smi` of a driver root. Raises DriverFileMissing."""
    return NvidiaSmi(host, find_program(host, root, "nvidia-smi"), find_library(host, root))


def _said(finished: Finished) -> str:
    """The output of a run, in one line."""
    return " ".join((finished.stdout + b"\n" + finished.stderr).decode(errors="replace").split())
