"""Chooses the page size of a LIST, so that an answer stays small for objects of any size.

A server limits pages only by the number of objects, and one object may have more than a megabyte.
"""

from __future__ import annotations

# A larger answer is cut off, and the page is requested again with fewer objects.
MOST_BYTES = 16 << 20
_WANTED_BYTES = 4 << 20
_FIRST, _MOST = 32, 500
# Objects are ordered by name, so those of the next page may be larger than all before.
_GROWTH = 4


class PageSize:
    """The `limit` of the next page."""

    def __init__(self) -> None:
        self.limit = _FIRST

    def took(self, size: int, objects: int) -> None:
        """Adapt the limit to the average size of the objects of a page that was received."""
        fitting = _WANTED_BYTES * objects // max(size, 1)
        self.limit = max(1, min(fitting, self.limit * _GROWTH, _MOST))

    def shrink(self) -> bool:
        """Reduce the limit after a page that was too large; whether that is possible."""
        is_smaller, self.limit = self.limit > 1, max(1, self.limit // 8)
        return is_smaller
