"""Container edits that make a driver usable: what every GPU container gets, and what one GPU or MIG device adds.

This module decides from a list of what was found; it never looks for a file. Order is kept: hooks run in it.
Source: CDI documents that the NVIDIA Container Toolkit 1.19 writes in mode nvml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nvdra.cdi.edits import DeviceNode, Edits, Hook, Mount
from nvdra.gpu.vfio import BoundVfio

_READ_ONLY = ("ro", "nosuid", "nodev", "rbind", "rprivate")
_SOCKET = ("nosuid", "nodev", "rbind", "rprivate", "noexec")

# Links that programs expect and that no driver package and no ldconfig makes: library, target ("" is the library's
# own file), link beside it.
_EXPECTED_LINKS = (
    ("libcuda.so", "libcuda.so.1", "libcuda.so"),
    ("libGLX_nvidia.so", "", "libGLX_indirect.so.0"),
    ("libnvidia-opticalflow.so", "libnvidia-opticalflow.so.1", "libnvidia-opticalflow.so"),
)
_GRAPHICS_LINKS = (
    ("libnvidia-allocator.so", "../libnvidia-allocator.so.1", "gbm/nvidia-drm_gbm.so"),
    ("libnvidia-vulkan-producer.so", "", "libnvidia-vulkan-producer.so"),
    ("libglxserver_nvidia.so", "", "libglxserver_nvidia.so"),
)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of the driver: where it lies as this program sees it, and where a container expects it."""

    host_path: str
    container_path: str


@dataclass(frozen=True, slots=True)
class FoundLibrary:
    """A shared library.

    soname   what its dynamic section says, the file's own name if it says nothing; None if it is no readable ELF
    links    names of the symbolic links in its directory on the host
    """

    file: FoundFile
    soname: str | None
    links: frozenset[str]


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A character device: the numbers of its inode, the path a container gets it under."""

    host_path: str
    container_path: str
    major: int
    minor: int
    mode: int  # permission bits
    gid: int


@dataclass(frozen=True, slots=True)
class DriverFiles:
    """Everything of an installed driver that a container needs, as found below its root.

    version      the driver's, as in its libraries' names: "580.159.04"
    library_dir  where libcuda lies, as a container sees it
    libraries    those named after the version, in the order of their directories and names
    graphics     libraries with a version of their own, most of the graphics stack; some may be among `libraries` too
    xorg, configs, sockets, firmware, binaries   what their names say
    missing      what no container can do without and is not there; a set with gaps is never to be kept
    """

    version: str
    library_dir: str
    control_nodes: tuple[FoundNode, ...]
    libraries: tuple[FoundLibrary, ...]
    graphics: tuple[FoundFile, ...]
    xorg: tuple[FoundFile, ...]
    configs: tuple[FoundFile, ...]
    sockets: tuple[FoundFile, ...]
    firmware: tuple[FoundFile, ...]
    binaries: tuple[FoundFile, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuFiles:
    """What belongs to one GPU.

    nodes     /dev/nvidia<minor> and its DRM nodes
    by_path   links in /dev/dri/by-path that lead to these nodes: (what the link says, its path in a container)
    missing   as in DriverFiles
    """

    nodes: tuple[FoundNode, ...]
    by_path: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CapabilityNode:
    """The device node of a driver capability, as the kernel module tells its numbers; no file system need have it."""

    major: int
    minor: int
    mode: int  # permission bits


def common_edits(files: DriverFiles, hook_path: str) -> Edits:
    """What every container with a GPU of this driver gets.

    hook_path   nvidia-cdi-hook (or nvidia-ctk), as the container runtime reaches it
    """
    graphics = [file for file in files.graphics if not _is_version_of("libnvidia-allocator.so", _name(file))]
    mounts = [
        *_mounts((*graphics, *files.xorg, *files.configs), _READ_ONLY),
        *_mounts([library.file for library in files.libraries], _READ_ONLY),
        *_mounts(files.sockets, _SOCKET),
        *_mounts((*files.firmware, *files.binaries), _READ_ONLY),
    ]
    hooks = (
        _symlinks(hook_path, _graphics_links((*files.graphics, *files.xorg))),
        _symlinks(hook_path, _library_links(files.libraries)),
        _hook(hook_path, "enable-cuda-compat", f"--host-driver-version={files.version}"),
        _ldcache(hook_path, files.libraries),
        _hook(hook_path, "disable-device-node-modification"),
    )
    return Edits(
        # void: the legacy runtime must not add GPUs of its own choice to what the claim was given.
        env=(f"NVIDIA_CTK_LIBCUDA_DIR={files.library_dir}", "NVIDIA_VISIBLE_DEVICES=void"),
        device_nodes=tuple(_node(node) for node in files.control_nodes),
        hooks=tuple(hook for hook in hooks if hook is not None),
        mounts=tuple(dict.fromkeys(mounts)),
        additional_gids=_gids(files.control_nodes),
    )


def gpu_edits(files: GpuFiles, hook_path: str) -> Edits:
    """What one full GPU adds to a container."""
    links = _symlinks(hook_path, [f"{target}::{link}" for target, link in files.by_path])
    return Edits(
        device_nodes=tuple(_node(node) for node in files.nodes),
        hooks=() if links is None else (links,),
        additional_gids=_gids(files.nodes),
    )


def vfio_edits(bound: BoundVfio, path: str) -> Edits:
    """What one passed-through GPU adds to a container, which gets nothing of the NVIDIA driver.

    path   its device node
    """
    api = "/dev/iommu" if bound.uses_iommufd else "/dev/vfio/vfio"
    nodes = (path, api) if bound.has_api_device else (path,)
    return Edits(
        env=("NVIDIA_VISIBLE_DEVICES=void",),
        device_nodes=tuple(DeviceNode(path=node, host_path=node) for node in nodes),
    )


def mig_edits(parent: Edits, capabilities: Iterable[CapabilityNode]) -> Edits:
    """What one MIG device adds to a container: what its parent does, and the nodes that open its instances.

    parent         edits of the full GPU
    capabilities   the GPU instance's, then the compute instance's
    """
    nodes = (
        # With type and numbers given, runtimes make the node without looking for it on the host.
        DeviceNode(
            path=f"/dev/nvidia-caps/nvidia-cap{node.minor}",
            type="c",
            major=node.major,
            minor=node.minor,
            file_mode=node.mode,
        )
        for node in capabilities
    )
    return parent + Edits(device_nodes=tuple(nodes))


def _mounts(files: tuple[FoundFile, ...] | list[FoundFile], options: tuple[str, ...]) -> list[Mount]:
    return [Mount(file.host_path, file.container_path, options) for file in files]


def _node(found: FoundNode) -> DeviceNode:
    return DeviceNode(
        path=found.container_path,
        # Runtimes take a missing hostPath for the path; it came into CDI only with 0.5.0.
        host_path="" if found.host_path == found.container_path else found.host_path,
        major=found.major,
        minor=found.minor,
        file_mode=found.mode,
        permissions="rwm",
        gid=found.gid,
    )


def _gids(nodes: tuple[FoundNode, ...]) -> tuple[int, ...]:
    """Groups a container's user must be in to open nodes that are not open to the world."""
    return tuple(sorted({node.gid for node in nodes if node.gid and node.mode and node.mode & 0o006 != 0o006}))


