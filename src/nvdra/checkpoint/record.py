"""The record: what this node has prepared for whom. The checkpoint's content, as values.

Only what this driver builds is spelled out; what another release wrote and this one does not build
(VFIO, MPS, MIG devices as releases before v25.12 wrote them) is carried verbatim in `Foreign` entries, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["PrepareStarted", "PrepareCompleted"]


@dataclass(frozen=True, slots=True)
class PreparedMig:
    """Where a prepared MIG device lies, in NVML's ids. `parent_pci_bus_id` is "" unless another writer recorded it."""

    parent_minor: int
    parent_uuid: str
    gi_id: int
    ci_id: int
    parent_pci_bus_id: str = ""


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """One allocation result as answered to kubelet. `uuid` is the GPU's, or with `mig` the MIG device's."""

    uuid: str
    requests: tuple[str, ...]  # full form, "req" or "req/sub"
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    share_id: str | None = None
    mig: PreparedMig | None = None


@dataclass(frozen=True, slots=True)
class PreparedGroup:
    """The devices that share one config, and what was applied to them.

    time_slice_applied   None: the file does not say
    verbatim   the group as JSON, where the file says more of it than the fields here do (keys of a later release):
               written again as it is, so whoever changes a field drops it
    """

    devices: tuple[PreparedDevice, ...]
    mps_daemon_id: str = ""
    time_slice_applied: bool | None = None
    verbatim: bytes = b""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Prepared groups of a kind that this driver does not build, as the JSON they were read as.

    kinds     of "mig" (one that says no place as `PreparedMig` has it), "vfio", "mps": why it is foreign
    devices   what is known of each, enough to answer kubelet again; `uuid` is the MIG device's or the VFIO record's
    """

    prepared_devices: bytes
    kinds: frozenset[str]
    device_names: tuple[str, ...]
    devices: tuple[PreparedDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One claim in the record.

    status      `ResourceClaim.status` as JSON bytes in the checkpoint's own field order
    prepared    groups of a completed claim; of a started one () while it is prepared, and what there still is to undo
                while it is let go of
    name, namespace   empty where the writer kept none (completed entries of the Go driver)
    unknown     members of the entry that this release does not know, as JSON `"key":value,…`; written again
    """

    state: State
    status: bytes
    prepared: tuple[PreparedGroup, ...] | Foreign = ()
    name: str = ""
    namespace: str = ""
    unknown: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """Everything the checkpoint holds.

    entries    by claim UID
    left_out   keys of the file outside its entries that were not understood: the next write drops them
    """

    boot_id: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
