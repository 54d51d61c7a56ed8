"""Dependencies shared by the prepare and unprepare flows and the sweep."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from nvdra.checkpoint import Record
from nvdra.claims import Driver, Step
from nvdra.node.cdi_files import CdiFiles
from nvdra.node.claim_files import ClaimFiles
from nvdra.node.edits import EditsProvider
from nvdra.node.ledger import Ledger
from nvdra.node.locks import ResourceLocks
from nvdra.node.steps import StepRunner
from nvdra.node.work import WorkRegistry


@dataclass(frozen=True, slots=True)
class ClaimContext:
    """One driver on one node.

    pool       this node's pool, called like the node
    work       claims whose steps are being run
    node       the driver's view of the node, as last seen
    rescan     looks at the hardware again: for a device this node does not know
    """

    driver: Driver[Any]
    pool: str
    files: ClaimFiles
    edits: EditsProvider
    ledger: Ledger
    locks: ResourceLocks
    runner: StepRunner
    work: WorkRegistry
    node: Callable[[], Any]
    rescan: Callable[[], Coroutine[Any, Any, None]]

    @property
    def cdi_files(self) -> CdiFiles:
        return CdiFiles(self.driver, self.files, self.edits, self.node)

    def still_need(self, shared: Iterable[Step], claim: str, record: Record) -> bool:
        """Whether other claims need each of these steps."""
        others = [entry for uid, entry in record.entries.items() if uid != claim and entry.state != "PrepareAborted"]
        return all(any(self.driver.needs(step, other) for other in others) for step in shared)

    def end_work(self, claim: str, *, is_done: bool, is_prepared: bool = False) -> None:
        """The claim's steps are over: its locks are free, and claims that waited for it go on.

        is_done, is_prepared   as in `ResourceLocks.give_back`
        """
        self.locks.give_back(claim, is_done=is_done, is_prepared=is_prepared)
        self.work.end(claim)