def _hook(hook_path: str, *arguments: str) -> Hook:
    program = hook_path.rpartition("/")[2]
    # nvidia-ctk has the hooks one level down.
    first = (program, "hook") if program == "nvidia-ctk" else (program,)
    return Hook("createContainer", hook_path, (*first, *arguments), ("NVIDIA_CTK_DEBUG=false",))


def _symlinks(hook_path: str, links: list[str]) -> Hook | None:
    if not links:
        return None
    arguments = [part for link in dict.fromkeys(links) for part in ("--link", link)]
    return _hook(hook_path, "create-symlinks", *arguments)


def _graphics_links(files: tuple[FoundFile, ...]) -> list[str]:
    return [link for file in files for link in _links_of(file, _GRAPHICS_LINKS)]


def _library_links(libraries: tuple[FoundLibrary, ...]) -> list[str]:
    links: list[str] = []
    for library in libraries:
        links += _links_of(library.file, _EXPECTED_LINKS)
        links += _soname_links(library)
    return links


def _links_of(file: FoundFile, expected: tuple[tuple[str, str, str], ...]) -> list[str]:
    directory, _, name = file.container_path.rpartition("/")
    return [
        f"{target or name}::{directory}/{link}" for library, target, link in expected if _is_version_of(library, name)
    ]


def _soname_links(library: FoundLibrary) -> list[str]:
    """The links a linker and a loader look for, as far as the host has them too."""
    directory, _, name = library.file.container_path.rpartition("/")
    if library.soname is None or not fnmatchcase(name, "*.*.*"):
        return []
    links = []
    if library.soname != name and library.soname in library.links:
        links.append(f"{name}::{directory}/{library.soname}")
    target = library.soname or name
    plain = _plain_name(target)
    if plain != target and plain in library.links:
        links.append(f"{target}::{directory}/{plain}")
    return links


def _plain_name(soname: str) -> str:
    """ "libcuda.so.1" is "libcuda.so"; "" for what is no library's name."""
    while True:
        stem, dot, suffix = soname.rpartition(".")
        if not dot:
            return ""
        if suffix == "so":
            return soname
        soname = stem


def _ldcache(hook_path: str, libraries: tuple[FoundLibrary, ...]) -> Hook | None:
    folders = dict.fromkeys(
        library.file.container_path.rpartition("/")[0]
        for library in libraries
        if fnmatchcase(_name(library.file), "lib?*.so*")
    )
    if not folders:
        return None
    return _hook(hook_path, "update-ldcache", *(part for folder in folders for part in ("--folder", folder)))


def _name(file: FoundFile) -> str:
    return file.container_path.rpartition("/")[2]


def _is_version_of(library: str, name: str) -> bool:
    return fnmatchcase(name, f"{library}.*.*")
