"""Reads the dynamic loader's cache: the libraries that a distribution's loader finds, and their paths.

Source: glibc, sysdeps/generic/dl-cache.h (the format "glibc-ld.so.cache1.1", alone or behind the older one).
"""

from __future__ import annotations

import struct

from nvdra.ports import Host

_OLD = b"ld.so-1.7.0"
_NEW = b"glibc-ld.so.cache1.1"
_OLD_HEADER = 16
_OLD_ENTRY = 12
_HEADER = 48
_ENTRY = struct.Struct("<iIIIQ")  # flags, key, value, OS version, hardware capabilities
_MOST = 16 * 1024 * 1024  # bytes: a real cache has some hundred thousand

_ELF = 0x01
# 64-bit libraries: x86-64, aarch64, and ppc64le for completeness of the table.
_WIDE = frozenset((0x0300, 0x0A00, 0x0500))


def libraries(host: Host, cache: str) -> list[str]:
    """Paths of the 64-bit libraries in a cache file, each once; none if there is no cache or it is damaged."""
    try:
        return parse(host.read(cache, size=_MOST))
    except OSError:
        return []


def parse(content: bytes) -> list[str]:
    start = 0
    if content.startswith(_OLD) and len(content) >= _OLD_HEADER:
        start = _OLD_HEADER + _OLD_ENTRY * int.from_bytes(content[12:16], "little")
        start += -start % 8
    if content[start : start + len(_NEW)] != _NEW or len(content) < start + _HEADER:
        return []
    count = int.from_bytes(content[start + 20 : start + 24], "little")
    entries = content[start + _HEADER : start + _HEADER + count * _ENTRY.size]
    found: dict[str, None] = {}
    for flags, _, value, _, _ in _ENTRY.iter_unpack(entries[: len(entries) // _ENTRY.size * _ENTRY.size]):
        if not flags & _ELF or flags & 0xFF00 not in _WIDE:
            continue
        end = content.find(b"\0", start + value)
        path = content[start + value : end] if end > 0 else b""
        if path.startswith(b"/"):
            found[path.decode(errors="surrogateescape")] = None
    return list(found)
