"""What a look-up of driver files rests on: a few stat calls tell whether it would find the same now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nvdra.gpu.edits import FoundNode
from nvdra.host.driver_root import DriverRoot
from nvdra.ports import Host, Stat

# Folders where files come and go all the time. What counts there is compared by name.
_RESTLESS = ("/run", "/var/run", "/tmp", "/dev", "/proc", "/sys")

_TICK_NS = 100_000_000  # kernels take mtimes from a clock that stands still for some milliseconds

Folder = tuple[str, int, int]  # path, inode, mtime in ns; both are 0 where there is no folder


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a look-up saw. A file that comes or goes changes its folder's mtime.

    folders  that were searched; of a path that is missing, the last folder of it that is there
    nodes    device nodes by their path in containers; None: it was not there
    others   what no folder tells of, and whether it was there
    module   version of the kernel module that was loaded, None if none was; looked at where `has_module`
    """

    folders: tuple[Folder, ...]
    nodes: tuple[tuple[str, FoundNode | None], ...]
    others: tuple[tuple[str, bool], ...] = ()
    module: str | None = None
    has_module: bool = False


class Searched:
    """The host, and the folders that a search on it looked into, each as it was before the search.

    Only what a look-up of driver files calls.
    """

    def __init__(self, host: Host, root: DriverRoot) -> None:
        self._host = host
        self._root = root
        self._known: dict[str, str | None] = {}  # a folder inside the root to its place
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
    """The folder as it is now."""
    return path, *host.stamp(path)


def untold(places: Iterable[str], folders: Iterable[Folder], now_ns: int) -> tuple[str, ...]:
    """Those of these files whose folder's mtime would not tell that they are gone.

    Their folder is not among `folders`, or changed so recently that a further change may leave the same mtime.
    """
    telling = {path for path, _, mtime_ns in folders if mtime_ns < now_ns - _TICK_NS}
    return tuple(place for place in dict.fromkeys(places) if place.rpartition("/")[0] not in telling)
