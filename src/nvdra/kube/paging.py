"""How many objects of a LIST are asked for at a time, so that an answer stays small whatever the objects weigh.

A server limits pages by objects alone, and one object may weigh more than a megabyte.
"""

from __future__ import annotations

# An answer beyond this is cut off, and the page asked for again with fewer objects.
MOST_BYTES = 16 << 20
_WANTED_BYTES = 4 << 20
_FIRST, _MOST = 32, 500
# Objects come in the order of their names: those of the next page may be heavier than all before them.
_GROWTH = 4


class PageSize:
    """The `limit` of the next page."""

    def __init__(self) -> None:
        self.limit = _FIRST

    def took(self, size: int, objects: int) -> None:
        """A page came: what it weighed tells how many such objects make one of the size wanted."""
        fitting = _WANTED_BYTES * objects // max(size, 1)
        self.limit = max(1, min(fitting, self.limit * _GROWTH, _MOST))

    def shrink(self) -> bool:
        """A page was too large. Whether fewer objects can be asked for."""
        is_smaller, self.limit = self.limit > 1, max(1, self.limit // 8)
        return is_smaller
