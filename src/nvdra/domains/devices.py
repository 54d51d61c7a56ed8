"""Devices of compute-domain.nvidia.com on one node, and the driver's view of the node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHANNELS = 2048
_NAME = re.compile(r"(channel|daemon)-(0|[1-9][0-9]{0,3})\Z", re.ASCII)
_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Channel:
    """An IMEX channel."""

    number: int

    @property
    def name(self) -> str:
        return f"channel-{self.number}"


@dataclass(frozen=True, slots=True)
class Daemon:
    """The place for the IMEX daemon of a domain."""

    number: int = 0

    @property
    def name(self) -> str:
        return f"daemon-{self.number}"


DomainDevice = Channel | Daemon


@dataclass(frozen=True, slots=True)
class CapabilityNode:
    """The device node of a capability: its numbers and permission bits."""

    major: int
    minor: int
    mode: int


@dataclass(frozen=True, slots=True)
class DomainRef:
    """A ComputeDomain as its daemon's container is told of it.

    clique   the node's clique id when the daemon was prepared
    """

    name: str
    namespace: str
    clique: str


@dataclass(frozen=True, slots=True)
class DomainNode:
    """The node as last seen.

    clique          the node's clique id; "" without fabric
    unready         why nothing can be prepared now; "" if it can
    channel_major   major number of IMEX channels; 0 if the kernel module has none
    fabric_node     the capability that an IMEX daemon manages the fabric with; None if there is none
    domains         domains with a daemon claim here, by UID
    """

    clique: str = ""
    unready: str = ""
    channel_major: int = 0
    fabric_node: CapabilityNode | None = None
    domains: Mapping[str, DomainRef] = field(default_factory=dict)


def parse_name(name: str) -> DomainDevice | None:
    """The device of this name; None if it is no name of this driver."""
    found = _NAME.match(name)
    if found is None or int(found[2]) >= (CHANNELS if found[1] == "channel" else 1):
        return None
    return Channel(int(found[2])) if found[1] == "channel" else Daemon(int(found[2]))


def is_uid(text: str) -> bool:
    """Whether the text can be the UID of an object. Only such a text may become part of a path."""
    return _UID.match(text) is not None


def published(*, with_daemon: bool) -> list[Mapping[str, Any]]:
    """The devices of the pool: the default channel, and the daemon's place unless the host manages IMEX."""
    devices: list[DomainDevice] = [Channel(0), Daemon(0)] if with_daemon else [Channel(0)]
    return [
        {
            "name": device.name,
            "attributes": {"id": {"int": device.number}, "type": {"string": device_type(device.name)}},
        }
        for device in devices
    ]


def device_type(name: str) -> str:
    """The metric's device type of a device, given by name."""
    match parse_name(name):
        case Channel():
            return "channel"
        case Daemon():
            return "daemon"
        case None:
            return "unknown"
