"""What the demo prints: steps with their time, coloured on a terminal, plain in a pipe; and the count of its checks."""

from __future__ import annotations

import os
import shutil
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_MARKS = {"ok": "✔", "bad": "✘", "now": "▸", "→": "→", "…": "…", "·": "·", "×": "×", "≈": "≈"}
_PLAIN = {"ok": "ok", "bad": "NOT TRUE", "now": ">", "→": "->", "…": "...", "·": "|", "×": "x", "≈": "~"}
_WIDEST = 100


class NotTrue(Exception):
    """Something the demo was about to claim is not so; the text says what was expected and what was found."""


class Page:
    """Text on a stream.

    checks   how many claims were checked so far
    width    columns to use
    """

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._is_coloured = self._is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        is_unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
        self._marks = _MARKS if is_unicode else _PLAIN
        columns = shutil.get_terminal_size((_WIDEST, 24)).columns if self._is_terminal else _WIDEST
        self.width = max(60, min(columns, _WIDEST))
        self.checks = 0
        self._step = 0
        self._lines: list[str] | None = None

    def must(self, is_true: bool, otherwise: str) -> None:
        """Count a claim; raises NotTrue with `otherwise` if it does not hold."""
        self.checks += 1
        if not is_true:
            raise NotTrue(otherwise)

    def paint(self, text: str, *styles: str) -> str:
        if not self._is_coloured or not text:
            return text
        codes = ";".join(_CODES[style] for style in styles)
        return f"\x1b[{codes}m{text}\x1b[0m"

    def line(self, text: str = "") -> None:
        """A line of the step under way, or of the page if there is none."""
        if self._lines is None:
            self._print(text)
        else:
            self._lines.append(f"    {text}" if text else "")

    def pair(self, name: str, text: str, width: int = 14) -> None:
        """A name and what belongs to it, folded at the page's edge."""
        room = self.width - 4 - width
        for part in textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]:
            self.line(f"{self.paint(name.ljust(width), 'cyan')}{part}")
            name = ""

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as they need; the last one is cut at the page's edge."""
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        room = self.width - 4 - sum(widths[:-1]) - 2 * (len(head) - 1)
        for number, row in enumerate([head, *rows]):
            last = row[-1] if len(row[-1]) <= room else row[-1][: max(room - 1, 8)] + "…"
            cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
            text = "  ".join([*cells, last])
            self.line(self.paint(text, "cyan") if number == 0 else text)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step: its heading with the time it took comes before the lines written meanwhile."""
        self._step += 1
        heading = f"{self._step} {name}"
        if self._is_terminal:
            self._stream.write(f"{self._marks['now']} {heading} {self._marks['…']}")
            self._stream.flush()
        self._lines = []
        began = time.perf_counter()
        mark = self.paint(self._marks["bad"], "red", "bold")
        try:
            yield
            mark = self.paint(self._marks["ok"], "green", "bold")
        finally:
            took = seconds(time.perf_counter() - began)
            lines, self._lines = self._lines, None
            if self._is_terminal:
                self._stream.write("\r\x1b[K" if self._is_coloured else "\r")
            gap = " " * max(2, self.width - len(heading) - len(took) - 2)
            self._print("")
            self._print(f"{mark} {self.paint(heading, 'bold')}{gap}{self.paint(took, 'dim')}")
            for text in lines:
                self._print(text)

    def _print(self, text: str) -> None:
        if self._marks is _PLAIN:
            for mark, plain in _PLAIN.items():
                text = text.replace(mark, plain) if len(mark) == 1 else text
        self._stream.write(f"{text}\n")
        self._stream.flush()


def seconds(duration_s: float) -> str:
    """A duration in the unit that suits it: "0.42 ms", "18 ms", "1.3 s"."""
    if duration_s >= 1:
        return f"{duration_s:.1f} s"
    milliseconds = duration_s * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def tail(path: str, count: int = 20) -> list[str]:
    """The last lines of a file; none if it is not there."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16384))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
