"""Dependencies shared by the prepare and unprepare flows and the sweep."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint
from nvdra.claims import Driver, Step
from nvdra.node.cdi_files import CdiFiles
from nvdra.node.checkpoint_writer import CheckpointWriter
from nvdra.node.claim_files import ClaimFiles
from nvdra.node.edits import EditsProvider
from nvdra.node.hooks import NO_HOOKS, Hooks
from nvdra.node.locks import ResourceLocks
from nvdra.node.metadata_files import MetadataFiles
from nvdra.node.steps import StepRunner
from nvdra.node.work import WorkRegistry


@dataclass(frozen=True, slots=True)
class ClaimContext:
    """One driver on one node.

    pool       the name of this node's pool, which is the node's name
    work       claims whose steps are running
    node       the driver's view of the node, as last seen
    rescan     scans the hardware again, for a device that the last scan did not find
    metadata   files that tell containers about their devices
    hooks      what the program adds
    """

    driver: Driver[Any]
    pool: str
    files: ClaimFiles
    edits: EditsProvider
    checkpoint_writer: CheckpointWriter
    locks: ResourceLocks
    runner: StepRunner
    work: WorkRegistry
    node: Callable[[], Any]
    rescan: Callable[[], Coroutine[Any, Any, None]]
    metadata: MetadataFiles
    hooks: Hooks = NO_HOOKS

    @property
    def cdi_files(self) -> CdiFiles:
        return CdiFiles(self.driver, self.files, self.edits, self.node, self.metadata)

    def files_of(self, claim: ClaimRef) -> tuple[str, ...]:
        """The files of the claim on this node, in the order in which they are removed."""
        own = (self.files.path(claim.uid),) if self.files.exists(claim.uid) else ()
        return own + self.metadata.files_of(claim)

    def still_need(self, shared: Iterable[Step], claim: str, checkpoint: Checkpoint) -> bool:
        """Whether other claims need each of these steps."""
        others = [
            entry for uid, entry in checkpoint.entries.items() if uid != claim and entry.state != "PrepareAborted"
        ]
        return all(any(self.driver.needs(step, other) for other in others) for step in shared)

    def end_work(self, claim: str, *, is_done: bool, is_prepared: bool = False) -> None:
        """End the claim's work: release its locks and wake the claims that wait for it.

        is_done, is_prepared   as in `ResourceLocks.give_back`
        """
        self.locks.give_back(claim, is_done=is_done, is_prepared=is_prepared)
        self.work.end(claim)
