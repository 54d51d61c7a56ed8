"""Calls DRA plugins as kubelet does: with a Go program around kubelet's gRPC library, built from `kubelet/`."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nvdra.api import ClaimRef

SOURCE = Path(__file__).with_name("kubelet")
PROGRAM = SOURCE / "caller"  # taken as it is where there is no Go


class Caller:
    """Asks one plugin over one connection that stays open. Every plugin is asked by the same process, as by kubelet."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def prepare_s(self, *calls: Sequence[ClaimRef]) -> float:
        """Seconds until the last of these calls, made at once, is answered. A refusal is the end of the run."""
        return _program().ask(self._socket, calls, unprepare=False)

    def unprepare_s(self, *calls: Sequence[ClaimRef]) -> float:
        return _program().ask(self._socket, calls, unprepare=True)


class _Program:
    """One question at a time; it ends with its standard input."""

    def __init__(self) -> None:
        if shutil.which("go") is not None:
            subprocess.run(["go", "build", "-trimpath", "-o", PROGRAM, "."], cwd=SOURCE, check=True)
        elif not PROGRAM.exists():
            raise SystemExit(f"{PROGRAM} is built with Go, which is not installed")
        self._process = subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._turn = threading.Lock()

    def ask(self, socket: str, calls: Sequence[Sequence[ClaimRef]], *, unprepare: bool) -> float:
        named = [[{"namespace": ref.namespace, "name": ref.name, "uid": ref.uid} for ref in refs] for refs in calls]
        question = json.dumps({"socket": socket, "unprepare": unprepare, "calls": named})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(f"{question}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{PROGRAM} ended")
        answer = json.loads(line)
        if answer["error"]:
            raise SystemExit(f"refused by {socket}: {answer['error']}")
        seconds: float = answer["seconds"]
        return seconds


@cache
def _program() -> _Program:
    return _Program()
