"""The node this program runs on: the real `Host`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

from nvdra._core import find_holders
from nvdra.host import mounts
from nvdra.host.children import run
from nvdra.host.in_thread import in_thread
from nvdra.host.locks import LockFile, Locks
from nvdra.host.writer import Writer
from nvdra.ports import Device, DeviceHolders, Finished, Lock, Put, Removal, Stat

T = TypeVar("T")

_MOST_LINKS = 40  # as in the kernel: more links count as a loop
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "fifo",
}
_TEMPORARY = re.compile(r"\.\d+|(?P<real>.+(?:\.yaml|_metadata_.+\.json))\.\d+\.tmp", re.ASCII)


def is_temporary(name: str) -> bool:
    """Whether `name` is a temporary name of `replace`: a leftover, unless a write is under way."""
    return _TEMPORARY.fullmatch(name) is not None


def meant_for(name: str) -> str | None:
    """The final name of a temporary CDI file; None if `name` is not temporary. Other programs use the folders too."""
    found = _TEMPORARY.fullmatch(name)
    return found["real"] if found else None


class OpenFile:
    """A file kept open: `ports.Held`.

    later   makes a call on the writer's thread, when that is idle
    """

    def __init__(self, path: str, descriptor: int, later: Callable[[Callable[[], object]], None]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._later = later
        status = os.fstat(descriptor)
        self._identity = (status.st_dev, status.st_ino)

    def read(self) -> bytes:
        return _read(self._descriptor, 0, None)

    def is_current(self) -> bool:
        try:
            status = os.stat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def close(self) -> None:
        if self._descriptor >= 0:
            # Closing the last descriptor of a replaced file frees it on the disk, which takes half a millisecond.
            self._later(partial(os.close, self._descriptor))
            self._descriptor = -1


class Node:
    """This node's files, locks and programs.

    A fake overrides `_at`, the place of a path on the disk, and `_effect`, one change of the outside.
    """

    def __init__(self, writer: Writer | None = None) -> None:
        self._writer = writer or Writer()
        self._locks = Locks()

    async def drain(self) -> None:
        """Return once every durable call made so far is done."""
        await self._writer.drain()

    def close(self) -> None:
        """End the writer thread after its waiting calls."""
        self._writer.close()

    def read(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        descriptor = os.open(self._at(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read(descriptor, offset, size)
        finally:
            os.close(descriptor)

    def hold(self, path: str) -> OpenFile:
        place = self._at(path)
        return OpenFile(place, os.open(place, os.O_RDONLY | os.O_CLOEXEC), self._writer.later)

    def list(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path)))

    def stat(self, path: str) -> Stat:
        status = os.lstat(self._at(path, follow=False))
        is_node = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        return Stat(
            kind=_KINDS.get(stat.S_IFMT(status.st_mode), "file"),
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            size=status.st_size,
            dev=status.st_dev,
            ino=status.st_ino,
            major=os.major(status.st_rdev) if is_node else 0,
            minor=os.minor(status.st_rdev) if is_node else 0,
            mtime_ns=status.st_mtime_ns,
        )

    def exists(self, path: str) -> bool:
        return os.path.lexists(self._at(path, follow=False))

    def stamp(self, path: str) -> tuple[int, int]:
        try:
            status = os.lstat(self._at(path, follow=False))
        except OSError:
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path, follow=False))

    def resolve(self, path: str, root: str = "/") -> str | None:
        base = "" if root == "/" else root.rstrip("/")
        return resolve(path, base)

    async def replace(self, path: str, content: bytes, *, mode: int, durable: bool) -> None:
        place = self._at(path)
        await self._writer.run(lambda: self._replace(path, place, content, mode, durable))

    def _replace(self, path: str, place: str, content: bytes, mode: int, durable: bool) -> None:
        directory, _, name = place.rpartition("/")
        digits = int.from_bytes(os.urandom(5), "big")
        temporary = f"{name}.{digits}.tmp"
        beside = f"{directory}/{temporary if _TEMPORARY.fullmatch(temporary) else f'.{digits}'}"
        try:
            descriptor = self._effect(
                "create", path, lambda: os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            )
            try:
                os.fchmod(descriptor, mode)  # whatever the umask
                self._effect("write", path, lambda: _write(descriptor, content))
                if durable:
                    self._effect("fsync", path, lambda: os.fsync(descriptor))
            finally:
                os.close(descriptor)
            self._effect("rename", path, lambda: os.rename(beside, place))
        except OSError as error:
            with contextlib.suppress(OSError):  # unlink in a read-only folder fails even if the file is absent
                _unlink(beside)
            raise OSError(error.errno, os.strerror(error.errno or errno.EIO), path) from None

    async def carry_out(self, changes: Sequence[Put | Removal]) -> None:
        # Paths are resolved here, once: the writer thread only writes.
        placed = [(change, self._at(change.path, follow=isinstance(change, Put))) for change in changes]
        await self._writer.run(lambda: self._carry_out(placed))

    def _carry_out(self, placed: Sequence[tuple[Put | Removal, str]]) -> None:
        for change, place in placed:
            if isinstance(change, Put):
                self._replace(change.path, place, change.content, change.mode, change.durable)
            else:
                with contextlib.suppress(OSError):
                    self._effect("unlink", change.path, partial(_discard, place))

    async def write_in_place(self, path: str, content: bytes) -> None:
        place = self._at(path)
        try:
            await in_thread(partial(_write_in_place, place, content), name="sysfs")
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or errno.EIO), path) from None

    async def remove(self, path: str) -> bool:
        place = self._at(path, follow=False)
        return await self._writer.run(lambda: self._effect("unlink", path, lambda: _unlink(place)))

    async def mkdir(self, path: str, *, mode: int) -> None:
        place = self._at(path)
        await self._writer.run(lambda: self._mkdir(path, place, mode))

    def _mkdir(self, path: str, place: str, mode: int) -> None:
        if os.path.isdir(place):
            return
        parent = os.path.dirname(place)
        if parent:
            os.makedirs(parent, 0o755, exist_ok=True)

        def create() -> None:
            try:
                os.mkdir(place)
            except FileExistsError:
                if not os.path.isdir(place):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
            else:
                os.chmod(place, mode)  # whatever the umask

        self._effect("mkdir", path, create)

    async def remove_tree(self, path: str) -> None:
        place = self._at(path, follow=False)

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(place)

        await self._writer.run(lambda: self._effect("remove tree", path, remove))

    async def mount_tmpfs(self, path: str, *, size: str) -> None:
        place = self._at(path)
        await self._writer.run(lambda: self._effect("mount", path, lambda: self._mount(place, size)))

    async def unmount(self, path: str) -> bool:
        if not self.mount_count(path):
            return False
        place = self._at(path)
        await self._writer.run(lambda: self._effect("unmount", path, lambda: self._unmount(place)))
        return True

    def mount_count(self, path: str) -> int:
        return mounts.count(self.read(mounts.TABLE), path)

    def lock(self, path: str, *, timeout_s: float) -> AbstractAsyncContextManager[None]:
        return self._locks.lock(self._at(path), path, timeout_s)

    def try_lock(self, path: str) -> Lock | None:
        descriptor = self._locks.try_lock(self._at(path), path)
        if descriptor is None:
            return None
        return LockFile(descriptor, path, lambda kind, call: self._effect(kind, path, call))

    def device_node(self, path: str, *, major: int, minor: int, mode: int, gid: int = 0) -> None:
        place = self._at(path, follow=False)

        def make() -> None:
            os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
            os.mknod(place, mode | stat.S_IFCHR, os.makedev(major, minor))
            os.chmod(place, mode)  # whatever the umask
            if gid:
                os.chown(place, -1, gid)

        self._effect("mknod", path, make)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 30.0,
    ) -> Finished:
        return await run(argv, env, timeout_s, stdin)

    async def device_holders(self, devices: Sequence[Device], *, proc: str = "/proc") -> DeviceHolders:
        holders, processes, unreadable = await asyncio.to_thread(find_holders, self._at(proc), list(devices))
        return DeviceHolders(tuple(holders), processes, unreadable)

    def boot_id(self) -> str:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()

    def _at(self, path: str, follow: bool = True) -> str:
        """The place of `path` on the disk; with `follow`, of a link's target."""
        return path

    def _mount(self, place: str, size: str) -> None:
        mounts.mount_tmpfs(place, size)

    def _unmount(self, place: str) -> None:
        mounts.unmount(place)

    def _effect(self, kind: str, path: str, call: Callable[[], T]) -> T:
        """Carry out one change of the outside; every change goes through this method."""
        return call()


