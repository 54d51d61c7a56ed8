"""CDI documents as files: rendered whole, or spliced from a common part that was rendered once; and read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nvdra._core import device_yaml, edits_yaml, head_yaml, render_json, render_yaml
from nvdra.cdi.document import distinct, minimum_version, move, version_for, version_of, without
from nvdra.cdi.edits import Device, DeviceNode, Document, Edits, Hook, Mount
from nvdra.cdi.names import ClaimKind
from nvdra.cdi.validate import (
    InvalidDocument,
    check_device_edits,
    check_edits,
    check_names,
    validate,
)

# More devices than any node has; a bound, because edits of devices that are gone would stay for ever.
_PARTS = 1024


def render(document: Document, format: Literal["yaml", "json"] = "yaml") -> bytes:
    """The file's content: YAML in block style, or compact JSON. Names the oldest version that does.

    Raises InvalidDocument.
    """
    validate(document)
    version = minimum_version(document)
    try:
        return render_yaml(document, version) if format == "yaml" else render_json(document, version)
    except (TypeError, UnicodeEncodeError) as error:
        raise _not_text(error) from None


def _not_text(error: BaseException) -> BaseException:
    """What to raise for a value that the native half could not take: file names may hold bytes that are no text."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UnicodeEncodeError):
            return InvalidDocument(f"{cause.object!r} is not valid UTF-8, so it cannot be named in a CDI file")
        cause = cause.__cause__
    return error


@dataclass(frozen=True, slots=True)
class _Part:
    """A device's edits, rendered."""

    text: bytes
    version: str


class Common:
    """What every claim's document says, in its final form and rendered once.

    edits            common edits, with paths as this program sees them
    container_root   the driver root as this program sees it
    host_root        the same folder as the container runtime sees it
    Raises InvalidDocument.
    """

    __slots__ = ("_container_root", "_edits", "_host_root", "_parts", "_tail", "_version")

    def __init__(self, edits: Edits, container_root: str = "/", host_root: str = "/") -> None:
        self._container_root = container_root
        self._host_root = host_root
        self._edits = distinct(edits)
        moved = move(self._edits, container_root, host_root)
        check_edits(moved, "invalid spec, ")
        try:
            self._tail = edits_yaml(moved, 0)
        except (TypeError, UnicodeEncodeError) as error:
            raise _not_text(error) from None
        self._version = version_of(moved)
        self._parts: dict[Edits, _Part] = {}

    @property
    def edits(self) -> Edits:
        """The common edits, with paths as this program sees them."""
        return self._edits

    def _part(self, name: str, edits: Edits) -> _Part:
        part = self._parts.get(edits)
        if part is None:
            moved = move(without(distinct(edits), self._edits), self._container_root, self._host_root)
            check_device_edits(name, moved)
            try:
                part = _Part(edits_yaml(moved, 6), version_of(moved))
            except (TypeError, UnicodeEncodeError) as error:
                raise _not_text(error) from None
            if len(self._parts) >= _PARTS:
                self._parts.clear()
            self._parts[edits] = part
        return part

    def splice(self, kind: ClaimKind, devices: Sequence[tuple[str, Edits]]) -> bytes:
        """The content of a file with these devices: what simplify, transform_root and render would give.

        devices   (CDI device name, its edits with paths as this program sees them)
        Raises InvalidDocument.
        """
        ordered = sorted(devices, key=lambda device: device[0])
        check_names(name for name, _ in ordered)
        parts = [(name, self._part(name, edits)) for name, edits in ordered]
        version = max(
            self._version, version_for([name for name, _ in parts], str(kind)), *(part.version for _, part in parts)
        )
        pieces = [head_yaml(version, str(kind))]
        for name, part in parts:
            pieces += (device_yaml(name), part.text)
        pieces.append(self._tail)
        return b"".join(pieces)


def render_claim(kind: ClaimKind, common: Common, devices: Sequence[tuple[str, Edits]]) -> bytes:
    """The content of a claim's CDI file.

    devices   (CDI device name, its edits with paths as this program sees them)
    Raises InvalidDocument.
    """
    return common.splice(kind, devices)


def parse(content: bytes) -> Document:
    """The document in a CDI file, YAML or JSON, whoever wrote it; keys not known here are passed over.

    Raises ValueError.
    """
    root = _table(_loaded(content), "the file")
    devices = tuple(Device(_text(item, "name"), _edits(item)) for item in _list(root, "devices"))
    return Document(_text(root, "kind"), devices, _edits(root))


def _loaded(content: bytes) -> Any:
    """The file's lists and tables; numbers stay text."""
    # Both are needed only when a record was lost, which is not worth every start's memory.
    import json

    import yaml

    if content.lstrip()[:1] == b"{":
        try:
            return json.loads(content, parse_int=str)
        except (ValueError, RecursionError):
            pass  # YAML in flow style, perhaps
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # makes strings, lists and tables only
    try:
        return yaml.load(content, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not a CDI document: {error}") from None


def _edits(holder: dict[str, Any]) -> Edits:
    edits = _table(holder.get("containerEdits") or {}, "containerEdits")
    return Edits(
        env=_texts(edits, "env"),
        device_nodes=tuple(
            DeviceNode(
                path=_text(node, "path"),
                host_path=_text(node, "hostPath"),
                type=_text(node, "type"),
                major=_number(node, "major"),
                minor=_number(node, "minor"),
                file_mode=_number(node, "fileMode"),
                permissions=_text(node, "permissions"),
                gid=_number(node, "gid"),
            )
            for node in _list(edits, "deviceNodes")
        ),
        hooks=tuple(
            Hook(_text(hook, "hookName"), _text(hook, "path"), _texts(hook, "args"), _texts(hook, "env"))
            for hook in _list(edits, "hooks")
        ),
        mounts=tuple(
            Mount(
                _text(mount, "hostPath"), _text(mount, "containerPath"), _texts(mount, "options"), _text(mount, "type")
            )
            for mount in _list(edits, "mounts")
        ),
        additional_gids=tuple(_integer(gid, "additionalGids") for gid in _items(edits, "additionalGids")),
    )


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"not a CDI document: {where} is no mapping")
    return value


def _items(table: dict[str, Any], key: str) -> list[Any]:
    value = table.get(key) or []
    if not isinstance(value, list):
        raise ValueError(f"not a CDI document: {key} is no list")
    return value


def _list(table: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [_table(item, f"an item of {key}") for item in _items(table, key)]


def _text(table: dict[str, Any], key: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"not a CDI document: {key} is no string")
    return value


def _texts(table: dict[str, Any], key: str) -> tuple[str, ...]:
    items = _items(table, key)
    if not all(isinstance(item, str) for item in items):
        raise ValueError(f"not a CDI document: {key} holds more than strings")
    return tuple(items)


def _number(table: dict[str, Any], key: str) -> int:
    return _integer(table.get(key, "0"), key)


def _integer(value: Any, key: str) -> int:
    try:
        return int(value, 0)
    except (TypeError, ValueError):
        raise ValueError(f"not a CDI document: {key} is no integer") from None
