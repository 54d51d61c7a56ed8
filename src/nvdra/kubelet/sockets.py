"""Unix sockets that other processes find by name: paths, liveness, ownership.

A socket is bound under a name with a leading dot, which kubelet's watcher skips, and renamed once it accepts:
kubelet sees one event, for a socket that already answers. Only what this process bound is ever removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fnmatch
import os
import socket
import stat
from dataclasses import dataclass
from enum import Enum


class SocketPathError(OSError):
    """A socket cannot be created at its path. The text is for users."""


class Life(Enum):
    """The result of a connection attempt."""

    ABSENT = "absent"
    STALE = "stale"  # a file that refuses: its process is gone
    LIVE = "live"


def probe(path: str) -> Life:
    """Whether somebody accepts connections at `path`. Does not block."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as client:
        code = client.connect_ex(path)
    if code in (0, errno.EAGAIN, errno.EINPROGRESS):
        return Life.LIVE  # EAGAIN: its backlog is full, so there is a listener
    return Life.ABSENT if code == errno.ENOENT else Life.STALE


async def gone(path: str) -> None:
    """Return when no process accepts connections at `path` any more.

    An open connection turns the end of the process into an event. A short pause prevents a tight loop with a peer that
    closes connections.
    """
    while probe(path) is Life.LIVE:
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        try:
            while await reader.read(4096):
                pass
        except OSError:
            pass
        finally:
            writer.close()
        await asyncio.sleep(0.05)


def sockets_in(directory: str, pattern: str) -> list[str]:
    """Paths of the sockets in `directory` whose names match, sorted; none if there is no such directory."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    found = []
    for name in fnmatch.filter(names, pattern):
        path = os.path.join(directory, name)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                found.append(path)
    return found


def sweep(directory: str, pattern: str) -> list[str]:
    """Remove sockets in `directory` whose names match and whose process is gone; the paths removed.

    Only for names that this driver alone uses: a socket just bound and not yet listening refuses too.
    """
    removed = []
    for path in sockets_in(directory, pattern):
        if probe(path) is Life.STALE:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
                removed.append(path)
    return removed


def refusal(address: str) -> SocketPathError:
    """Why `unix:<path>` or `<host>:<port>` cannot be listened on, after gRPC said no more than that it cannot."""
    host, _, port = address.rpartition(":")
    is_unix = address.startswith("unix:")
    family = socket.AF_UNIX if is_unix else socket.AF_INET6 if ":" in host else socket.AF_INET
    hint = ""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            if not is_unix:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address.removeprefix("unix:") if is_unix else (host.strip("[]"), int(port)))
        if is_unix:
            os.unlink(address.removeprefix("unix:"))
        reason = "the gRPC library refused"
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        if is_unix and error.errno in (errno.ENOENT, errno.ENOTDIR):
            hint = " (is kubelet's directory mounted at the same path here as on the node?)"
    return SocketPathError(f"cannot listen on {address}: {reason}{hint}")


def hidden_beside(path: str, driver: str) -> str:
    """A name with a leading dot in the same directory, no longer than `path`'s own, not used by anybody else."""
    directory, name = os.path.split(path)
    stem = f".{driver}-" if name.startswith(driver) else ".s-"
    return os.path.join(directory, stem + os.urandom(2).hex())


@dataclass(frozen=True, slots=True)
class Bound:
    """Our socket file at its final name, removed only while it is still the file that we put there.

    bound_ns   the file's mtime, which no rename changes: a successor's socket may get the inode number of ours
    """

    path: str
    dev: int
    ino: int
    bound_ns: int

    @classmethod
    def publish(cls, hidden: str, path: str) -> Bound:
        """Move a socket that already accepts to its final name, over whatever lies there."""
        os.rename(hidden, path)
        found = os.lstat(path)
        return cls(path, found.st_dev, found.st_ino, found.st_mtime_ns)

    def is_ours(self) -> bool:
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino, found.st_mtime_ns) == (self.dev, self.ino, self.bound_ns)

    def remove(self) -> bool:
        """Unlink if the name is still ours. A successor's socket stays."""
        if not self.is_ours():
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        return True

    def announce_again(self, hidden: str) -> bool:
        """Rename the socket away and back, so that kubelet's watcher registers it anew."""
        if not self.is_ours():
            return False
        os.link(self.path, hidden, follow_symlinks=False)
        os.unlink(self.path)
        os.rename(hidden, self.path)
        return True
