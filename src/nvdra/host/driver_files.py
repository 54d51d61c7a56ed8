"""Finds the files of an installed driver that containers need, below the driver root.

Source: the search of the NVIDIA Container Toolkit 1.19 in mode nvml, extended to all libraries of the driver: those in
other folders than libcuda's, and those with a version of their own. Absent files are left out; files that every
container needs are reported as missing. docs/compat.md lists the files that are left out on purpose.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape

from nvdra.gpu.edits import DriverFiles, FoundFile, FoundLibrary, FoundNode
from nvdra.host import elf, ld_cache
from nvdra.host.driver_root import LIBRARY_DIRS, DriverRoot, matches, module_version
from nvdra.host.footprint import Footprint, Searched, untold
from nvdra.ports import Host

_CONTROL_NODES = ("/dev/nvidia-modeset", "/dev/nvidia-uvm-tools", "/dev/nvidia-uvm", "/dev/nvidiactl")
# Without these no CUDA program starts. Modeset serves displays, and uvm-tools debuggers.
_NEEDED_NODES = ("/dev/nvidia-uvm", "/dev/nvidiactl")

# Libraries that are not named after the driver's version; the graphics stack is released independently of the driver.
_OWN_VERSIONS = (
    "libnvidia-egl-gbm.so.*.*",
    "libnvidia-egl-wayland.so.*.*",
    "libnvidia-egl-wayland2.so.*.*",
    "libnvidia-egl-xcb.so.*.*",
    "libnvidia-egl-xlib.so.*.*",
    "libnvidia-nvvm[0-9]*.so.*",
    "libnvidia-api.so.*",
)
_DRIVER_VERSION = re.compile(r"\.so\.(\d{3,}\.\d+(?:\.\d+)?)$", re.ASCII)
_CONFIGS = (
    "glvnd/egl_vendor.d/10_nvidia.json",
    "egl/egl_external_platform.d/15_nvidia_gbm.json",
    "egl/egl_external_platform.d/10_nvidia_wayland.json",
    "egl/egl_external_platform.d/09_nvidia_wayland2.json",
    "egl/egl_external_platform.d/20_nvidia_xcb.json",
    "egl/egl_external_platform.d/20_nvidia_xlib.json",
    "nvidia/nvoptix.bin",
    "X11/xorg.conf.d/10-nvidia.conf",
    "X11/xorg.conf.d/nvidia-drm-outputclass.conf",
)
_VULKAN = (
    "vulkan/icd.d/nvidia_icd.json",
    "vulkan/icd.d/nvidia_layers.json",
    "vulkan/implicit_layer.d/nvidia_layers.json",
    f"vulkan/icd.d/nvidia_icd.{platform.machine()}.json",
)
_PROGRAMS = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
)
_PROGRAM_DIRS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/bin")
_SOCKETS = ("nvidia-persistenced/socket", "nvidia-fabricmanager/socket")
_MPS = ("nvidia-mps",)
_XORG_FOLDERS = ("modules/drivers", "modules/extensions", "modules/updates/drivers", "modules/updates/extensions")
_XORG_BASES = ("/usr/lib/xorg", "/usr/lib64/xorg", "/usr/X11R6/lib", "/usr/X11R6/lib64")


class DriverVersionUnknown(Exception):
    """No driver library below the root has a version in its name, or none has the version of the loaded module."""


def look_up(
    host: Host,
    root: DriverRoot,
    version: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    kernel_release: str | None = None,
) -> DriverFiles:
    """The driver's files below `root` that containers get.

    version         the driver's; None: the version of the loaded kernel module or, if unknown, of the libraries
    environ         PATH and XDG_DATA_DIRS widen the search for programs and configurations
    kernel_release  the running kernel's (uname -r)
    Raises DriverVersionUnknown if neither libcuda nor libnvidia-ml of that version exists. This includes the time
    between a driver upgrade and the reboot: the loaded module refuses libraries of another version.
    """
    search = _Search(host, root)
    if version is None:
        version = _loaded(host, root)
    version, directory = _driver_library(search, version)
    libraries = _versioned(search, version, directory)
    nodes = [node for path in _CONTROL_NODES if (node := device_node(host, root, path)) is not None]
    missing = [path for path in _NEEDED_NODES if path not in {node.container_path for node in nodes}]
    if not any(path.rpartition("/")[2] == f"libcuda.so.{version}" for path in libraries):
        missing.append(f"libcuda.so.{version}")
    return DriverFiles(
        version=version,
        library_dir=directory,
        control_nodes=tuple(nodes),
        libraries=tuple(_libraries(host, root, libraries)),
        graphics=_graphics(search, version),
        xorg=_xorg(search, version, directory),
        configs=_configs(search, environ),
        sockets=_sockets(search),
        firmware=_firmware(search, version, os.uname().release if kernel_release is None else kernel_release),
        binaries=_programs(search, environ),
        missing=tuple(missing),
    )


def survey(host: Host, root: DriverRoot) -> tuple[DriverFiles, Footprint]:
    """The result of `look_up`, and the footprint that tells whether it is still current. Raises as `look_up` does."""
    searched = Searched(host, root)
    module = _loaded(host, root)
    nodes = tuple((path, device_node(host, root, path)) for path in _CONTROL_NODES)
    others = {place: host.exists(place) for place in _socket_places(host, root)}
    files = look_up(searched, root)  # type: ignore[arg-type]  # the part of a host that a search needs
    libraries = (library.file for library in files.libraries)
    mounted = (*libraries, *files.graphics, *files.xorg, *files.configs, *files.firmware, *files.binaries)
    named = [file.host_path for file in mounted]
    targets = [host.resolve(root.inside(place), root.path) or place for place in named]  # links lead elsewhere
    others |= dict.fromkeys(untold([*named, *targets], searched.folders, time.time_ns()), True)
    return files, Footprint(searched.folders, nodes, tuple(others.items()), module, has_module=True)


def is_unchanged(host: Host, root: DriverRoot, seen: Footprint) -> bool:
    """Whether a survey would have the same result now, judged by stat calls."""
    return (
        all(device_node(host, root, path) == node for path, node in seen.nodes)
        and all(host.exists(path) == was_there for path, was_there in seen.others)
        and all(host.stamp(path) == (inode, mtime_ns) for path, inode, mtime_ns in seen.folders)
        and (not seen.has_module or _loaded(host, root) == seen.module)
    )


def _loaded(host: Host, root: DriverRoot) -> str | None:
    """The version of the loaded kernel module; None if it does not apply: the libraries' version counts then."""
    return None if root.is_mocked else module_version(host, root)


