"""CDI documents in plain Python: the same text for paths and words, the same meaning for any string."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from nvdra.cdi import Document, Edits

_PLAIN = re.compile(r"(?:[A-Za-z/]|--|\.\./)[A-Za-z0-9/_.=:-]*|[0-9a-z-]+-gpu-[0-9]+")
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text[-1] != ":" and text.lower() not in _WORDS:
        return text
    return json.dumps(text)


def render(document: Document, version: str) -> bytes:
    lines = ["---", f"cdiVersion: {version}", f"kind: {document.kind}", "devices:"]
    for device in document.devices:
        lines.append(f"    - name: {scalar(device.name)}")
        lines += _edits(device.edits, 6)
    lines += _edits(document.edits, 0)
    return ("\n".join(lines) + "\n").encode()


def _texts(key: str, texts: tuple[str, ...], indent: int) -> Iterator[str]:
    if texts:
        yield f"{' ' * indent}{key}:"
        inner = " " * ((indent // 4 + 1) * 4)
        for text in texts:
            yield f"{inner}- {scalar(text)}"


def _edits(edits: Edits, indent: int) -> Iterator[str]:
    if edits == Edits():
        return
    yield f"{' ' * indent}containerEdits:"
    inner = (indent // 4 + 1) * 4
    pad, item, member = " " * inner, " " * (inner + 4), " " * (inner + 6)
    yield from _texts("env", edits.env, inner)
    if edits.device_nodes:
        yield f"{pad}deviceNodes:"
    for node in edits.device_nodes:
        yield f"{item}- path: {scalar(node.path)}"
        for key, text in (("hostPath", node.host_path), ("type", node.type)):
            if text:
                yield f"{member}{key}: {scalar(text)}"
        for key, number in (("major", node.major), ("minor", node.minor), ("fileMode", node.file_mode)):
            if number:
                yield f"{member}{key}: {number}"
        if node.permissions:
            yield f"{member}permissions: {scalar(node.permissions)}"
        if node.gid:
            yield f"{member}gid: {node.gid}"
    if edits.hooks:
        yield f"{pad}hooks:"
    for hook in edits.hooks:
        yield f"{item}- hookName: {scalar(hook.name)}"
        yield f"{member}path: {scalar(hook.path)}"
        yield from _texts("args", hook.args, inner + 6)
        yield from _texts("env", hook.env, inner + 6)
    if edits.mounts:
        yield f"{pad}mounts:"
    for mount in edits.mounts:
        yield f"{item}- hostPath: {scalar(mount.host_path)}"
        yield f"{member}containerPath: {scalar(mount.container_path)}"
        yield from _texts("options", mount.options, inner + 6)
        if mount.type:
            yield f"{member}type: {scalar(mount.type)}"
    if edits.additional_gids:
        yield f"{pad}additionalGids:"
    for gid in edits.additional_gids:
        yield f"{item}- {gid}"


def as_json(document: Document, version: str) -> bytes:
    """The document as compact JSON; for strings without HTML characters."""
    root = {
        "cdiVersion": version,
        "kind": document.kind,
        "devices": [{"name": device.name, "containerEdits": _plain(device.edits)} for device in document.devices],
        "containerEdits": _plain(document.edits),
    }
    return json.dumps(root, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(edits: Edits) -> dict[str, object]:
    nodes = [
        {"path": node.path}
        | _set(hostPath=node.host_path, type=node.type, major=node.major, minor=node.minor, fileMode=node.file_mode)
        | _set(permissions=node.permissions, gid=node.gid)
        for node in edits.device_nodes
    ]
    hooks = [{"hookName": hook.name, "path": hook.path} | _set(args=hook.args, env=hook.env) for hook in edits.hooks]
    mounts = [
        {"hostPath": mount.host_path, "containerPath": mount.container_path}
        | _set(options=mount.options, type=mount.type)
        for mount in edits.mounts
    ]
    return _set(env=edits.env, deviceNodes=nodes, hooks=hooks, mounts=mounts, additionalGids=edits.additional_gids)


def _set(**members: object) -> dict[str, object]:
    return {key: value for key, value in members.items() if value}
