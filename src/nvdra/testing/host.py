"""FakeHost: a folder as the whole node. Files, links and locks are real; devices and programs are remembered.

It can be told to die before a chosen effect, and to refuse one: what crash tests and fault tests are made of.
"""

from __future__ import annotations

import asyncio
import collections
import os
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from nvdra.host import mounts
from nvdra.host.node import Node, OpenFile, resolve
from nvdra.host.writer import Writer
from nvdra.ports import Device, DeviceHolders, Finished, Lock, Stat

T = TypeVar("T")

BOOT_ID = "11111111-2222-3333-4444-555555555555"

# What a device is on the disk: it outlives the program that made it, and goes when its file goes.
_DEVICE = b"fake device %d:%d mode %d group %d\n"
_DEVICE_FORM = re.compile(rb"fake device (\d+):(\d+) mode (\d+) group (\d+)\n")
_DEVICE_SIZE = 100

Program = Callable[[Sequence[str]], Finished]
Kernel = Callable[[str, bytes], Awaitable[None] | None]


class Killed(BaseException):
    """The program ended here, like by SIGKILL: nothing after this took place, no clean-up either.

    Not an Exception: no `except Exception` may outlive it.
    """


@dataclass(frozen=True, slots=True)
class Effect:
    """One change of the outside, in the order they took place.

    kind   "create" (the file beside), "write", "fsync", "rename", "unlink", "mkdir", "mknod", "remove tree", "mount",
           "unmount", "exec", "write in place", and of lock files "append", "truncate"; or what `perform` was told
    path   the path the caller named; of a program its command line
    """

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    kind: str
    path: str
    error: int


