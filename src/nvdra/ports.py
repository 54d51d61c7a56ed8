"""The three seams to the world: files and processes, the API server, time.

Each has one real form and one fake that ships in `nvdra.testing`; the same contract tests hold both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Stat:
    """What lstat says. `kind` is "file", "dir", "link", "char", "block", "socket" or "fifo"."""

    kind: str
    mode: int  # permission bits
    uid: int
    gid: int
    size: int
    dev: int
    ino: int
    major: int = 0  # of a device node
    minor: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A child process that ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Put:
    """A file written beside and renamed into place. durable: its content is fsynced before the rename."""

    path: str
    content: bytes
    mode: int
    durable: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    """A file to unlink, or an empty folder to remove.

    One that is absent is fine, and so is one that cannot be removed or a folder with files: whoever asks sweeps.
    """

    path: str


Device = tuple[int, int]
"""Major and minor number of a character device."""


@dataclass(frozen=True, slots=True)
class DeviceHolders:
    """Processes that have devices open.

    holders      process id and index of the device, in order, each pair once
    processes    how many processes were looked at
    unreadable   how many of them could not be, mostly for want of rights
    """

    holders: tuple[tuple[int, int], ...]
    processes: int
    unreadable: int


class Held(Protocol):
    """A file kept open. While it is, no other file can have its identity, so "is it still the same" has an answer."""

    def read(self) -> bytes:
        """Its whole content, whatever now lies at its path."""
        ...

    def is_current(self) -> bool:
        """Whether the path still leads to this very file."""
        ...

    def close(self) -> None: ...


class Lock(Protocol):
    """A file lock that is held until `close`, and what its holders write into the file for whoever comes next.

    Nothing is fsynced: what is said there concerns work that a reboot ends. A line is written at once or not at all;
    LockError says that it was not.
    """

    def lines(self) -> tuple[str, ...]:
        """What was written since the file was last cleared."""
        ...

    def add(self, line: str) -> None: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...


class Host(Protocol):
    """The node's files, locks and programs. Paths are absolute.

    Reads raise OSError like the system calls do. The calls that must survive a crash (`carry_out`, `replace`,
    `remove`, `mkdir`) are coroutines carried out in order by one writer thread, so that a kill can be enumerated.
    """

    def read(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        """The content, or at most `size` bytes of it from `offset` on."""
        ...

    def hold(self, path: str) -> Held:
        """Open a file and keep it open."""
        ...

    def list(self, path: str) -> list[str]:
        """Sorted names in a directory."""
        ...

    def stat(self, path: str) -> Stat:
        """lstat; raises OSError."""
        ...

    def exists(self, path: str) -> bool:
        """Whether `stat` would tell of something there."""
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """Inode and mtime in ns of what lies at the path, links not followed; (0, 0) if nothing can be seen there."""
        ...

    def readlink(self, path: str) -> str: ...
    def resolve(self, path: str, root: str = "/") -> str | None:
        """`path`, as seen from inside `root`, with every link followed there: an absolute link starts at `root`
        again and ".." does not leave it. The result begins with `root`; None if a part is missing or links loop."""
        ...

    async def replace(self, path: str, content: bytes, *, mode: int, durable: bool) -> None:
        """Write beside, rename into place. durable: the content is fsynced before the rename.

        The file beside is `<name>.<digits>.tmp` for a CDI file and `.<digits>` for any other, so that no reader of
        these folders takes it for the real one, and who sweeps a folder that others write to as well knows its own.
        """
        ...

    async def carry_out(self, changes: Sequence[Put | Removal]) -> None:
        """All of them, one after the other, in one turn of the writer: a thread is waited for once.

        Raises OSError that names the path of the Put that failed: what stands before it is done, nothing after it.
        """
        ...

    async def write_in_place(self, path: str, content: bytes) -> None:
        """Write to a file that is there, in one call, as attributes of sysfs want it. Raises OSError.

        The kernel may take any time over it: the call has a thread of its own, and goes on if its caller is cancelled.
        """
        ...

    async def remove(self, path: str) -> bool:
        """Unlink; False if it was absent."""
        ...

    async def mkdir(self, path: str, *, mode: int) -> None:
        """Create with parents; an existing directory is fine."""
        ...

    async def remove_tree(self, path: str) -> None:
        """Remove a folder with everything in it; an absent one is fine."""
        ...

    async def mount_tmpfs(self, path: str, *, size: str) -> None:
        """Mount a tmpfs of this size ("16426676k") on an existing folder, without devices, setuid bits or programs."""
        ...

    async def unmount(self, path: str) -> bool:
        """Take off what was mounted on the folder last; False if nothing is mounted there."""
        ...

    def mount_count(self, path: str) -> int:
        """How many file systems are mounted on this very folder, one over the other."""
        ...

    def lock(self, path: str, *, timeout_s: float) -> AbstractAsyncContextManager[None]:
        """flock(LOCK_EX) on a file created 0644; blocks in a thread, never polls. Raises LockError."""
        ...

    def try_lock(self, path: str) -> Lock | None:
        """flock(LOCK_EX|LOCK_NB) on a file created 0644; None if another holds it. Raises LockError."""
        ...

    def device_node(self, path: str, *, major: int, minor: int, mode: int, gid: int = 0) -> None:
        """mknod of a character device."""
        ...

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 30.0,
    ) -> Finished:
        """Run a program to its end. Raises TimeoutError after `timeout_s`, when it and its children were killed."""
        ...

    async def device_holders(self, devices: Sequence[Device], *, proc: str = "/proc") -> DeviceHolders:
        """The processes that have these character devices open, by device number, in one pass over `proc`.

        Runs in a thread. Raises OSError if `proc` cannot be listed.
        """
        ...

    def boot_id(self) -> str:
        """The kernel's boot id; always the real one."""
        ...


