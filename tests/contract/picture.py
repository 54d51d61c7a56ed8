"""Draws what commands print as SVGs: `python -m tests.contract.picture` makes the pictures of the README anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

from tests.contract import explained

GUIDE = Path(__file__).parents[2] / "docs/guide"
_PROGRAM = [sys.executable, "-c", "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))"]
_FORECAST = ["forecast", "h200x1"]
_FLEETS = ["--nodes=300xh100x8", "--nodes=200xh100x8 --nodes=100xh100x8@DynamicMIG=true"]
_PODS = ["--nodes=200xh100x8", "--mix=mixed", "--pods=20000", "--rate=210"]
_WIDTH, _HEIGHT, _MARGIN = 7.25, 17, 16
_BOLD = ("ml/eval:", "why", "what would help", "nodes")


def svg(command: str, text: str) -> str:
    """Returns a picture of a terminal in which the command has just printed the text."""
    lines = [f"$ {command}", *text.splitlines()]
    width = round(max(map(len, lines)) * _WIDTH + 2 * _MARGIN)
    height = len(lines) * _HEIGHT + 2 * _MARGIN
    rows = [_row(index, line) for index, line in enumerate(lines)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    style = 'font-family="ui-monospace,Menlo,Consolas,monospace" font-size="12" fill="#d8dee9" xml:space="preserve"'
    body = [f'<rect width="{width}" height="{height}" rx="8" fill="#20242c"/>', f"<g {style}>", *rows, "</g>", "</svg>"]
    return "\n".join([head, *body]) + "\n"


def _row(index: int, line: str) -> str:
    weight = ' font-weight="bold" fill="#ffffff"' if not index or line.startswith(_BOLD) else ""
    return f'<text x="{_MARGIN}" y="{_MARGIN + (index + 1) * _HEIGHT - 5}"{weight}>{escape(line)}</text>'


def main() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as dump:
        dump.write(json.dumps(explained.example()))
        dump.flush()
        text = _printed(["claim", "explain", "--from", dump.name, "ml/eval"])
    (GUIDE / "pending-claim.svg").write_text(svg("nvdra claim explain ml/eval", text), encoding="utf-8")
    text = _printed(_FORECAST)
    (GUIDE / "forecast.svg").write_text(svg(f"nvdra {' '.join(_FORECAST)}", text), encoding="utf-8")
    compared = [f"--compare={each}" for each in _FLEETS]
    _printed(["simulate", *_PODS, *compared, f"--plot={GUIDE / 'simulate.svg'}"])


def _printed(argv: list[str]) -> str:
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run([*_PROGRAM, *argv], capture_output=True, text=True, env=environment, check=False).stdout


if __name__ == "__main__":
    main()
