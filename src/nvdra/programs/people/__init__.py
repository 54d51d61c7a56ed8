"""nvdra: the command for people. A word chooses what to do; each word brings its own parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from nvdra import __version__

_WORDS = {
    "demo": ("nvdra.programs.demo:main", "the driver's main job on a node without hardware, checked step by step"),
}


def main(argv: Sequence[str]) -> int:
    """Exit status of the command; 2 if there is no such command."""
    word = argv[0] if argv else "--help"
    if word in ("--help", "-h", "help"):
        print(_help())
        return 0
    if word == "--version":
        print(f"nvdra version v{__version__}")
        return 0
    if word not in _WORDS:
        print(f"Error: nvdra has no command {word!r}; there are {', '.join(_WORDS)} (nvdra --help)", file=sys.stderr)
        return 2
    module, function = _WORDS[word][0].split(":")
    try:
        status: int = getattr(import_module(module), function)(argv[1:])
    except KeyboardInterrupt:
        return 130
    return status


def _help() -> str:
    lines = [f"  nvdra {word:18} {about}" for word, (_, about) in _WORDS.items()]
    return "\n".join(["usage: nvdra COMMAND [OPTIONS]      (nvdra COMMAND --help tells more)", "", *lines])
