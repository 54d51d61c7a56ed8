"""The inputs of a look-up of driver files, compared by a few stat calls to tell whether its result is current."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nvdra.gpu.edits import FoundNode
from nvdra.host.driver_root import DriverRoot
from nvdra.ports import Host, Stat

# Folders that change all the time. Relevant files in them are compared by name.
_RESTLESS = ("/run", "/var/run", "/tmp", "/dev", "/proc", "/sys")

_TICK_NS = 100_000_000  # kernels take mtimes from a clock that advances in steps of some milliseconds

Folder = tuple[str, int, int]  # path, inode, mtime in ns; both are 0 where there is no folder


@dataclass(frozen=True, slots=True)
class Footprint:
    """The inputs of a look-up. Adding or removing a file changes the mtime of its folder.

    folders  that were searched; for a missing path, the last folder of it that exists
    nodes    device nodes by their path in containers; None: it was missing
    others   files whose folder's mtime is not compared, and whether each existed
    module   version of the loaded kernel module, None if none was loaded; compared only if `has_module`
    """

    folders: tuple[Folder, ...]
    nodes: tuple[tuple[str, FoundNode | None], ...]
    others: tuple[tuple[str, bool], ...] = ()
    module: str | None = None
    has_module: bool = False


class Searched:
    """A host that notes which folders a search looks into, each with its mtime from before the search.

    It has only the methods that a look-up of driver files calls.
    """

    def __init__(self, host: Host, root: DriverRoot) -> None:
        self._host = host
        self._root = root
        self._known: dict[str, str | None] = {}  # folder inside the root to its resolved path
        self._folders: dict[str, Folder] = {}

    @property
    def folders(self) -> tuple[Folder, ...]:
        return tuple(self._folders.values())

    def read(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        return self._host.read(path, offset=offset, size=size)

    def stat(self, path: str) -> Stat:
        return self._host.stat(path)

    def readlink(self, path: str) -> str:
        return self._host.readlink(path)

    def list(self, path: str) -> list[str]:
        self._see(path)
        return self._host.list(path)

    def resolve(self, path: str, root: str = "/") -> str | None:
        if root == self._root.path:
            self._see_folder_of(path)
        return self._host.resolve(path, root)

    def _see_folder_of(self, path: str) -> None:
        folder = path.rstrip("/").rpartition("/")[0] or "/"
        if folder in self._known:
            return
        place = self._known[folder] = self._host.resolve(folder, self._root.path)
        if place is not None:
            self._see(place)
        elif folder != "/":
            self._see_folder_of(folder)

    def _see(self, place: str) -> None:
        inside = self._root.inside(place) or "/"
        if place not in self._folders and not any(inside == top or inside.startswith(f"{top}/") for top in _RESTLESS):
            self._folders[place] = folder_now(self._host, place)


def folder_now(host: Host, path: str) -> Folder:
    """The folder's current state."""
    return path, *host.stamp(path)


def untold(places: Iterable[str], folders: Iterable[Folder], now_ns: int) -> tuple[str, ...]:
    """The files whose removal would not show in the mtime of `folders`.

    Their folder is not in `folders`, or changed so recently that a further change may leave the same mtime.
    """
    telling = {path for path, _, mtime_ns in folders if mtime_ns < now_ns - _TICK_NS}
    return tuple(place for place in dict.fromkeys(places) if place.rpartition("/")[0] not in telling)