class LoopWriter(Writer):
    """Durable calls carried out by the event loop, in the order they were asked for.

    Without a thread, everything that needs no time to pass is done after a few turns of the loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turns: collections.deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = collections.deque()

    async def run(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._turns.append((call, done))
        loop.call_soon(self._carry_out)
        return await done

    def later(self, call: Callable[[], object]) -> None:
        call()

    async def drain(self) -> None:
        await self.run(lambda: None)

    def close(self) -> None:
        while self._turns:
            self._carry_out()

    def _carry_out(self) -> None:
        if not self._turns:  # `close` was first
            return
        call, done = self._turns.popleft()
        try:
            result = call()
        except BaseException as error:  # a call's failure belongs to its caller
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(result)


class FakeHost(Node):
    """A node whose / is `folder`.

    effects     what has been done to it through this host, oldest first
    kernel      what reacts when a file is written in place, as the kernel does behind sysfs: it raises the refusal of
                the write, or returns what the write waits for; without one, a file has the written content
    programs    what answers when a program is run, by the name of its file; others are not installed
    boot        the boot id
    waits       waits for locks that are under way: they end when the lock is free, or at a timeout in real time
    """

    def __init__(self, folder: Path | str, *, boot_id: str = BOOT_ID) -> None:
        super().__init__(LoopWriter())
        self._folder = str(folder).rstrip("/")
        self._refusals: list[_Refusal] = []
        self._die_after: int | None = None
        self._death = asyncio.Event()
        self._locks_held: list[Lock] = []
        self._files_held: list[OpenFile] = []
        self.boot = boot_id
        self.effects: list[Effect] = []
        self.programs: dict[str, Program] = {}
        self.kernel: Kernel | None = None
        self.waits: set[asyncio.Future[None]] = set()

    def kill_after(self, effects: int) -> None:
        """Let so many further effects take place; die instead of the next one."""
        self._die_after = len(self.effects) + effects

    @property
    def is_dead(self) -> bool:
        """Whether it died of what `kill_after` said."""
        return self._death.is_set()

    async def dies(self) -> None:
        """Return once it died."""
        await self._death.wait()

    async def perform(self, kind: str, path: str, call: Callable[[], Awaitable[T]]) -> T:
        """Change something that is no file (a GPU, say): an effect like the others, counted when it begins.

        A program that died meanwhile never hears what came of it.
        """
        try:
            return await self._effect(kind, path, call)
        finally:
            self._live()

    def revive(self) -> FakeHost:
        """The same node with a fresh program on it."""
        fresh = FakeHost(self._folder, boot_id=self.boot)
        fresh.programs, fresh.kernel = self.programs, self.kernel
        return fresh

    def refuse(self, kind: str, path: str, error: int) -> None:
        """From now on effects of this kind at `path` or below it fail with this errno."""
        self._refusals.append(_Refusal(kind, path, error))

    def forgive(self) -> None:
        """Refuse nothing any more."""
        self._refusals.clear()

    def write(self, path: str, content: bytes | str = b"", *, mode: int = 0o644) -> None:
        """Put a file there, as somebody else would: no effect of this program."""
        place = Path(self._at(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        place.chmod(mode)

    def link(self, path: str, target: str) -> None:
        """Put a symbolic link there."""
        place = Path(self._at(path, follow=False))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def put_device(self, path: str, major: int, minor: int, *, mode: int = 0o666, gid: int = 0) -> None:
        """Put a character device there, as the driver would."""
        place = self._at(path, follow=False)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(_DEVICE % (major, minor, mode, gid))

    def read(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        self._live()
        return super().read(path, offset=offset, size=size)

    def hold(self, path: str) -> OpenFile:
        self._live()
        held = super().hold(path)
        self._files_held.append(held)
        return held

    def stat(self, path: str) -> Stat:
        seen = super().stat(path)
        if seen.kind != "file" or seen.size > _DEVICE_SIZE:
            return seen
        with open(self._at(path, follow=False), "rb") as file:
            found = _DEVICE_FORM.fullmatch(file.read())
        if found is None:
            return seen
        major, minor, mode, gid = map(int, found.groups())
        return replace(seen, kind="char", size=0, major=major, minor=minor, mode=mode, gid=gid)

    def resolve(self, path: str, root: str = "/") -> str | None:
        base = resolve(root, self._folder)
        if base is None:
            return None
        found = resolve(path, base)
        if found is None:
            return None
        shown = "" if root == "/" else root.rstrip("/")
        return shown + found[len(base) :] or "/"

    def device_node(self, path: str, *, major: int, minor: int, mode: int, gid: int = 0) -> None:
        def make() -> None:
            place = self._at(path, follow=False)
            if os.path.lexists(place):
                raise FileExistsError(17, os.strerror(17), path)
            self.put_device(path, major, minor, mode=stat.S_IMODE(mode), gid=gid)

        self._effect("mknod", path, make)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 30.0,
    ) -> Finished:
        def start() -> Finished:
            # Through a chroot it is the program inside that counts.
            path = argv[2] if argv[0].rpartition("/")[2] == "chroot" else argv[0]
            program = self.programs.get(path.rpartition("/")[2])
            if program is None:
                raise FileNotFoundError(2, os.strerror(2), path)
            return program(argv)

        return self._effect("exec", " ".join(argv), start)

    async def write_in_place(self, path: str, content: bytes) -> None:
        def react() -> Awaitable[None] | None:
            place = Path(self._at(path))
            if not place.is_file():
                raise FileNotFoundError(2, os.strerror(2), path)
            if self.kernel is not None:
                return self.kernel(path, content)
            place.write_bytes(content)
            return None

        if (rest := self._effect("write in place", path, react)) is not None:
            await rest

    def mount_count(self, path: str) -> int:
        return super().mount_count(self._at(path)) if self.exists(mounts.TABLE) else 0

    def _mount(self, place: str, size: str) -> None:
        """Remembered in the fake's own table, on the disk: mounts outlive the program that made them."""
        if not os.path.isdir(place):
            raise FileNotFoundError(2, os.strerror(2), place)
        escaped = place.replace(" ", "\\040")
        line = f"99 1 0:99 / {escaped} rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size={size}\n"
        self.write(mounts.TABLE, self._mounts() + line.encode())

    def _unmount(self, place: str) -> None:
        lines = self._mounts().splitlines(keepends=True)
        last = max(index for index, line in enumerate(lines) if mounts.count(line, place))
        self.write(mounts.TABLE, b"".join(lines[:last] + lines[last + 1 :]))

    def _mounts(self) -> bytes:
        try:
            return super().read(mounts.TABLE)
        except FileNotFoundError:
            return b""

    async def device_holders(self, devices: Sequence[Device], *, proc: str = "/proc") -> DeviceHolders:
        """Descriptors are links to the fake's devices: `/proc/7/fd/3` -> `/dev/nvidia0`."""
        processes = [name for name in self.list(proc) if name.isdigit()]
        found = set()
        for pid in processes:
            for descriptor in self.list(f"{proc}/{pid}/fd") if self.exists(f"{proc}/{pid}/fd") else ():
                opened = self.resolve(f"{proc}/{pid}/fd/{descriptor}")
                seen = self.stat(opened) if opened is not None else None
                if seen is not None and seen.kind == "char":
                    found |= {(int(pid), at) for at, one in enumerate(devices) if one == (seen.major, seen.minor)}
        return DeviceHolders(tuple(sorted(found)), len(processes), 0)

    def boot_id(self) -> str:
        return self.boot

    def lock(self, path: str, *, timeout_s: float) -> AbstractAsyncContextManager[None]:
        return self._waited_for(super().lock(path, timeout_s=timeout_s))

    @asynccontextmanager
    async def _waited_for(self, lock: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            wait: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waits.add(wait)
            try:
                await stack.enter_async_context(lock)
            finally:
                self.waits.remove(wait)
                wait.set_result(None)
            yield

    def try_lock(self, path: str) -> Lock | None:
        self._live()
        lock = super().try_lock(path)
        if lock is not None:
            self._locks_held.append(lock)
        return lock

    def close(self) -> None:
        """As the end of a process: its files are closed and its locks are free, whoever still holds them."""
        for held in self._files_held:
            held.close()
        super().close()
        for lock in self._locks_held:
            lock.close()

    def _at(self, path: str, follow: bool = True) -> str:
        """A link that says /x means the fake's /x: every path is resolved here, never by the kernel."""
        if follow:
            found = resolve(path, self._folder)
            if found is not None:
                return found
        parent, _, name = path.rstrip("/").rpartition("/")
        found = resolve(parent, self._folder)
        return f"{found or self._folder + parent}/{name}"

    def _live(self) -> None:
        if self.is_dead:
            raise Killed

    def _effect(self, kind: str, path: str, call: Callable[[], T]) -> T:
        self._live()
        if self._die_after is not None and len(self.effects) >= self._die_after:
            self._death.set()
            raise Killed
        for refusal in self._refusals:
            if refusal.kind == kind and (path == refusal.path or path.startswith(refusal.path.rstrip("/") + "/")):
                raise OSError(refusal.error, os.strerror(refusal.error), path)
        result = call()
        self.effects.append(Effect(kind, path))
        return result