def _socket_places(host: Host, root: DriverRoot) -> Iterator[str]:
    """Paths at which a search looks for sockets."""
    for folder, names in (("/run", _SOCKETS), ("/var/run", _SOCKETS), ("/tmp", _MPS)):
        if (place := host.resolve(folder, root.path)) is not None:
            yield from (f"{place}/{name}" for name in names)


def device_node(host: Host, root: DriverRoot, path: str) -> FoundNode | None:
    """The device node at `path` below the device root; None if it is missing or not a character device."""
    place = path if root.dev == "/" else root.dev + path
    try:
        status = host.stat(place)
    except OSError:
        return None
    if status.kind == "char":
        return FoundNode(place, path, status.major, status.minor, status.mode, status.gid)
    if root.is_stand_in and status.kind == "file":
        # A stand-in has plain files where it could not make device nodes; they have no numbers.
        return FoundNode(place, path, 0, 0, 0, 0)
    return None


class _Search:
    """Searches paths inside the root, and converts them to the two forms that a mount needs."""

    def __init__(self, host: Host, root: DriverRoot) -> None:
        self.host = host
        self.root = root

    def paths(self, directories: Iterable[str], pattern: str) -> list[str]:
        return matches(self.host, self.root, directories, pattern)

    def resolved(self, paths: Iterable[str]) -> list[str]:
        """The targets of these paths, each file once, as seen from inside the root."""
        found = (self.host.resolve(path, self.root.path) for path in paths)
        return list(dict.fromkeys(self.root.inside(path) for path in found if path is not None))

    def libraries(self, pattern: str) -> list[str]:
        """Libraries that match, links followed; the loader's cache is used only if the usual folders have none."""
        found = self.resolved(self.paths(LIBRARY_DIRS, pattern))
        if found:
            return found
        cached = ld_cache.libraries(self.host, self.root.below("/etc/ld.so.cache"))
        # The cache has sonames; the versions are in the names of the files that they link to.
        return [path for path in self.resolved(cached) if fnmatchcase(path.rpartition("/")[2], pattern)]

    def found(self, path: str, container_path: str = "") -> FoundFile:
        """The file under the name by which it was found, which a container expects.

        If a link on the path is absolute, a mount would follow it outside the root: then the link's target is used.
        """
        host_path = self.root.below(path)
        inside = self.host.resolve(path, self.root.path)
        if inside is not None and self.host.resolve(host_path) != self.host.resolve(inside):
            host_path = inside
        return FoundFile(host_path, container_path or path)

    def every(self, paths: Iterable[str]) -> tuple[FoundFile, ...]:
        return tuple(self.found(path) for path in dict.fromkeys(paths))


def _driver_library(search: _Search, version: str | None) -> tuple[str, str]:
    """The driver's version and its library folder."""
    for stem in ("libcuda.so.", "libnvidia-ml.so."):
        for path in search.libraries(stem + ("*.*" if version is None else escape(version))):
            directory, _, name = path.rpartition("/")
            return version or name.removeprefix(stem), directory or "/"
    wanted = "of any version" if version is None else f"of version {version}"
    raise DriverVersionUnknown(
        f"neither libcuda.so nor libnvidia-ml.so {wanted} is below the driver root {search.root.path}; "
        "is the driver being installed or replaced?"
    )


