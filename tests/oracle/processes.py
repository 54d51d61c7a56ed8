"""Runs the oracle and the engine as line filters: a case in, an answer out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]


class Answerer:
    """One program that answers cases in the order in which it gets them."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def send(self, line: bytes) -> None:
        """Writes one case. The answer must be read before many more are sent."""
        assert self._process.stdin
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def receive(self) -> Json:
        """Returns the next answer."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self._process.args!r} ended before it answered; its exit status is {self._process.wait()}"
            )
        answer: Json = json.loads(line)
        return answer


def ask(programs: Sequence[Answerer], case: Json) -> list[Json]:
    """Returns each program's answer to one case."""
    line = json.dumps(case).encode() + b"\n"
    for one in programs:
        one.send(line)
    return [one.receive() for one in programs]
