"""The dynamic loader's cache, as ldconfig writes it."""

from __future__ import annotations

import struct


def cache(paths: list[str], flags: int = 0x0303, old: int | None = None) -> bytes:
    """As ldconfig writes it; with `old` entries of the older format in front."""
    strings = b""
    entries = b""
    table_at = 48 + 24 * len(paths)
    for path in paths:
        name = path.rpartition("/")[2].encode() + b"\0"
        key, value = table_at + len(strings), table_at + len(strings) + len(name)
        strings += name + path.encode() + b"\0"
        entries += struct.pack("<iIIIQ", flags, key, value, 0, 0)
    new = b"glibc-ld.so.cache1.1" + struct.pack("<II5I", len(paths), len(strings), 0, 0, 0, 0, 0) + entries + strings
    if old is None:
        return new
    front = b"ld.so-1.7.0\0" + struct.pack("<I", old) + bytes(12 * old)
    return front + bytes(-len(front) % 8) + new
