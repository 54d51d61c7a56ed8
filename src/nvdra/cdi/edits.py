"""CDI container edits as values.

Source: Container Device Interface specification 1.1.0, containerEdits.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node in the container. Zero values are left out of the document."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int = 0  # permission bits, written in decimal
    permissions: str = ""
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    name: str  # hookName
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edits:
    """containerEdits, of a device or of the whole document."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[Mount, ...] = ()
    additional_gids: tuple[int, ...] = ()

    def __add__(self, other: Edits) -> Edits:
        """These edits followed by the other's; order and duplicates are kept."""
        return Edits(
            self.env + other.env,
            self.device_nodes + other.device_nodes,
            self.hooks + other.hooks,
            self.mounts + other.mounts,
            self.additional_gids + other.additional_gids,
        )


@dataclass(frozen=True, slots=True)
class CdiDevice:
    """One CDI device: its name inside the kind, and its edits."""

    name: str
    edits: Edits


@dataclass(frozen=True, slots=True)
class Document:
    """A whole CDI file."""

    kind: str
    devices: tuple[CdiDevice, ...]
    edits: Edits