def _versioned(search: _Search, version: str, library_dir: str) -> list[str]:
    """Libraries named after the driver's version, each name once; libcuda's folder goes first.

    Distributions may keep the libraries of one driver in several folders: Debian puts libcuda into nvidia/current.
    """
    directories = [f"{base.rstrip('/')}{below}" for base in (library_dir, *LIBRARY_DIRS) for below in ("", "/vdpau")]
    found: dict[str, str] = {}
    for path in search.resolved(search.paths(directories, f"*.so.{escape(version)}")):
        found.setdefault(path.rpartition("/")[2], path)
    return list(found.values())


def _libraries(host: Host, root: DriverRoot, paths: Iterable[str]) -> Iterator[FoundLibrary]:
    beside: dict[str, list[str]] = {}
    for path in paths:
        file = FoundFile(root.below(path), path)
        directory, _, name = file.host_path.rpartition("/")
        try:
            soname = elf.soname(host, file.host_path) or name
        except (elf.UnreadableElf, OSError):
            yield FoundLibrary(file, None, frozenset())
            continue
        if directory not in beside:
            beside[directory] = host.list(directory or "/")
        stem = soname.partition(".so")[0] + ".so"
        related = [entry for entry in beside[directory] if entry.startswith(stem)]
        links = [entry for entry in related if host.stat(f"{directory}/{entry}").kind == "link"]
        yield FoundLibrary(file, soname, frozenset(links))


def _graphics(search: _Search, version: str) -> tuple[FoundFile, ...]:
    # The search by version finds these two as well; they are repeated here because their links come from this result.
    linked = (f"libnvidia-allocator.so.{escape(version)}", f"libnvidia-vulkan-producer.so.{escape(version)}")
    found = dict.fromkeys(path for pattern in (*_OWN_VERSIONS, *linked) for path in search.libraries(pattern))
    # Another driver version may have left files behind.
    paths = (path for path in found if (named := _DRIVER_VERSION.search(path)) is None or named[1] == version)
    return tuple(FoundFile(search.root.below(path), path) for path in paths)


def _xorg(search: _Search, version: str, library_dir: str) -> tuple[FoundFile, ...]:
    library_dir = library_dir.rstrip("/")
    bases = (f"{library_dir}/xorg", *_XORG_BASES)
    directories = [f"{library_dir}/nvidia/xorg", *(f"{base}/{folder}" for base in bases for folder in _XORG_FOLDERS)]
    names = ("nvidia_drv.so", f"libglxserver_nvidia.so.{escape(version)}")
    return search.every(path for name in names for path in search.paths(directories, name)[:1])


def _configs(search: _Search, environ: Mapping[str, str]) -> tuple[FoundFile, ...]:
    shared = environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    directories = ["/etc", *(part for part in shared.split(":") if part)]
    found = list(search.every(path for name in _CONFIGS for path in search.paths(directories, name)))
    for name in _VULKAN:
        # Some installations keep them directly below the root; containers look for them in /etc.
        for path in (search.paths(directories, name) or search.paths(("/",), name))[:1]:
            found.append(search.found(path, f"/etc/{name}"))
    return tuple(found)


def _sockets(search: _Search) -> tuple[FoundFile, ...]:
    paths = [path for name in _SOCKETS for path in search.paths(("/run", "/var/run"), name)[:1]]
    return search.every([*paths, *(path for name in _MPS for path in search.paths(("/tmp",), name))])


def _firmware(search: _Search, version: str, kernel_release: str) -> tuple[FoundFile, ...]:
    directories = [
        "/lib/firmware/updates/" + kernel_release,
        "/lib/firmware/updates",
        "/lib/firmware/" + kernel_release,
        "/lib/firmware",
    ]
    try:
        custom = search.host.read(f"{search.root.sysfs}/module/firmware_class/parameters/path")
    except OSError:
        custom = b""
    if path := custom.decode(errors="surrogateescape").strip():
        directories.insert(0, path)
    return search.every(search.paths(directories, f"nvidia/{version}/gsp*.bin"))


def _programs(search: _Search, environ: Mapping[str, str]) -> tuple[FoundFile, ...]:
    own = [part for part in environ.get("PATH", "").split(":") if part.startswith("/")]
    directories = [*own, *_PROGRAM_DIRS]
    return search.every(path for name in _PROGRAMS for path in _executable(search, directories, name)[:1])


def _executable(search: _Search, directories: Sequence[str], name: str) -> list[str]:
    found = []
    for path in search.paths(directories, name):
        at = search.host.resolve(path, search.root.path)
        if at is not None and search.host.stat(at).mode & 0o111:
            found.append(path)
    return found
