"""A program's answer on standard output, where there may be no room, and nobody may read."""

from __future__ import annotations

import contextlib
import os
import sys

from nvdra import __version__


def give(program: str, text: str) -> int:
    """Print the program's whole answer. Exit status: 141 if nobody reads it, 2 if it cannot be written."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        drop_output()
        return 141
    except OSError as error:
        drop_output()
        print(f"Error: {program}: its answer cannot be written: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def version(program: str) -> str:
    """The answer to --version."""
    return f"{program} version v{__version__}\ncommit: {os.environ.get('NVDRA_COMMIT', 'unknown')}\n"


def drop_output() -> None:
    """Lead standard output nowhere: the interpreter's own last flush must not fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
