"""One builder for everything that serves one driver's claims: the plugins, `nvdra doctor` and the tests use it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nvdra.checkpoint import Record
from nvdra.claims import Driver
from nvdra.node.claim_files import ClaimFiles
from nvdra.node.claim_service import ClaimService
from nvdra.node.claim_source import ClaimSource
from nvdra.node.context import ClaimContext
from nvdra.node.edits import EditsProvider
from nvdra.node.ledger import Ledger
from nvdra.node.locks import ResourceLocks
from nvdra.node.record_file import RecordFile
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
    """What prepares claims, unprepares them, and sweeps what is left of them. Nothing is started."""

    context: ClaimContext
    record_file: RecordFile
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
    rescan: Callable[[], Coroutine[Any, Any, None]],
    on_record: Callable[[Record], None] = lambda _record: None,
    former_locks: Callable[[str], Iterable[str]] = lambda _resource: (),
    former_kind: str = "",
) -> tuple[ClaimContext, RecordFile]:
    """One driver on this node.

    actors        by `Step.kind`
    node          the driver's view of the node, as last seen
    former_locks, former_kind   what earlier releases left, as in `ResourceLocks`
    """
    files = ClaimFiles(host, paths.cdi_root, driver.cdi)
    record_file = RecordFile(host, paths.plugin_dir, lambda: bool(files.uids()), driver.schema)
    locks = ResourceLocks(host, paths.plugin_dir, former_locks, former_kind)
    context = ClaimContext(
        driver=driver,
        pool=pool,
        files=files,
        edits=edits,
        ledger=Ledger(host, record_file, paths.plugin_dir, on_record),
        locks=locks,
        runner=StepRunner(locks, actors),
        work=WorkRegistry(),
        node=node,
        rescan=rescan,
    )
    return context, record_file


def claim_parts(
    context: ClaimContext,
    record_file: RecordFile,
    host: Host,
    clock: Clock,
    source: Source,
    metrics: DriverMetrics,
) -> ClaimParts:
    """What serves the driver's claims."""
    sweep = Sweep(context, host, clock, record_file, source, lambda: service)
    service = ClaimService(context, source, clock, sweep.unsettled, metrics)
    return ClaimParts(context, record_file, service, sweep)
