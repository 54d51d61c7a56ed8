"""CDI documents as values: builds the document of a claim. Reads no file.

The order is: assemble, simplify, translate paths from this program's driver root to the host's, render.
Source: Container Device Interface specification 1.1.0; NVIDIA Container Toolkit 1.19 for order and simplification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from nvdra.cdi.edits import CdiDevice, DeviceNode, Document, Edits, Hook, Mount
from nvdra.cdi.names import ClaimKind

_EMPTY = Edits()

_Item = TypeVar("_Item", DeviceNode, Hook, Mount, str)


def claim_document(kind: ClaimKind, claim_uid: str, devices: Sequence[tuple[str, Edits]], common: Edits) -> Document:
    """The document of one claim, not simplified. Results that share a device give one CDI device.

    devices   (device as published, its edits)
    """
    distinct = dict.fromkeys((kind.device_name(claim_uid, device), edits) for device, edits in devices)
    return Document(str(kind), tuple(CdiDevice(name, edits) for name, edits in distinct), common)


def simplify(document: Document) -> Document:
    """The same document without repetitions, in its final order.

    Edits of the whole document are removed from each device, unless that would leave the device empty, which the
    specification forbids. Device nodes and mounts are sorted by depth of their path, then by path; devices by name.
    Environment and hooks keep their order.
    """
    common = distinct(document.edits)
    devices = [CdiDevice(device.name, without(distinct(device.edits), common)) for device in document.devices]
    return Document(document.kind, tuple(sorted(devices, key=lambda device: device.name)), common)


def distinct(edits: Edits) -> Edits:
    """The edits without repetitions, in their final order."""
    return Edits(
        env=_once(edits.env),
        device_nodes=tuple(sorted(_once(edits.device_nodes), key=lambda node: (_depth(node.path), node.path))),
        hooks=_once(edits.hooks),
        mounts=tuple(
            sorted(_once(edits.mounts), key=lambda mount: (_depth(mount.container_path), mount.container_path))
        ),
        additional_gids=tuple(sorted(set(edits.additional_gids))),
    )


def without(edits: Edits, common: Edits) -> Edits:
    """A device's edits without those of the whole document; unchanged if nothing would remain."""
    rest = Edits(
        env=_difference(edits.env, common.env),
        device_nodes=_difference(edits.device_nodes, common.device_nodes),
        hooks=_difference(edits.hooks, common.hooks),
        mounts=_difference(edits.mounts, common.mounts),
        additional_gids=edits.additional_gids,
    )
    return edits if rest == _EMPTY else rest


def _once(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))


def _difference(items: tuple[_Item, ...], others: tuple[_Item, ...]) -> tuple[_Item, ...]:
    known = frozenset(others)
    return tuple(item for item in items if item not in known)


def _depth(path: str) -> int:
    return _clean(path).count("/")


def _clean(path: str) -> str:
    """The shortest path with the same meaning, links aside."""
    is_rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".." or not is_rooted:
            parts.append(part)
    return ("/" if is_rooted else "") + "/".join(parts) or "."


def transform_root(document: Document, container_root: str, host_root: str) -> Document:
    """The document with paths as the host has them.

    container_root   the driver root as this program sees it
    host_root        the same folder as the container runtime sees it
    Every device node then has its host path. Do not apply it twice: a host root may lie below the container root.
    """
    if container_root == host_root:
        return document
    devices = [CdiDevice(device.name, move(device.edits, container_root, host_root)) for device in document.devices]
    return Document(document.kind, tuple(devices), move(document.edits, container_root, host_root))


def move(edits: Edits, container_root: str, host_root: str) -> Edits:
    """The edits with paths as the host has them."""
    if container_root == host_root:
        return edits
    root = container_root.rstrip("/")

    def to_host(path: str) -> str:
        if path != root and not path.startswith(f"{root}/"):
            return path
        return _clean(f"{host_root}/{path[len(root) :]}")

    return replace(
        edits,
        device_nodes=tuple(
            replace(node, host_path=to_host(node.host_path or node.path)) for node in edits.device_nodes
        ),
        mounts=tuple(replace(mount, host_path=to_host(mount.host_path)) for mount in edits.mounts),
        hooks=tuple(_moved_hook(hook, to_host) for hook in edits.hooks),
    )


def _moved_hook(hook: Hook, to_host: Callable[[str], str]) -> Hook:
    # Hooks that run inside the container use paths of the container.
    if hook.name == "startContainer":
        return hook
    args = hook.args
    if hook.name != "createContainer":
        args = tuple("::".join(map(to_host, arg.split("::"))) for arg in args)
    return replace(hook, path=to_host(hook.path), args=args)


def minimum_version(document: Document) -> str:
    """The oldest version of the specification that has everything the document uses."""
    names = [device.name for device in document.devices]
    edits = [document.edits, *(device.edits for device in document.devices)]
    return max(version_for(names, document.kind), *map(version_of, edits))


def version_for(names: Iterable[str], kind: str) -> str:
    """The oldest version that allows these device names and this kind."""
    if "." in kind.partition("/")[2]:
        return "0.6.0"
    return "0.5.0" if any(name[:1].isdigit() for name in names) else "0.3.0"


def version_of(edits: Edits) -> str:
    """The oldest version that has these edits."""
    if edits.additional_gids:
        return "0.7.0"
    if any(node.host_path for node in edits.device_nodes):
        return "0.5.0"
    return "0.4.0" if any(mount.type for mount in edits.mounts) else "0.3.0"
