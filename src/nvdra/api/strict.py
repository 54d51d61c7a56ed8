"""Strict decoding of JSON by a table of fields: exact keys, nothing unknown, nothing twice.

Unknown and duplicate fields are collected in the order of the text and reported together, with dotted paths;
a value of the wrong type is reported alone, at once. Both as the Go library does.
Source: sigs.k8s.io/json, UnmarshalStrict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nvdra.api import quantity

Leaf = Literal["string", "int", "bool", "quantity"]


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object with free keys, every value of one type."""

    value: Leaf


Struct = Mapping[str, "Leaf | MapOf | Struct"]
Shape = Leaf | MapOf | Struct


class DecodeError(ValueError):
    """JSON that does not fit; the text says where."""


class _Object(list[tuple[str, Any]]):
    """A JSON object as written: every pair, in order."""


class _Number(str):
    """A JSON number as written."""


def parse(data: bytes) -> object:
    """The JSON value in `data`, kept as written. Raises DecodeError."""
    try:
        text = data.decode()
        return (_decoder if "\\u" not in text else _mending_decoder).decode(text)
    except (ValueError, RecursionError) as odd:
        raise DecodeError(str(odd)) from None


def top_text(value: object, key: str) -> str:
    """A text at the top of a document, "" if absent; the last one counts. Raises DecodeError for another type."""
    if value is None:
        return ""
    if not isinstance(value, _Object):
        raise DecodeError(f"json: cannot unmarshal {_kind(value)} into an object")
    found = ""
    for name, member in value:
        if name == key and member is not None:
            found = _leaf("string", member, key)
    return found


def read(shape: Struct, value: object) -> dict[str, Any]:
    """The fields of an object that `shape` describes; absent and null fields are left out.

    Raises DecodeError.
    """
    odd: dict[str, None] = {}
    fields = _struct(shape, value, "", odd)
    if odd:
        raise DecodeError("strict decoding error: " + ", ".join(odd))
    return fields


def _struct(shape: Struct, value: object, path: str, odd: dict[str, None]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    seen: set[str] = set()
    for name, member in _pairs(value, path):
        where = f"{path}.{name}" if path else name
        if name not in shape:
            odd[f'unknown field "{where}"'] = None
            continue
        if name in seen:
            odd[f'duplicate field "{where}"'] = None
        seen.add(name)
        if member is not None:
            fields[name] = _value(shape[name], member, where, odd)
    return fields


def _value(shape: Shape, value: object, path: str, odd: dict[str, None]) -> object:
    if isinstance(shape, MapOf):
        members: dict[str, object] = {}
        for name, member in _pairs(value, path):
            where = f"{path}.{name}"
            if name in members:
                odd[f'duplicate field "{where}"'] = None
            members[name] = _leaf(shape.value, member, where)
        return members
    if isinstance(shape, str):
        return _leaf(shape, value, path)
    return _struct(shape, value, path, odd)


def _pairs(value: object, path: str) -> _Object:
    if isinstance(value, _Object):
        return value
    raise DecodeError(f"json: cannot unmarshal {_kind(value)} into field {path} of type object")


def _leaf(shape: Leaf, value: object, path: str) -> Any:
    match shape:
        case "string" if isinstance(value, str) and not isinstance(value, _Number):
            return value
        case "bool" if isinstance(value, bool):
            return value
        case "int" if isinstance(value, _Number):
            if value.lstrip("-").isdigit() and len(value) <= 20 and -(2**63) <= int(value) < 2**63:
                return int(value)
            raise DecodeError(f"json: cannot unmarshal number {value} into field {path} of type int")
        case "quantity":
            if value is None:
                return quantity.Quantity(0)
            try:
                # Strings and numbers alike; what is neither never matches.
                return quantity.parse(value if isinstance(value, str) else "")
            except ValueError as no:
                raise DecodeError(f"{path}: {no}") from None
    raise DecodeError(f"json: cannot unmarshal {_kind(value)} into field {path} of type {shape}")


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case _Number():
            return "number"
        case str():
            return "string"
        case _Object():
            return "object"
    return "array"


def _no_constant(text: str) -> object:
    raise ValueError(f"invalid character {text[0]!r} looking for beginning of value")


def _whole(value: Any) -> Any:
    """The value; half a surrogate pair in a text becomes U+FFFD as in Go: an error that quotes it must be sendable."""
    if type(value) is not str or value.isascii():
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _mended(pairs: list[tuple[str, Any]]) -> _Object:
    return _Object((_whole(name), _whole(value)) for name, value in pairs)


# Made once: that takes as long as reading a config. Half a pair cannot come but from an escape.
_decoder, _mending_decoder = (
    json.JSONDecoder(object_pairs_hook=hook, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant)
    for hook in (_Object, _mended)
)
