"""The parts of gpu-kubelet-plugin, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, NoReturn

from prometheus_client import CollectorRegistry

from nvdra import claims, telemetry
from nvdra.api.gates import DYNAMIC_MIG, Gates
from nvdra.checkpoint import Record
from nvdra.gpu import Inventory
from nvdra.gpu.extents import DRIVER
from nvdra.host import (
    DriverFileMissing,
    DriverRoot,
    Hints,
    HookMissing,
    Node,
    PciBus,
    driver_root,
    find_library,
    find_nvidia_smi,
    install_hook,
    look_at_bus,
)
from nvdra.kube import ConfigError, HttpKube, ResourceApi, access
from nvdra.kubelet import HealthService, Plugin, SocketPathError
from nvdra.node.claim_service import ClaimService
from nvdra.node.clock import LoopClock
from nvdra.node.edits import EditsMissing
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.gpu.actors.timeslice import TimeSliceActor
from nvdra.node.gpu.discovery import Discovery
from nvdra.node.gpu.mig_upkeep import MigUpkeep
from nvdra.node.gpu.offer import Offer
from nvdra.node.gpu.parts import gpu_context
from nvdra.node.gpu.supply import Supply
from nvdra.node.instance import instance_paths
from nvdra.node.ledger import Change, Ledger, LedgerError
from nvdra.node.parts import NodePaths, claim_parts
from nvdra.node.publication import Publication
from nvdra.node.slice_writes import Notice, log
from nvdra.node.sweep import Sweep
from nvdra.nvml import DriverChanged, Nvml
from nvdra.ports import Clock
from nvdra.programs.gpu_flags import Options, never_toggles
from nvdra.programs.kube_log import log_response
from nvdra.programs.stop import Stop
from nvdra.programs.tasks import Tasks
from nvdra.slices import Pool
from nvdra.telemetry.http import EndpointError, MetricsServer
from nvdra.telemetry.metrics import DriverMetrics, process_metrics

DRAIN_S = 30.0
RECORD_TOLD_S = 0.005  # gauges and publication follow the record at leisure


class StartError(Exception):
    """The plugin cannot start on this node as it is told to; the text is for people."""


class GpuNode:
    """One node's GPUs, served until told to stop."""

    def __init__(self, options: Options, gates: Gates, stop: Stop) -> None:
        self._options = options
        self._gates = gates
        self._stop = stop
        self._plugin_dir = f"{os.path.abspath(options.kubelet_plugins_directory_path)}/{DRIVER}"
        self._cdi_root = os.path.abspath(options.cdi_root)
        self._tasks = Tasks(stop)
        self._driver_changed = False
        self._was_unread = False
        self._sweep: Sweep
        self._record: Record | None = None
        self._told: Record | None = None
        self._telling: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        """Exit status; does not return where the driver changed: the program then starts anew in this process."""
        self._stop.on_loop()
        try:
            async with AsyncExitStack() as stack:
                await self._start(stack)
                await self._stop.wait()
        # DROP-IN: the prefixes are the Go driver's.
        except EndpointError as error:
            return _give_up(f"setup metrics endpoint: {error}")
        except ConfigError as error:
            return _give_up(f"create client: {error}")
        except (StartError, HookMissing, SocketPathError) as error:
            return _give_up(str(error))
        except Exception as error:
            telemetry.error("Starting failed unexpectedly", traceback.format_exc())
            return _give_up(f"error creating driver: {type(error).__name__}: {error}")
        telemetry.info(0, "shutdown")
        telemetry.flush()
        if self._driver_changed:
            os.execv(sys.executable, sys.orig_argv)
        # A thread stuck in a driver call must not keep the process: everything durable is on disk.
        os._exit(1 if self._tasks.failed else 0)

    async def _start(self, stack: AsyncExitStack) -> None:
        options = self._options
        clock, host = LoopClock(), Node()
        stack.callback(host.close)
        await self._folders(host)
        hook = await install_hook(host, self._plugin_dir, given=options.nvidia_cdi_hook_path)
        registry = CollectorRegistry()
        process_metrics(registry)
        self._metrics = DriverMetrics(registry, driver=DRIVER, node=options.node_name)
        if options.http_endpoint and options.metrics_path:
            server = MetricsServer(registry, endpoint=options.http_endpoint, path=options.metrics_path)
            await server.start()
            stack.push_async_callback(server.stop)

        self._host = host
        self._root = root = self._current_root()
        nvml = Nvml(lambda: _library(host, root), clock)
        stack.push_async_callback(_close, nvml)
        hints = Hints(host, root)
        self._discovery = Discovery(
            nvml,
            clock,
            lambda: (self._current_root(), hints.look()),
            lambda: self._bus().facts,
            self._offered,
            dynamic_mig=self._gates.enabled(DYNAMIC_MIG),
            never_toggles=never_toggles(os.environ),
        )
        self._supply = Supply(host, root, hook_path=hook, host_root=options.nvidia_driver_root)

        kube = await stack.enter_async_context(
            HttpKube(
                access(options.kubeconfig, os.environ),
                qps=options.kube_api_qps,
                burst=options.kube_api_burst,
                user_agent="gpu-kubelet-plugin",
                on_response=log_response,
            )
        )
        api = ResourceApi(kube)
        mig = MigActor(nvml, self._discovery.note)
        self._time_slices = TimeSliceActor(lambda: find_nvidia_smi(host, root), self._inventory)
        context, record_file = gpu_context(
            self._gates,
            options.node_name,
            NodePaths(self._plugin_dir, self._cdi_root),
            host,
            self._supply,
            mig,
            self._time_slices,
            self._inventory,
            rescan=lambda: self._guarded(self._discovery.scan()),
            on_record=self._recorded,
        )
        self._driver = context.driver
        await context.locks.make_folder()
        parts = claim_parts(context, record_file, host, clock, api, self._metrics)
        upkeep = MigUpkeep(
            nvml,
            clock,
            context.ledger,
            context.locks,
            context.runner,
            mig,
            self._inventory,
            is_record_lost=lambda: record_file.is_quarantined,
            destroy_unknown=options.destroy_unknown_mig,
        )
        self._publication = Publication(
            api,
            clock,
            Pool(DRIVER, options.node_name),
            dynamic_mig=self._gates.enabled(DYNAMIC_MIG),
            on_notice=self._noticed,
        )
        self._offer = Offer(self._publication, self._gates, self._inventory, lambda: bool(self._bus().gpus))
        self._sweep = parts.sweep
        # Not before: its end is told to the offer and the sweep.
        scan = asyncio.create_task(self._guarded(self._discovery.scan()), name="first scan")
        context.ledger.start()
        stack.push_async_callback(context.ledger.stop)
        await self._first_record(context.ledger)
        stack.push_async_callback(self._tasks.cancel)

        self._plugin = plugin = Plugin(
            driver=DRIVER,
            paths=await instance_paths(
                kube,
                driver=DRIVER,
                node_name=options.node_name,
                pod_uid=options.pod_uid,
                registrar_dir=options.kubelet_registrar_directory_path,
                plugins_dir=options.kubelet_plugins_directory_path,
            ),
            prepare=parts.service.prepare,
            unprepare=parts.service.unprepare,
            on_registered=self._registered,
            on_change=self._placed,
        )
        if options.healthcheck_port >= 0:
            health = HealthService(
                paths=plugin.paths,
                port=options.healthcheck_port,
                is_standing_by=lambda: bool(plugin.standing_by_for),
                is_awaited=lambda: plugin.is_awaited,
            )
            await health.start()
            stack.push_async_callback(health.stop)
        stack.push_async_callback(_drain, plugin, parts.service, clock)
        await self._stop.unless(plugin.start())
        self._placed()
        self._tasks.start("publication", self._publication.run())
        await self._stop.unless(scan)
        if self._gates.enabled(DYNAMIC_MIG):
            self._tasks.start("lease", upkeep.hold())
            await self._stop.unless(upkeep.tidy())
            self._offer.renew()  # what was in the way may be gone
            self._tasks.start("upkeep", upkeep.run())
        self._tasks.start("sweep", parts.sweep.run())
        self._tasks.start("discovery", self._guarded(self._discovery.run()), may_end=True)

    # ── what the parts tell each other ─────────────────────────────────────────────────────────────────────────

    def _bus(self) -> PciBus:
        return look_at_bus(self._host, self._root)

    def _inventory(self) -> Inventory:
        return self._discovery.inventory

    def _current_root(self) -> DriverRoot:
        return driver_root(self._host, self._options.container_driver_root)

    def _offered(self, inventory: Inventory) -> None:
        """A scan ended: containers' files may be others, and so may be what is published."""
        if self._current_root() != self._root:
            telemetry.warning("The driver root got or lost its device nodes, starting anew", path=self._root.path)
            self._driver_changed = True
            self._stop.ask()
            return
        self._supply.forget()
        if self._was_unread and not inventory.unread:
            self._time_slices.forget()
        self._was_unread = bool(inventory.unread)
        self._tasks.start("supply", self._warm_supply(), may_end=True)
        self._offer.renew()

    def _recorded(self, record: Record) -> None:
        """The record was read or written. Nobody waits for what follows; a burst of claims has it done once."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(RECORD_TOLD_S, self._tell_record)
        self._record = record

    def _tell_record(self) -> None:
        """Gauges follow the record, and devices it keeps from being offered."""
        self._telling = None
        if self._record is None or self._record is self._told:
            return
        if self._told is not None:
            self._metrics.wrote_record()
        self._told = self._record
        self._metrics.prepared(claims.device_types(self._record, self._driver.device_type))
        self._offer.recorded(self._record)

    def _noticed(self, notice: Notice) -> None:
        log(notice)
        if notice.kind == "wrote":
            self._metrics.published()

    def _placed(self) -> None:
        """Kubelet calls this instance, or another one, or no other is left."""
        self._metrics.registered(self._plugin.is_registered)
        if self._plugin.is_current:
            self._publication.resume()
        else:
            self._publication.hold()

    def _registered(self) -> None:
        self._placed()
        # A kubelet that starts removes every slice of its node.
        self._publication.nudge()

    # ── tasks ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _first_record(self, ledger: Ledger) -> None:
        """Read the record before anyone asks. Another instance may hold the locks: then kubelet's calls read it."""
        try:
            self._record = await ledger.submit(Change)
            self._tell_record()
        except LedgerError as error:
            telemetry.warning("The record cannot be read yet", cause=str(error))

    async def _warm_supply(self) -> None:
        try:
            await self._supply.refresh(self._inventory().gpus.values())
            # Containers may start anew with the files of their claims, and kubelet asks nobody then.
            await self._sweep.files()
        except LedgerError as error:
            telemetry.info(2, "CDI files of prepared claims are looked at later", cause=str(error))
        except EditsMissing as error:
            telemetry.warning(
                "The driver's files are incomplete; claims are refused until they are not", cause=str(error)
            )

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except DriverChanged as changed:
            telemetry.warning("The driver was replaced, starting anew with the new one", cause=str(changed))
            self._driver_changed = True
            self._stop.ask()

    async def _folders(self, host: Node) -> None:
        try:
            await host.mkdir(self._plugin_dir, mode=0o750)
            await host.mkdir(self._cdi_root, mode=0o750)
        except NotADirectoryError:
            raise StartError(f"path for cdi file generation is not a directory: '{self._cdi_root}'") from None
        except OSError as error:
            raise StartError(f"cannot create {error.filename}: {error.strerror}") from None


async def _drain(plugin: Plugin, service: ClaimService, clock: Clock) -> None:
    """Kubelet's calls, then the work whose callers went away; together no longer than DRAIN_S."""
    ends = clock.now() + DRAIN_S
    await plugin.stop(grace_s=DRAIN_S)
    await service.finish(max(ends - clock.now(), 0.0))


def _give_up(why: str) -> NoReturn:
    telemetry.flush()
    print(f"Error: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def _library(host: Node, root: DriverRoot) -> str | None:
    try:
        return find_library(host, root)
    except DriverFileMissing:
        return None


async def _close(nvml: Nvml) -> None:
    try:
        await nvml.close(timeout_s=2.0)
    except Exception as error:
        telemetry.warning("NVML is left open", cause=str(error))
