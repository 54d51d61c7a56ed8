"""JSON cut into pieces that are not read: what a list or a watch holds keeps its very bytes.

A number's notation and a doubled key are part of a claim's config, and a config of another driver may hold what no
parser takes. Neither depth nor odd bytes inside a piece matter before somebody reads that piece.
"""

from __future__ import annotations

from nvdra._core import split_list, split_object


def members(document: bytes) -> dict[str, bytes]:
    """An object's members: name to raw value; of a doubled name the last. ValueError if it is no JSON object."""
    return dict(split_object(document))


def items(document: bytes) -> tuple[bytes, ...]:
    """The raw elements of a list object's `items`; () if it has none. ValueError if it is no such object."""
    return parted(document)[1] or ()


def parted(document: bytes) -> tuple[dict[str, bytes], tuple[bytes, ...] | None]:
    """A list object's members but `items`, and its raw items; None if it has no `items`. ValueError as above."""
    others, found = split_list(document)
    return dict(others), None if found is None else tuple(found)
