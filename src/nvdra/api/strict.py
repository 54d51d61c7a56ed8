"""Strict JSON decoding by a table of fields: exact keys, no unknown and no duplicate fields.

Unknown and duplicate fields are collected in the order of the text and reported together, with dotted paths;
a value of the wrong type is reported alone, at once. Both as the Go library does.
Source: sigs.k8s.io/json, UnmarshalStrict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
Reader = Callable[[Any, str, dict[str, None]], Any]
"""(a value, its path, fields that are unknown or there twice) → what it reads."""


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
            found = _string(member, key, {})
    return found


def reader(shape: Shape) -> Reader:
    """A shape compiled for `read`, so that field types are looked up only once."""
    if isinstance(shape, str):
        return _LEAVES[shape]
    if isinstance(shape, MapOf):
        return _map_reader(_LEAVES[shape.value])
    return _struct_reader({name: reader(of) for name, of in shape.items()})


def read(reader: Reader, value: object) -> dict[str, Any]:
    """The fields of an object that the reader's shape describes; absent and null fields are left out.

    Raises DecodeError.
    """
    odd: dict[str, None] = {}
    fields: dict[str, Any] = reader(value, "", odd)
    if odd:
        raise DecodeError("strict decoding error: " + ", ".join(odd))
    return fields


def _struct_reader(readers: Mapping[str, Reader]) -> Reader:
    def read_struct(value: object, path: str, odd: dict[str, None]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        seen: set[str] = set()
        for name, member in _pairs(value, path):
            where = f"{path}.{name}" if path else name
            read_field = readers.get(name)
            if read_field is None:
                odd[f'unknown field "{where}"'] = None
                continue
            if name in seen:
                odd[f'duplicate field "{where}"'] = None
            seen.add(name)
            if member is not None:
                fields[name] = read_field(member, where, odd)
        return fields

    return read_struct


def _map_reader(read_member: Reader) -> Reader:
    def read_map(value: object, path: str, odd: dict[str, None]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for name, member in _pairs(value, path):
            where = f"{path}.{name}"
            if name in members:
                odd[f'duplicate field "{where}"'] = None
            members[name] = read_member(member, where, odd)
        return members

    return read_map


def _pairs(value: object, path: str) -> _Object:
    if isinstance(value, _Object):
        return value
    raise DecodeError(f"json: cannot unmarshal {_kind(value)} into field {path} of type object")


def _string(value: object, path: str, _odd: dict[str, None]) -> str:
    if type(value) is str:
        return value
    raise _wrong(value, path, "string")


def _boolean(value: object, path: str, _odd: dict[str, None]) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong(value, path, "bool")


def _integer(value: object, path: str, _odd: dict[str, None]) -> int:
    if not isinstance(value, _Number):
        raise _wrong(value, path, "int")
    if value.lstrip("-").isdigit() and len(value) <= 20 and -(2**63) <= int(value) < 2**63:
        return int(value)
    raise DecodeError(f"json: cannot unmarshal number {value} into field {path} of type int")


def _quantity(value: object, path: str, _odd: dict[str, None]) -> quantity.Quantity:
    if value is None:
        return quantity.Quantity(0)
    try:
        # Strings and numbers alike; what is neither never matches.
        return quantity.parse(value if isinstance(value, str) else "")
    except ValueError as no:
        raise DecodeError(f"{path}: {no}") from None


_LEAVES: Mapping[Leaf, Reader] = {"string": _string, "int": _integer, "bool": _boolean, "quantity": _quantity}


def _wrong(value: object, path: str, leaf: Leaf) -> DecodeError:
    return DecodeError(f"json: cannot unmarshal {_kind(value)} into field {path} of type {leaf}")


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