def resolve(path: str, base: str) -> str | None:
    """`path` inside the folder `base` ("" for /), links followed inside it; None if a part is missing or links loop."""
    waiting = path.split("/")[::-1]
    done: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            # Resolved only here, because ".." after a link means the parent of the link's target.
            del done[-1:]
            continue
        place = f"{base}/{'/'.join([*done, part])}"
        try:
            target = os.readlink(place)
        except OSError as error:
            if error.errno != errno.EINVAL:
                return None
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        if target.startswith("/"):
            done.clear()
        waiting += target.split("/")[::-1]
    if not done:
        return (base or "/") if os.path.isdir(base or "/") else None
    return f"{base}/{'/'.join(done)}"


def _read(descriptor: int, offset: int, size: int | None) -> bytes:
    chunks = []
    left = size
    # Files in /proc and /sys report wrong sizes: the size is a hint, and reading goes on to the end of the file.
    most = min(max(os.fstat(descriptor).st_size + 1, 4096), 1 << 20)
    while left is None or left > 0:
        chunk = os.pread(descriptor, most if left is None else min(left, most), offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
        if left is not None:
            left -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _write_in_place(place: str, content: bytes) -> None:
    # Sysfs ignores O_TRUNC; a plain file in its place would keep the end of a longer content.
    descriptor = os.open(place, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _discard(place: str) -> None:
    try:
        _unlink(place)
    except IsADirectoryError:
        os.rmdir(place)


def _unlink(place: str) -> bool:
    try:
        os.unlink(place)
    except FileNotFoundError:
        return False
    return True
