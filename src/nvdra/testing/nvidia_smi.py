"""FakeNvidiaSmi: `nvidia-smi` for a FakeHost, with time slices and compute modes of its GPUs; it fails on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from nvdra.ports import Finished

T = TypeVar("T")
Command = Literal["list", "query", "time slice", "compute mode", "persistence mode"]

_RULE = "+-------------------------------------+\n"
_HEAD = f"{_RULE}| GPU compute policies:               |\n| GPU     Name           Value        |\n|{'=' * 37}|\n"
_SLICES = ("Default", "Short", "Medium", "Long")
_MODES = ("DEFAULT", "EXCLUSIVE_THREAD", "PROHIBITED", "EXCLUSIVE_PROCESS")


@dataclass(frozen=True, slots=True)
class _Fault:
    command: Command
    uuid: str
    exit_code: int
    said: str
    is_hang: bool
    does_work: bool


class FakeNvidiaSmi:
    """A program for `FakeHost.programs["nvidia-smi"]`; it stays as it is when the host is revived.

    time_slices     by UUID, in the order of the indices: 0 default, 1 short, 2 medium, 3 long
    compute_modes   by UUID
    persistence     whether the mode is on, by PCI address: of GPUs that the driver has
    runs            the arguments of each run, those that failed included
    """

    def __init__(self, uuids: Sequence[str]) -> None:
        self.time_slices = dict.fromkeys(uuids, 0)
        self.compute_modes = dict.fromkeys(uuids, "DEFAULT")
        self.persistence: dict[str, bool] = {}
        self.runs: list[tuple[str, ...]] = []
        self._faults: list[_Fault] = []

    def fail(
        self,
        command: Command,
        uuid: str = "",
        *,
        exit_code: int = 3,
        said: str = "Not Supported",
        is_hang: bool = False,
        does_work: bool = False,
    ) -> None:
        """Let a command fail from now on, for one GPU or for all.

        is_hang     it never ends and is killed
        does_work   what was asked for happens all the same
        """
        self._faults.append(_Fault(command, uuid, exit_code, said, is_hang, does_work))

    def forgive(self) -> None:
        """Let every command succeed again."""
        self._faults.clear()

    def __call__(self, argv: Sequence[str]) -> Finished:
        words = tuple(argv[1:])
        self.runs.append(words)
        match words:
            case ("compute-policy", "-l"):
                return self._list()
            case ("compute-policy", "-i", uuid, "--set-timeslice", number) if number in ("0", "1", "2", "3"):
                return self._set("time slice", self.time_slices, uuid, int(number))
            case ("-i", uuids, "--query-gpu=uuid,compute_mode", "--format=csv,noheader"):
                return self._query(uuids.split(","))
            case ("-i", uuid, "-c", mode) if mode in _MODES:
                return self._set("compute mode", self.compute_modes, uuid, mode)
            case ("-i", gpu, "--query-gpu=persistence_mode", "--format=csv,noheader") if gpu in self.persistence:
                return Finished(0, b"Enabled\n" if self.persistence[gpu] else b"Disabled\n", b"")
            case ("-i", gpu, "-pm", "0" | "1" as mode):
                return self._set("persistence mode", self.persistence, gpu, mode == "1")
            case ("-i", _, "--query-gpu=persistence_mode", _):
                return Finished(6, b"No devices were found\n", b"")
        return Finished(2, f"Invalid combination of input arguments: {words}\n".encode(), b"")

    def _list(self) -> Finished:
        rows, status = "", 0
        for index, (uuid, number) in enumerate(self.time_slices.items()):
            fault = self._strikes("list", uuid)
            if fault is None:
                rows += f"| {index:>3}   {'Timeslice':<15} {_SLICES[number]:<13} |\n"
            else:
                status = _end(fault).exit_code
        return Finished(status, f"{_HEAD}{rows}{_RULE}".encode(), b"")

    def _query(self, uuids: Sequence[str]) -> Finished:
        for uuid in uuids:
            if uuid not in self.compute_modes:
                return Finished(6, b"No devices were found\n", b"")
            if (fault := self._strikes("query", uuid)) is not None:
                return _end(fault)
        rows = "".join(f"{uuid}, {self.compute_modes[uuid].title()}\n" for uuid in uuids)
        return Finished(0, rows.encode(), b"")

    def _set(self, command: Command, settings: dict[str, T], uuid: str, value: T) -> Finished:
        if uuid not in settings:
            return Finished(6, b"No devices were found\n", b"")
        fault = self._strikes(command, uuid)
        if fault is None or fault.does_work:
            settings[uuid] = value
        return Finished(0, b"All done.\n", b"") if fault is None else _end(fault)

    def _strikes(self, command: Command, uuid: str) -> _Fault | None:
        return next((fault for fault in self._faults if fault.command == command and fault.uuid in ("", uuid)), None)


def _end(fault: _Fault) -> Finished:
    if fault.is_hang:
        raise TimeoutError("nvidia-smi did not end in time and was killed")
    return Finished(fault.exit_code, f"{fault.said}\n".encode(), b"")
