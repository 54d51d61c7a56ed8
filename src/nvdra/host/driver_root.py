"""The driver root: the folder an NVIDIA driver is installed below, and the search for its files inside it.

Links are followed inside the root: a link to /usr/lib means the /usr/lib below the root, not this container's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nvdra.host import ld_cache
from nvdra.ports import Host

NVML_LIBRARY = "libnvidia-ml.so.1"

# Folders in which distributions put the driver's libraries; libraries elsewhere are found by the loader's cache.
LIBRARY_DIRS = (
    "/",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/lib64",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu/nvidia/current",
    "/lib/aarch64-linux-gnu/nvidia/current",
)
_PROGRAM_DIRS = ("/", "/opt/bin", "/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin")

_VERSION = re.compile(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)?)\s")


class DriverFileMissing(LookupError):
    """A file of the driver that is not below the driver root.

    unlinked   an existing library that the missing file should link to; "" if there is none
    """

    def __init__(self, name: str, root: str, unlinked: str = "") -> None:
        cause = f"it is not below the driver root {root}; is the NVIDIA driver installed there?"
        if unlinked:
            cause = (
                f"{unlinked} is there, but no link {name} to it; "
                "run ldconfig on the node (ldconfig -r ROOT where the driver has a root of its own)"
            )
        super().__init__(f'error locating "{name}": {cause}')
        self.name = name


@dataclass(frozen=True, slots=True)
class DriverRoot:
    """The places in which to look for the driver.

    path          the root, as this program sees it
    dev           the folder whose dev/ has the device nodes: the root if it has a dev/, else /
    sysfs, procfs folders used as /sys and /proc
    devices_file  the list of device majors
    is_stand_in   sysfs or procfs is not the kernel's: nothing here is a real device
    """

    path: str
    dev: str
    sysfs: str = "/sys"
    procfs: str = "/proc"
    devices_file: str = "/proc/devices"
    is_stand_in: bool = False

    @property
    def is_mocked(self) -> bool:
        """Whether the library is another project's mock: the kernel's driver version does not apply to it."""
        return self.devices_file != f"{self.procfs}/devices"

    def below(self, path: str) -> str:
        """The path on this process's file system of a path inside the root."""
        return path if self.path == "/" else self.path + path

    def inside(self, path: str) -> str:
        """A path below the root, as seen from inside it."""
        return path if self.path == "/" else path.removeprefix(self.path)


def driver_root(host: Host, path: str, environ: Mapping[str, str] = os.environ) -> DriverRoot:
    """The driver root at `path`, with replacements for /sys and /proc from the environment.

    NVDRA_SYSFS, NVDRA_PROCFS   folders to use as /sys and /proc
    ALT_PROC_DEVICES_PATH       a file to use as /proc/devices
    """
    root = "/" + path.strip("/")
    sysfs = environ.get("NVDRA_SYSFS", "").rstrip("/") or "/sys"
    procfs = environ.get("NVDRA_PROCFS", "").rstrip("/") or "/proc"
    return DriverRoot(
        path=root,
        dev=root if _is_dir(host, "/dev", root) else "/",
        sysfs=sysfs,
        procfs=procfs,
        devices_file=environ.get("ALT_PROC_DEVICES_PATH") or f"{procfs}/devices",
        is_stand_in=(sysfs, procfs) != ("/sys", "/proc"),
    )


def find_library(host: Host, root: DriverRoot, name: str = NVML_LIBRARY) -> str:
    """The library's file, links followed. Raises DriverFileMissing."""
    for directory in LIBRARY_DIRS:
        if found := _regular(host, root, f"{directory}/{name}"):
            return found
    # Other folders of a distribution are known to its own loader.
    for path in ld_cache.libraries(host, root.below("/etc/ld.so.cache")):
        if path.rpartition("/")[2] == name and (found := _regular(host, root, path)):
            return found
    versions = matches(host, root, LIBRARY_DIRS, f"{name.rpartition('.')[0]}.*.*")
    raise DriverFileMissing(name, root.path, root.below(versions[0]) if versions else "")


def find_program(host: Host, root: DriverRoot, name: str) -> str:
    """The program's file, links followed. Raises DriverFileMissing."""
    for directory in _PROGRAM_DIRS:
        if found := _regular(host, root, f"{directory}/{name}"):
            return found
    raise DriverFileMissing(name, root.path)


def module_version(host: Host, root: DriverRoot) -> str | None:
    """The version of the kernel module that is loaded now; None if none is."""
    try:
        found = _VERSION.search(host.read(f"{root.procfs}/driver/nvidia/version").decode(errors="replace"))
    except OSError:
        found = None
    if found is not None:
        return found[1]
    try:
        return host.read(f"{root.sysfs}/module/nvidia/version").decode(errors="replace").strip() or None
    except OSError:
        return None


def device_major(host: Host, root: DriverRoot, name: str) -> int | None:
    """The major number the kernel gave to a character device driver; None if it is not loaded."""
    try:
        text = host.read(root.devices_file).decode(errors="replace")
    except OSError:
        return None
    characters = text.partition("Character devices:")[2].partition("Block devices:")[0]
    for line in characters.splitlines():
        number, _, driver = line.strip().partition(" ")
        if driver == name and number.isascii() and number.isdigit() and int(number) < 1 << 31:
            return int(number)
    return None


def matches(host: Host, root: DriverRoot, directories: Iterable[str], pattern: str) -> list[str]:
    """Files in these directories of the root whose path below them fits `pattern`, in the directories' order.

    pattern   relative; only its last part may have wildcards
    The paths are as seen from inside the root, with links not followed; links that lead to no file are left out.
    """
    folder, _, name = pattern.rpartition("/")
    found = []
    for directory in dict.fromkeys(directories):
        place = "/" + "/".join(part for part in (*directory.split("/"), *folder.split("/")) if part)
        base = "" if place == "/" else place
        # A plain name needs no listing, which is slow for these large folders.
        names = [name] if "*" not in name else [entry for entry in _list(host, root, place) if fnmatchcase(entry, name)]
        for entry in names:
            path = f"{base}/{entry}"
            at = host.resolve(path, root.path)
            if at is not None and host.stat(at).kind != "dir":
                found.append(path)
    return found


def _list(host: Host, root: DriverRoot, directory: str) -> list[str]:
    at = host.resolve(directory, root.path)
    try:
        return [] if at is None else host.list(at)
    except OSError:
        return []


def _regular(host: Host, root: DriverRoot, path: str) -> str | None:
    found = host.resolve(path, root.path)
    return found if found is not None and host.stat(found).kind == "file" else None


def _is_dir(host: Host, path: str, root: str) -> bool:
    found = host.resolve(path, root)
    return found is not None and host.stat(found).kind == "dir"
