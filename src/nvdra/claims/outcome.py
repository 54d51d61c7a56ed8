"""What can come of a claim: the values that `plan` and `unprepare` answer with, matched exhaustively by who acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nvdra.api.claim import Claim, Result
from nvdra.api.configs import Config
from nvdra.checkpoint import Entry, PreparedDevice
from nvdra.devices import Gpu


@dataclass(frozen=True, slots=True)
class Group:
    """Results that share one config, in the allocation's order, each with its GPU."""

    config: Config
    members: tuple[tuple[Result, Gpu], ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a prepared claim leaves behind.

    entry        for the record
    cdi_devices  what its CDI file holds: CDI device name to the GPU behind it, sorted by name
    answers      for kubelet, one per result of this driver
    """

    entry: Entry
    cdi_devices: Mapping[str, Gpu]
    answers: tuple[PreparedDevice, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Asked before, same allocation, file in place: answer again."""

    answers: tuple[PreparedDevice, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """The same, but its CDI file is lost: write it again, then answer. The record stays as it is."""

    sealed: Sealed


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not this time.

    permanent  asking again changes nothing before the claim itself changes
    rescan     a look at the hardware may change it: a device is named that this node does not know
    """

    reason: str
    permanent: bool = False
    rescan: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """No step changes anything: `seal` it at once.

    replaces  an entry of the same claim for another allocation, or one that was never completed;
              already checked to need no undoing: the new entry and file take its place
    notes     for the log: what the replaced entry leaves on the node
    """

    claim: Claim
    groups: tuple[Group, ...]
    replaces: Entry | None = None
    notes: tuple[str, ...] = ()


Plan = Done | Repair | Refuse | Ready


@dataclass(frozen=True, slots=True)
class NotPrepared:
    """Nothing in the record: unprepare is done."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The entry leaves the record, then its file goes. No hardware is touched.

    notes  for the log: what stays as it is
    """

    notes: tuple[str, ...] = ()


Release = NotPrepared | Leave | Refuse
