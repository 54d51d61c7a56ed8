"""The checkpoint's content as values: one entry for each claim that this node has prepared or begun to prepare.

Prepared devices that this driver does not build, or that the file describes only in part, are carried verbatim in
`Unsupported` values and never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nvdra.checkpoint.prepared import Group, Unsupported

State = Literal["PrepareStarted", "PrepareCompleted", "PrepareAborted"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One claim in the checkpoint.

    state       PrepareAborted only where the driver's schema allows it
    status      `ResourceClaim.status` as JSON bytes in the checkpoint's own field order
    prepared    groups of a completed claim. Of a started one: () during prepare, and the groups still to roll back
                during unprepare
    name, namespace   empty where the writer kept none (completed entries of the Go driver)
    aborted_at  when the claim was aborted, in whole seconds since 1970; None: the file does not say
    unknown     members of the entry that this release does not know, as JSON `"key":value,…`; written again
    """

    state: State
    status: bytes
    prepared: tuple[Group, ...] | Unsupported = ()
    name: str = ""
    namespace: str = ""
    unknown: bytes = b""
    aborted_at: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The whole checkpoint.

    entries    by claim UID
    left_out   unknown keys of the file outside its entries; the next write drops them
    """

    boot_id: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
