"""Splits JSON into raw pieces without parsing them, so that objects of a list or a watch keep their exact bytes.

The notation of numbers and doubled keys are part of a claim's config, and another driver's config may be too deep or
malformed for a parser. Such a piece is no problem unless it is read.
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
