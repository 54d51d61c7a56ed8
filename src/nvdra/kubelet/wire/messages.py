"""Protocol buffers by hand: kubelet's few small messages (../../../../proto), as bytes to values and back.

A runtime for messages would cost every node 2 MiB for what is a page of code. Tests hold it to the generated classes.
Unknown fields are skipped, as every reader of protocol buffers does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class MessageError(ValueError):
    """Bytes that are not the message they should be."""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers with their values in order: numbers for varints, bytes for everything else."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise MessageError("field number 0")
        if kind == 2:
            length, at = _varint(data, at)
            if at + length > end:
                raise MessageError("a field longer than its message")
            yield number, data[at : at + length]
            at += length
        elif kind == 0:
            value, at = _varint(data, at)
            yield number, value
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            if at + size > end:
                raise MessageError("a field longer than its message")
            yield number, data[at : at + size]
            at += size
        else:
            raise MessageError(f"wire type {kind}")


def text(value: int | bytes) -> str:
    """A string field's value."""
    if isinstance(value, int):
        raise MessageError("a number where a string belongs")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MessageError("a string that is not UTF-8") from None


def message(value: int | bytes) -> bytes:
    """An embedded message's bytes."""
    if isinstance(value, int):
        raise MessageError("a number where a message belongs")
    return value


def number(value: int | bytes) -> int:
    """A varint field's value."""
    if not isinstance(value, int):
        raise MessageError("bytes where a number belongs")
    return value


def put(field: int, value: str | bytes | None) -> bytes:
    """A string or message field; None and "" are left out, as proto3 does, but not an empty message."""
    if value is None or value == "":
        return b""
    return put_always(field, value)


def put_always(field: int, value: str | bytes) -> bytes:
    """The same where presence counts: map keys, repeated and optional fields."""
    raw = value.encode() if isinstance(value, str) else value
    return _number(field << 3 | 2) + _number(len(raw)) + raw


def put_each(field: int, values: Iterable[str | bytes]) -> bytes:
    """A repeated field."""
    return b"".join(put_always(field, value) for value in values)


def put_number(field: int, value: int) -> bytes:
    """A varint field; 0 is left out."""
    return _number(field << 3) + _number(value) if value else b""


def entries(data: bytes) -> dict[str, bytes]:
    """A message whose field 1 is a map from strings to messages, which is all our responses are. The last one wins."""
    found: dict[str, bytes] = {}
    for field, value in fields(data):
        if field == 1:
            parts = dict(fields(message(value)))
            found[text(parts.get(1, b""))] = message(parts.get(2, b""))
    return found


def put_entries(by_key: Iterable[tuple[str, bytes]]) -> bytes:
    """The reverse."""
    return b"".join(put_always(1, put_always(1, key) + put_always(2, value)) for key, value in by_key)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    try:
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
            if shift > 63:
                raise MessageError("a number of more than 64 bits")
    except IndexError:
        raise MessageError("a number cut short") from None


def _number(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
