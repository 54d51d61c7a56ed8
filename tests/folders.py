"""Folders that a running program writes to, as tests read them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Content of each regular file in the folder, by name.

    A file that vanishes between the listing and the read is left out: a writer renamed its temporary file, or a sweep
    removed one.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found[path.name] = path.read_bytes()
    return found
