"""Checks documents against the CDI specification, so that container runtimes accept them.

The texts are those of the CDI libraries, behind the prefix the Go driver gives them.
"""

from __future__ import annotations

from collections.abc import Iterable

from nvdra.cdi.edits import Document, Edits

_HOOKS = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})
_NODE_TYPES = frozenset({"", "b", "c", "u", "p"})
_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_LETTERS = _ALPHANUMERIC - frozenset("0123456789")
_EMPTY = Edits()


class InvalidDocument(ValueError):
    """A CDI document that a container runtime would refuse."""

    def __init__(self, what: str) -> None:
        super().__init__(f"failed to write spec: invalid CDI Spec: {what}")


def validate(document: Document) -> None:
    """Raises InvalidDocument for the first violation of the specification."""
    check_kind(document.kind)
    check_edits(document.edits, "invalid spec, ")
    check_names(device.name for device in document.devices)
    for device in document.devices:
        check_device_edits(device.name, device.edits)


def check_kind(kind: str) -> None:
    vendor, slash, device_class = kind.partition("/")
    if not slash:
        raise InvalidDocument(f'invalid kind "{kind}", should be vendor/class')
    for what, name, marks in (("vendor", vendor, "_-."), ("class", device_class, "_-.")):
        if not name:
            raise InvalidDocument(f"invalid {what}. empty name")
        if name[0] not in _LETTERS:
            raise InvalidDocument(f'invalid {what}. "{name}", should start with letter')
        _check_characters(name, marks, f"invalid {what}. ", "name")


def check_names(names: Iterable[str]) -> None:
    """Checks each device name, and that no name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if not name:
            raise InvalidDocument('failed add device "": invalid (empty) device name')
        if name[0] not in _ALPHANUMERIC:
            raise InvalidDocument(
                f'failed add device "{name}": invalid name "{name}", should start with a letter or digit'
            )
        _check_characters(name, "_-.:", f'failed add device "{name}": ', "device name")
        if name in seen:
            raise InvalidDocument(f'invalid spec, multiple device "{name}"')
        seen.add(name)


def _check_characters(name: str, marks: str, prefix: str, what: str) -> None:
    for character in name[1:-1]:
        if character not in _ALPHANUMERIC and character not in marks:
            raise InvalidDocument(f"{prefix}invalid character '{character}' in {what} \"{name}\"")
    if name[-1] not in _ALPHANUMERIC:
        raise InvalidDocument(f'{prefix}"{name}", should end with a letter or digit')


def check_device_edits(name: str, edits: Edits) -> None:
    if edits == _EMPTY:
        raise InvalidDocument(f'failed add device "{name}": invalid device, empty device edits')
    check_edits(edits, f'failed add device "{name}": invalid device "{name}": ')


def check_edits(edits: Edits, prefix: str) -> None:
    """Checks edits as runtimes do, and that numbers fit the types of the runtimes.

    prefix   of the error text: names the owner of the edits
    """
    for setting in edits.env:
        if "=" not in setting:
            raise InvalidDocument(f'{prefix}invalid environment variable "{setting}"')
    for node in edits.device_nodes:
        if not node.path:
            raise InvalidDocument(f"{prefix}invalid (empty) device path")
        if node.type not in _NODE_TYPES:
            raise InvalidDocument(f'{prefix}device "{node.path}": invalid type "{node.type}"')
        for permission in node.permissions:
            if permission not in "rwm":
                raise InvalidDocument(f'{prefix}device "{node.path}": invalid permissions "{node.permissions}"')
        if not (_fits(node.major, 63) and _fits(node.minor, 63) and _fits(node.file_mode, 32) and _fits(node.gid, 32)):
            raise InvalidDocument(f'{prefix}device "{node.path}": a number is out of range')
    for hook in edits.hooks:
        if hook.name not in _HOOKS:
            raise InvalidDocument(f'{prefix}invalid hook name "{hook.name}"')
        if not hook.path:
            raise InvalidDocument(f'{prefix}invalid hook "{hook.name}" with empty path')
        for setting in hook.env:
            if "=" not in setting:
                raise InvalidDocument(f'{prefix}hook "{hook.name}": invalid environment variable "{setting}"')
    for mount in edits.mounts:
        if not mount.host_path:
            raise InvalidDocument(f"{prefix}invalid mount, empty host path")
        if not mount.container_path:
            raise InvalidDocument(f"{prefix}invalid mount, empty container path")
    for gid in edits.additional_gids:
        if not _fits(gid, 32):
            raise InvalidDocument(f"{prefix}additional gid {gid} is out of range")


def _fits(number: int, bits: int) -> bool:
    return 0 <= number < 1 << bits
