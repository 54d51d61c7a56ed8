"""Reads the SONAME of a shared library with a few small reads, because the driver's libraries have up to 100 MB.

Source: System V ABI, chapters 4 and 5 (object files, dynamic linking).
"""

from __future__ import annotations

import struct

from nvdra.ports import Host

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")

_LOAD, _DYNAMIC_SEGMENT = 1, 2
_END, _STRINGS, _SONAME = 0, 5, 14
_MOST_DYNAMIC = 64 * 1024  # bytes of a dynamic section; real ones have some hundred entries of 16
_MOST_NAME = 256
_MOST_OFFSET = 1 << 40


class UnreadableElf(Exception):
    """Not a 64-bit little-endian ELF file, or a damaged one."""


def soname(host: Host, path: str) -> str | None:
    """The library's SONAME; None if it has none. Raises UnreadableElf, OSError."""
    header = host.read(path, size=_HEADER.size)
    # 64 bit, little endian: the only kind the driver has on the machines it runs on.
    if len(header) < _HEADER.size or header[:6] != b"\x7fELF\x02\x01":
        raise UnreadableElf(path)
    _, _, _, _, _, at, _, _, _, size, count, _, _, _ = _HEADER.unpack(header)
    if size != _SEGMENT.size or count > 512:
        raise UnreadableElf(path)
    table = _read(host, path, at, size * count)
    segments = [_SEGMENT.unpack_from(table, i) for i in range(0, len(table) - size + 1, size)]

    for kind, _, offset, _, _, length, _, _ in segments:
        if kind == _DYNAMIC_SEGMENT:
            dynamic = _read(host, path, offset, min(length, _MOST_DYNAMIC))
            break
    else:
        return None
    entries: dict[int, int] = {}
    for i in range(0, len(dynamic) - _DYNAMIC.size + 1, _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(dynamic, i)
        if tag == _END:
            break
        entries.setdefault(tag, value)
    if _SONAME not in entries:
        return None
    if _STRINGS not in entries:
        raise UnreadableElf(path)

    for kind, _, offset, address, _, length, _, _ in segments:
        within = entries[_STRINGS] - address
        if kind == _LOAD and 0 <= within < length:
            name = _read(host, path, offset + within + entries[_SONAME], _MOST_NAME)
            text, end, _ = name.partition(b"\0")
            if not end:
                raise UnreadableElf(path)
            return text.decode(errors="replace")
    raise UnreadableElf(path)


def _read(host: Host, path: str, offset: int, size: int) -> bytes:
    if offset > _MOST_OFFSET:  # no file has such an offset, and system calls refuse it
        raise UnreadableElf(path)
    return host.read(path, offset=offset, size=size)
