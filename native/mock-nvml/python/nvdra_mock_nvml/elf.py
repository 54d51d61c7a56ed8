"""Shared objects without a compiler: small ones with a soname, and changes to a compiled one."""

import platform
import struct

_MACHINES = {"x86_64": 62, "aarch64": 183}
_SHT_DYNAMIC, _SHT_DYNSYM, _SHT_STRTAB, _SHT_HASH = 6, 11, 3, 5
_DT_NULL, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME, _DT_DEBUG = 0, 4, 5, 6, 10, 11, 14, 21
_EHDR, _PHDR, _SHDR = 64, 56, 64


class ElfError(Exception):
    """The file is no ELF shared object, or has not what should be changed."""


def shared_object(soname: str, machine: str = platform.machine()) -> bytes:
    """A 64-bit shared object with this soname and nothing in it; the loader takes it."""
    strings = b"\0" + soname.encode() + b"\0"
    names = b"\0.hash\0.dynsym\0.dynstr\0.dynamic\0.shstrtab\0"
    hash_at = _EHDR + 2 * _PHDR
    symbols_at = hash_at + 16
    strings_at = symbols_at + 24
    dynamic_at = (strings_at + len(strings) + 15) // 16 * 16
    entries = [(_DT_SONAME, 1), (_DT_HASH, hash_at), (_DT_STRTAB, strings_at), (_DT_SYMTAB, symbols_at)]
    entries += [(_DT_STRSZ, len(strings)), (_DT_SYMENT, 24), (_DT_NULL, 0)]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    names_at = dynamic_at + len(dynamic)
    sections_at = (names_at + len(names) + 7) // 8 * 8

    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQI", 3, _MACHINES[machine], 1, 0, _EHDR, sections_at, 0)
    header += struct.pack("<HHHHHH", _EHDR, _PHDR, 2, _SHDR, 6, 5)
    loaded = dynamic_at + len(dynamic)
    load = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, loaded, loaded, 0x1000)
    dyn = struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8)

    def section(name: bytes, kind: int, at: int, size: int, link: int, align: int, entry: int) -> bytes:
        offset = names.index(b"\0" + name + b"\0") + 1
        first_global = 1 if kind == _SHT_DYNSYM else 0
        return struct.pack("<IIQQQQIIQQ", offset, kind, 2, at, at, size, link, first_global, align, entry)

    sections = bytes(_SHDR)
    sections += section(b".hash", _SHT_HASH, hash_at, 16, 2, 4, 4)
    sections += section(b".dynsym", _SHT_DYNSYM, symbols_at, 24, 3, 8, 24)
    sections += section(b".dynstr", _SHT_STRTAB, strings_at, len(strings), 0, 1, 0)
    sections += section(b".dynamic", _SHT_DYNAMIC, dynamic_at, len(dynamic), 3, 8, 16)
    sections += section(b".shstrtab", _SHT_STRTAB, names_at, len(names), 0, 1, 0)

    body = header + load + dyn + struct.pack("<IIII", 1, 1, 0, 0) + bytes(24) + strings
    body = body.ljust(dynamic_at, b"\0") + dynamic + names
    return body.ljust(sections_at, b"\0") + sections


def without_soname(library: bytes) -> bytes:
    """The library with its soname entry turned into one that loaders pass over."""
    changed = bytearray(library)
    for at, size in _sections(library, _SHT_DYNAMIC):
        for entry in range(at, at + size, 16):
            if struct.unpack_from("<Q", library, entry)[0] == _DT_SONAME:
                struct.pack_into("<Q", changed, entry, _DT_DEBUG)
                return bytes(changed)
    raise ElfError("the library has no soname")


def without_symbols(library: bytes, hidden: tuple[str, ...]) -> bytes:
    """The library with these exported functions not to be found: an older driver.

    Raises ElfError for a name that is not exported.
    """
    changed = bytearray(library)
    tables = [(at, size) for at, size in _sections(library, _SHT_STRTAB)]
    for name in hidden:
        wanted = b"\0" + name.encode() + b"\0"
        hits = [hit for at, size in tables if (hit := library.find(wanted, at, at + size)) >= 0]
        if not hits:
            raise ElfError(f"the library has no function {name!r}")
        for hit in hits:
            changed[hit + 1] = ord("-")
    return bytes(changed)


def _sections(library: bytes, kind: int) -> list[tuple[int, int]]:
    """Offset and size of the sections of this kind."""
    if library[:5] != b"\x7fELF\x02":
        raise ElfError("not a 64-bit ELF file")
    (sections_at,) = struct.unpack_from("<Q", library, 40)
    entry, count = struct.unpack_from("<HH", library, 58)
    found = []
    for index in range(count):
        header = struct.unpack_from("<IIQQQQIIQQ", library, sections_at + index * entry)
        if header[1] == kind:
            found.append((header[4], header[5]))
    return found
