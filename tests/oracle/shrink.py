"""Makes a failing case smaller as long as it still fails."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from .processes import Json

Path = tuple[Any, ...]

_KEEP = {"id", "kind"}


def shrink(case: Json, fails: Callable[[Json], bool], rounds: int = 400) -> Json:
    """Returns the smallest case found within `rounds` trials."""
    progress = True
    while progress and rounds > 0:
        progress = False
        for path in sorted(_paths(case), key=len):
            smaller = _without(case, path)
            if smaller is None:
                continue
            rounds -= 1
            if rounds <= 0:
                break
            if fails(smaller):
                case = smaller
                progress = True
                break
    return case


def _paths(value: Any, at: Path = ()) -> Iterator[Path]:
    items: Any = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        if not at and key in _KEEP:
            continue
        yield (*at, key)
        yield from _paths(inner, (*at, key))


def _without(case: Json, path: Path) -> Json | None:
    smaller = copy.deepcopy(case)
    target: Any = smaller
    try:
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]
    except (KeyError, IndexError, TypeError):
        return None
    return smaller