class LockError(Exception):
    """A file lock that could not be taken; the texts are the Go driver's."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path = path


class LockTimeout(LockError):
    """Another process held the lock for the whole deadline."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__(path, f"timeout acquiring lock ({path})")
        self.timeout_s = timeout_s


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of API object: `Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)`."""

    group: str  # "" for the core group
    version: str
    plural: str
    namespaced: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One watch event; BOOKMARK carries only a resourceVersion. `object` is the raw JSON."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A LIST: raw items and the resourceVersion to watch from."""

    items: tuple[bytes, ...]
    resource_version: str


class ApiError(Exception):
    """The API server's refusal, or its silence.

    status         HTTP status; 0 if no answer came (refused, reset, timed out, TLS)
    reason         the Status object's reason ("NotFound", "Conflict", …), "" if none
    retry_after_s  from a Retry-After header, else None
    about          plural and name of the object that the Status names; ("", "") if it names none
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after_s: float | None = None,
        *,
        about: tuple[str, str] = ("", ""),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.about = about

    def is_missing(self, plural: str, name: str) -> bool:
        """Whether the API server itself says that there is no such object.

        Any other 404 speaks of a path: a load balancer without a backend, an API group that is switched off.
        """
        return (self.status, self.reason, self.about) == (404, "NotFound", (plural, name))


Propagation = Literal["", "Foreground", "Background", "Orphan"]
"""What becomes of an object's dependents; "": what the server does by itself."""


class Kube(Protocol):
    """The API server. Objects travel as the bytes the server sent: numbers and duplicate keys survive.

    Every call may raise ApiError. `namespace` is "" for cluster-scoped kinds.
    """

    async def discover(self, group: str) -> tuple[str, ...]:
        """Versions of an API group the server has, its preferred one first; () if it lacks the group."""
        ...

    async def server_version(self) -> str:
        """gitVersion, for instance "v1.37.2"."""
        ...

    async def get(
        self, resource: Resource, name: str, namespace: str = "", *, timeout_s: float = 30.0, cached: bool = False
    ) -> bytes:
        """The object as it is; `cached`: as the server last heard of it, which spares it a read of its database."""
        ...

    async def list(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> Page: ...
    def pages(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> AsyncIterator[Page]:
        """The same LIST in pieces, none of which is kept: for kinds that a cluster may have any number of.

        The list is complete once the iterator ends without an error.
        """
        ...

    async def create(self, resource: Resource, body: bytes, namespace: str = "") -> bytes: ...
    async def update(
        self, resource: Resource, name: str, body: bytes, namespace: str = "", *, subresource: str = ""
    ) -> bytes:
        """Replace the object, or only its `subresource` ("status")."""
        ...

    async def patch(
        self, resource: Resource, name: str, body: bytes, namespace: str = "", *, subresource: str = ""
    ) -> bytes:
        """Merge `body` into the object (RFC 7386): a null removes a member, a list replaces a list.

        A `metadata.resourceVersion` in `body` is a precondition: ApiError 409 if the object has another one.
        """
        ...

    async def apply(
        self,
        resource: Resource,
        name: str,
        body: bytes,
        namespace: str = "",
        *,
        manager: str,
        force: bool = False,
        subresource: str = "",
    ) -> bytes:
        """Server-side apply: the object has the fields of `body`, and they are the manager's; an absent one is made.

        Fields that the manager applied before and that `body` lacks are removed, unless another manager has them too.
        force   take over fields that other managers set to other values; without it they are ApiError 409
        """
        ...

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: Propagation = "",
    ) -> None:
        """Delete, with preconditions where given. "Foreground": the object stays until its dependents are gone."""
        ...

    def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str,
        field_selector: str = "",
        label_selector: str = "",
    ) -> AsyncIterator[Event]:
        """Events from `resource_version` on, with bookmarks; ends when the server closes the stream.

        ApiError 410: list anew.
        """
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def wall(self) -> float:
        """Seconds since 1970."""
        ...

    async def sleep(self, seconds: float) -> None: ...
    def deadline(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """Cancels its body after `seconds` and raises TimeoutError."""
        ...
