"""Builds the parts that serve one driver's claims, for the plugins, `nvdra doctor` and the tests."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nvdra.checkpoint import Checkpoint
from nvdra.claims import Driver
from nvdra.node.checkpoint_file import CheckpointFile
from nvdra.node.checkpoint_writer import LOCK_TIMEOUT_S, CheckpointWriter
from nvdra.node.claim_files import ClaimFiles
from nvdra.node.claim_service import ClaimService
from nvdra.node.claim_source import ClaimSource
from nvdra.node.context import ClaimContext
from nvdra.node.edits import EditsProvider
from nvdra.node.hooks import NO_HOOKS, Hooks
from nvdra.node.locks import ResourceLocks
from nvdra.node.metadata_files import MetadataFiles
from nvdra.node.steps import Actor, StepRunner
from nvdra.node.sweep import ClaimLister, Sweep
from nvdra.node.work import WorkRegistry
from nvdra.ports import Clock, Host
from nvdra.telemetry.metrics import DriverMetrics


class Source(ClaimSource, ClaimLister, Protocol):
    """Claims of the API server: one by name, and all of them."""


@dataclass(frozen=True, slots=True)
class NodePaths:
    """Folders of one driver on this node."""

    plugin_dir: str
    cdi_root: str


@dataclass(frozen=True, slots=True)
class ClaimParts:
    """The parts that prepare, unprepare and sweep claims. None of them is started."""

    context: ClaimContext
    checkpoint_file: CheckpointFile
    service: ClaimService
    sweep: Sweep


def claim_context(
    driver: Driver[Any],
    pool: str,
    paths: NodePaths,
    host: Host,
    edits: EditsProvider,
    actors: Mapping[str, Actor],
    node: Callable[[], Any],
    *,
    clock: Clock,
    rescan: Callable[[], Coroutine[Any, Any, None]],
    on_checkpoint: Callable[[Checkpoint], None] = lambda _checkpoint: None,
    former_locks: Callable[[str], Iterable[str]] = lambda _resource: (),
    former_kind: str = "",
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    hooks: Hooks = NO_HOOKS,
    has_metadata: bool = False,
) -> tuple[ClaimContext, CheckpointFile]:
    """Build the context and the checkpoint file of one driver on this node.

    actors          by `Step.kind`
    node            the driver's view of the node, as last seen
    former_locks, former_kind   what earlier releases left, as in `ResourceLocks`
    lock_timeout_s  as in `CheckpointWriter`
    has_metadata    containers get files with the metadata of their devices
    """
    files = ClaimFiles(host, paths.cdi_root, driver.cdi)
    checkpoint_file = CheckpointFile(host, paths.plugin_dir, lambda: bool(files.uids()), driver.schema)
    locks = ResourceLocks(host, paths.plugin_dir, former_locks, former_kind)
    context = ClaimContext(
        driver=driver,
        pool=pool,
        files=files,
        edits=edits,
        checkpoint_writer=CheckpointWriter(
            host, checkpoint_file, paths.plugin_dir, on_checkpoint, clock=clock, lock_timeout_s=lock_timeout_s
        ),
        locks=locks,
        runner=StepRunner(locks, actors),
        work=WorkRegistry(),
        node=node,
        rescan=rescan,
        hooks=hooks,
        metadata=MetadataFiles(host, paths.plugin_dir, paths.cdi_root, driver.name, has_metadata),
    )
    return context, checkpoint_file


def claim_parts(
    context: ClaimContext,
    checkpoint_file: CheckpointFile,
    host: Host,
    clock: Clock,
    source: Source,
    metrics: DriverMetrics,
) -> ClaimParts:
    """Build the claim service and the sweep on a context."""
    sweep = Sweep(context, host, clock, checkpoint_file, source, lambda: service)
    service = ClaimService(context, source, clock, sweep.unsettled, metrics)
    return ClaimParts(context, checkpoint_file, service, sweep)
