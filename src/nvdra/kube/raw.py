"""JSON cut into pieces without being rewritten: what a list or a watch holds keeps its very bytes.

A number's notation and a doubled key are part of a claim's config; a parser that builds and prints again loses both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_decode = json.JSONDecoder().raw_decode
_space = re.compile(r"[ \t\n\r]*").match


def members(document: bytes) -> dict[str, bytes]:
    """An object's members: name to raw value; of a doubled name the last. ValueError if it is no JSON object."""
    text = document.decode()
    found: dict[str, bytes] = {}
    ends = _skip(text, 0)
    for name, start, ends in _members(text):
        found[name] = text[start:ends].encode()
    if text[text.find("}", ends) + 1 :].strip():
        raise ValueError("something follows the object")
    return found


def items(document: bytes) -> tuple[bytes, ...]:
    """The raw elements of a list object's `items`; () if it has none."""
    text = document.decode()
    for name, start, _ in _members(text):
        if name == "items":
            return tuple(text[a:b].encode() for a, b in _elements(text, start))
    return ()


def _members(text: str) -> Iterator[tuple[str, int, int]]:
    at = _expect(text, 0, "{")
    if text[at : at + 1] == "}":
        return
    while True:
        name, at = _decode(text, at)
        if not isinstance(name, str):
            raise ValueError(f"a member's name is a string, not {name!r}")
        start = _expect(text, at, ":")
        _, end = _decode(text, start)
        yield name, start, end
        at = _skip(text, end)
        if text[at : at + 1] == "}":
            return
        at = _expect(text, at, ",")


def _elements(text: str, start: int) -> Iterator[tuple[int, int]]:
    if text.startswith("null", start):
        return
    at = _expect(text, start, "[")
    if text[at : at + 1] == "]":
        return
    while True:
        _, end = _decode(text, at)
        yield at, end
        at = _skip(text, end)
        if text[at : at + 1] == "]":
            return
        at = _expect(text, at, ",")


def _skip(text: str, at: int) -> int:
    found = _space(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, mark: str) -> int:
    """The position of what follows `mark`."""
    at = _skip(text, at)
    if text[at : at + 1] != mark:
        raise ValueError(f"expected {mark!r} at position {at}")
    return _skip(text, at + 1)
