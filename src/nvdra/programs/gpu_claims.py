"""The parts of gpu-kubelet-plugin that serve claims, put together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from nvdra.checkpoint import Record
from nvdra.kube import ResourceApi
from nvdra.node.discovery import Discovery
from nvdra.node.executor import Executor
from nvdra.node.gpu_locks import GpuLocks
from nvdra.node.ledger import Ledger
from nvdra.node.means import Means
from nvdra.node.mig_upkeep import MigUpkeep
from nvdra.node.record_file import RecordFile
from nvdra.node.site import ClaimFiles, Site
from nvdra.node.supply import Supply
from nvdra.node.sweep import Sweep
from nvdra.node.walk import Walk
from nvdra.nvml import Nvml
from nvdra.ports import Clock, Host
from nvdra.telemetry.metrics import DriverMetrics


@dataclass(frozen=True, slots=True)
class ClaimParts:
    """What prepares claims and takes them back, and what puts right what is left of them."""

    ledger: Ledger
    walk: Walk
    sweep: Sweep
    upkeep: MigUpkeep


async def claim_parts(
    site: Site,
    plugin_dir: str,
    host: Host,
    clock: Clock,
    api: ResourceApi,
    nvml: Nvml,
    discovery: Discovery,
    supply: Supply,
    metrics: DriverMetrics,
    *,
    rescan: Callable[[], Coroutine[Any, Any, None]],
    on_record: Callable[[Record], None],
    destroy_unknown_mig: bool,
) -> ClaimParts:
    """The parts, not started."""
    record_file = RecordFile(host, plugin_dir, lambda: bool(sweep.claim_files()))
    ledger = Ledger(host, record_file, plugin_dir, on_record)
    locks = GpuLocks(host, plugin_dir)
    await locks.make_folder()
    executor = Executor(nvml, locks, discovery.note)
    upkeep = MigUpkeep(
        nvml,
        clock,
        ledger,
        locks,
        executor,
        lambda: discovery.inventory,
        is_record_lost=lambda: record_file.is_quarantined,
        destroy_unknown=destroy_unknown_mig,
    )
    sweep = Sweep(
        site,
        host,
        clock,
        ledger,
        record_file,
        api,
        lambda: walk,
        lambda: discovery.inventory,
        lambda: locks.claims,
        supply,
    )
    means = Means(site, ClaimFiles(host, site.cdi_root), ledger, locks, executor, lambda: discovery.inventory, rescan)
    walk = Walk(means, supply, api, clock, sweep.unsettled, metrics)
    return ClaimParts(ledger, walk, sweep, upkeep)
