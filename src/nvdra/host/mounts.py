"""Mounts of this process's mount namespace: a tmpfs put on a folder, taken off again, and what is mounted where.

Python has no call for mounting. The C library's is called where it is needed, so that no other start pays for `ctypes`.
"""

from __future__ import annotations

import errno
import os
import re

TABLE = "/proc/self/mountinfo"

# Source: Linux, include/uapi/linux/mount.h.
_NOSUID, _NODEV, _NOEXEC, _RELATIME = 2, 4, 8, 1 << 21
_DETACH = 2

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def count(table: bytes, path: str) -> int:
    """How many file systems are mounted on `path` itself, given `/proc/self/mountinfo`."""
    wanted = os.fsencode(path)
    fields = (line.split(b" ", 5) for line in table.splitlines())
    return sum(len(each) > 4 and _ESCAPE.sub(_unescaped, each[4]) == wanted for each in fields)


def mount_tmpfs(place: str, size: str) -> None:
    """Mount a tmpfs with the Go driver's source and options. Raises OSError."""
    _call(
        "mount",
        b"shm",
        os.fsencode(place),
        b"tmpfs",
        _NOSUID | _NODEV | _NOEXEC | _RELATIME,
        f"size={size}".encode(),
        place=place,
    )


def unmount(place: str) -> None:
    """Take the last mount off; files that are still open stay readable until they are closed. Raises OSError."""
    _call("umount2", os.fsencode(place), _DETACH, place=place)


def _call(name: str, *arguments: bytes | int, place: str) -> None:
    import ctypes  # 1 MiB that only nodes with MPS pay for

    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.argtypes = [ctypes.c_ulong if isinstance(each, int) else ctypes.c_char_p for each in arguments]
    if function(*arguments) != 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number), place)


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1], 8),))
