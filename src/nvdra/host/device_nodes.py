"""Makes the driver's missing device nodes, as the driver's own tool would.

A driver makes its nodes when a program first uses it. On a fresh node a container may be the first program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nvdra.host.driver_files import device_node
from nvdra.host.driver_root import DriverFileMissing, DriverRoot, device_major, find_program, module_version
from nvdra.ports import Device, Host

_GPU = re.compile(r"/dev/nvidia(\d+)", re.ASCII)
_TOOL = "nvidia-modprobe"
_TOOL_S = 20.0  # loading a module takes seconds on a large machine

_NVIDIA_MAJOR = 195  # assigned, the same everywhere
_CONTROL_MINORS = {"/dev/nvidiactl": 255, "/dev/nvidia-modeset": 254}
_UVM_MINORS = {"/dev/nvidia-uvm": 0, "/dev/nvidia-uvm-tools": 1}


def gpu_device(host: Host, root: DriverRoot, minor: int) -> Device:
    """The device number of a GPU: that of its node, or the assigned one while it has none."""
    node = device_node(host, root, f"/dev/nvidia{minor}")
    return (node.major, node.minor) if node is not None and node.major else (_NVIDIA_MAJOR, minor)


async def make_nodes(host: Host, root: DriverRoot, paths: Iterable[str]) -> Mapping[str, str]:
    """Make these nodes below the device root if they are missing. Returns those still missing, with the reason.

    The driver root's nvidia-modprobe is tried first, because it also loads modules. Then the node is made directly, if
    the kernel module is loaded and its parameters allow it.
    """
    wanted = {path: "" for path in paths if device_node(host, root, path) is None}
    for path in wanted:
        wanted[path] = await _by_tool(host, root, path) if device_node(host, root, path) is None else ""
        if device_node(host, root, path) is None:
            reason = _directly(host, root, path)
            wanted[path] = "; ".join(part for part in (wanted[path], reason) if part)
    return {path: reason for path, reason in wanted.items() if device_node(host, root, path) is None}


async def _by_tool(host: Host, root: DriverRoot, path: str) -> str:
    """Run nvidia-modprobe for a node. Returns why it failed, or "" if the node may exist now."""
    if root.dev != root.path:
        return ""  # the tool would make the node below the driver root instead of the device root
    try:
        program = root.inside(find_program(host, root, _TOOL))
    except DriverFileMissing as error:
        return str(error)
    # The tool must see the modprobe, /proc and /dev of the driver root, not this container's. The tool of a stand-in
    # knows its own root.
    if root.path == "/" or root.is_stand_in:
        argv = [root.below(program), *_tool_options(path)]
    else:
        argv = ["chroot", root.path, program, *_tool_options(path)]
    try:
        finished = await host.spawn(argv, timeout_s=_TOOL_S)
    except (OSError, TimeoutError) as error:
        return f"{' '.join(argv)}: {error}"
    if finished.exit_code != 0:
        said = (finished.stderr or finished.stdout).decode(errors="replace").strip()
        return f"{' '.join(argv)}: exit status {finished.exit_code}" + (f", {said}" if said else "")
    return ""


def _tool_options(path: str) -> list[str]:
    if path in _UVM_MINORS:
        return ["-u", "-c=0"]
    if path == "/dev/nvidia-modeset":
        return ["-m"]
    gpu = _GPU.fullmatch(path)
    return [f"-c={gpu[1] if gpu else _CONTROL_MINORS[path]}"]


def _directly(host: Host, root: DriverRoot, path: str) -> str:
    """Make the node by mknod. Returns why that failed, or ""."""
    gpu = _GPU.fullmatch(path)
    major: int | None
    if path in _UVM_MINORS:
        major, minor = device_major(host, root, "nvidia-uvm"), _UVM_MINORS[path]
        if major is None:
            return "the kernel module nvidia_uvm is not loaded"
    else:
        major, minor = _NVIDIA_MAJOR, int(gpu[1]) if gpu else _CONTROL_MINORS[path]
        if module_version(host, root) is None:
            return "the kernel module nvidia is not loaded"
    parameters = _parameters(host, root)
    if parameters.get("ModifyDeviceFiles", 1) == 0:
        return "the kernel module's parameter NVreg_ModifyDeviceFiles leaves device nodes to the administrator"
    place = path if root.dev == "/" else root.dev + path
    try:
        host.device_node(
            place,
            major=major,
            minor=minor,
            mode=parameters.get("DeviceFileMode", 0o666) & 0o777,
            gid=parameters.get("DeviceFileGID", 0),
        )
    except OSError as error:
        return f"mknod {place}: {error.strerror}"
    return ""


def _parameters(host: Host, root: DriverRoot) -> dict[str, int]:
    """The loaded module's parameters that are numbers."""
    try:
        text = host.read(f"{root.procfs}/driver/nvidia/params").decode(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in text.splitlines())
    return {name.strip(): int(value) for name, value in pairs if value.strip().isdecimal()}
