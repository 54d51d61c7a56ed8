"""What work on claims is done with, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from nvdra.gpu import Inventory
from nvdra.node.executor import Executor
from nvdra.node.gpu_locks import GpuLocks
from nvdra.node.ledger import Ledger
from nvdra.node.site import ClaimFiles, Site


@dataclass(frozen=True, slots=True)
class Means:
    """The parts that preparing a claim and letting go of it share.

    inventory  the devices as last scanned
    rescan     looks at the hardware again: for a device this node does not know
    """

    site: Site
    files: ClaimFiles
    ledger: Ledger
    locks: GpuLocks
    executor: Executor
    inventory: Callable[[], Inventory]
    rescan: Callable[[], Coroutine[Any, Any, None]]
