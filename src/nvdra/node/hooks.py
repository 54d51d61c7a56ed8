"""What a program adds to the work on claims: by default nothing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nvdra.api import ClaimRef
from nvdra.checkpoint import PreparedDevice

Reason = Literal[
    "PrepareFailed", "UnprepareFailed", "RolledBack", "CDIFileRepaired", "CheckpointEntryRestored", "DeviceInUseTwice"
]


@dataclass(frozen=True, slots=True)
class Report:
    """Something that happened to a claim, for the people who look at it. `text` makes sense alone."""

    claim: ClaimRef
    reason: Reason
    text: str
    is_warning: bool = True


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called by the node's parts.

    report           must not block and must not raise
    describe         what tells people which hardware a prepared device is: "uuid", "pciBusID", "minor", …
    before_prepare   awaited while the claims of a call are fetched; must not raise
    """

    report: Callable[[Report], None] = lambda _report: None
    describe: Callable[[PreparedDevice], Mapping[str, Any]] = lambda _device: {}
    before_prepare: Callable[[], Coroutine[Any, Any, None]] | None = None


NO_HOOKS = Hooks()
