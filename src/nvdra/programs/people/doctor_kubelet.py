"""nvdra doctor, kubelet: checks kubelet's folders, the plugin's sockets and answers, and the CDI hook."""

from __future__ import annotations

from collections.abc import Iterator

from nvdra.gpu.extents import DRIVER
from nvdra.kubelet import HealthService, SocketPathError, SocketPaths, found_paths
from nvdra.programs.people.finding import Finding
from nvdra.programs.people.local_node import LocalNode

_LOGS = "the log of the container gpus of the kubelet-plugin pod on this node tells why"


async def ask(here: LocalNode) -> str:
    """Call the plugin as kubelet does, with no claims. Returns the failure, "" if the plugin answers."""
    try:
        paths = _paths(here)
    except SocketPathError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return await HealthService(paths=paths, port=-1).failure()


def look(here: LocalNode, failure: str) -> Iterator[Finding]:
    """The findings about kubelet's side.

    failure   the result of `ask`
    """
    yield from _folders(here)
    yield from _sockets(here, failure)
    yield _hook(here)


def _folders(here: LocalNode) -> Iterator[Finding]:
    for name, path, value in (
        ("kubelet folder", here.registrar_dir, "kubeletRegistrarDirectoryPath"),
        ("kubelet folder", here.plugins_dir, "kubeletPluginsDirectoryPath"),
    ):
        if _kind(here, path) == "dir":
            yield Finding(name, "ok", path)
        else:
            next_step = f"is kubelet's root elsewhere? The chart's value is kubeletPlugin.{value}"
            yield Finding(name, "problem", f"{path} is no folder", next_step)


def _sockets(here: LocalNode, failure: str) -> Iterator[Finding]:
    if not failure:
        yield Finding("plugin", "ok", "answers at both sockets, as kubelet asks")
        return
    try:
        paths = _paths(here)
    except SocketPathError as error:
        yield Finding("plugin", "problem", str(error), "choose shorter folders")
        return
    except OSError as error:
        next_step = "run it as root" if isinstance(error, PermissionError) else _LOGS
        yield Finding("plugin", "problem", f"its sockets cannot be looked for: {failure}", next_step)
        return
    absent = [path for path in (paths.registration, paths.dra) if _kind(here, path) != "socket"]
    if len(absent) == 2:
        yield Finding("plugin", "problem", f"does not run: there is no {paths.dra}", _LOGS)
    elif absent == [paths.registration]:
        text = f"is not known to kubelet: there is no {paths.registration}"
        yield Finding("plugin", "problem", text, f"restart the plugin; {_LOGS}")
    else:
        yield Finding("plugin", "problem", f"does not answer: {failure}", _LOGS)


def _hook(here: LocalNode) -> Finding:
    path = here.hook
    if here.hook_path and not here.sees_host(path):
        return Finding("CDI hook", "ok", f"{path} on the host, not to be seen from this container")
    found = here.on_host(path) if here.hook_path else here.host.resolve(path)
    if found is None:
        next_step = (
            "install the NVIDIA container toolkit, or leave --nvidia-cdi-hook-path empty"
            if here.hook_path
            else "the plugin puts it there when it starts"
        )
        return Finding("CDI hook", "problem", f"{path} is not there: no container with a GPU can start", next_step)
    status = here.host.stat(found)
    if status.kind != "file" or not status.mode & 0o111:
        return Finding("CDI hook", "problem", f"{path} cannot be executed", f"chmod 755 {path}, or restart the plugin")
    return Finding("CDI hook", "ok", path)


def _paths(here: LocalNode) -> SocketPaths:
    return found_paths(DRIVER, here.registrar_dir, here.plugins_dir)


def _kind(here: LocalNode, path: str) -> str:
    """The kind of file at a path, links followed; "" if there is none."""
    found = here.host.resolve(path)
    return "" if found is None else here.host.stat(found).kind
