"""Reads the file that the library counts calls in (`src/calls.rs` writes it)."""

from pathlib import Path

_RECORD, _NAME = 64, 56


def read_calls(file: Path) -> dict[str, int]:
    """Calls so far by function, those never called left out; empty while there is no file."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    counts = {}
    for at in range(_RECORD, len(content) - _RECORD + 1, _RECORD):
        name = content[at : at + _NAME].rstrip(b"\0").decode()
        if count := int.from_bytes(content[at + _NAME : at + _RECORD], "little"):
            counts[name] = count
    return counts
