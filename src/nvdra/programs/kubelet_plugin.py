"""The skeleton of every kubelet plugin: start, registration, drain, gauges, publication, end. A `Hardware` plugs in."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import NoReturn

from prometheus_client import CollectorRegistry

from nvdra import claims, telemetry
from nvdra.checkpoint import Checkpoint
from nvdra.host import HookMissing, Node
from nvdra.kube import ConfigError, HttpKube, ResourceApi, access
from nvdra.kubelet import HealthFeed, HealthService, Plugin, SocketPathError
from nvdra.node.checkpoint_writer import Change, CheckpointError
from nvdra.node.claim_service import RESUMED_S, ClaimService
from nvdra.node.clock import LoopClock
from nvdra.node.context import ClaimContext
from nvdra.node.instance import instance_paths
from nvdra.node.parts import NodePaths, claim_parts
from nvdra.node.slice_writes import Notice, log
from nvdra.ports import Clock
from nvdra.programs.chassis import Build, Chassis, Hardware, PluginOptions
from nvdra.programs.flags import StartError
from nvdra.programs.kube_log import log_response
from nvdra.programs.profiling import profiles
from nvdra.programs.stop import Stop
from nvdra.programs.tasks import Tasks
from nvdra.telemetry.claim_devices import ClaimDevices
from nvdra.telemetry.http import EndpointError, MetricsServer
from nvdra.telemetry.metrics import DriverMetrics, process_metrics

# Limit from the signal to the end of the process, even if a call hangs; terminationGracePeriodSeconds is twice as long.
STOP_S = 15.0
DRAIN_S = 10.0  # the part of it for kubelet's calls and running work
CHECKPOINT_DELAY_S = 0.005  # delay of gauges and publication after a change of the checkpoint


class KubeletPlugin:
    """One driver's plugin on one node; it runs until a signal to stop.

    program        its name in API requests
    device_types   as in `claims.Driver`
    profile_path   of profiles and stacks on the metrics server; "" for none
    """

    def __init__(
        self,
        driver: str,
        program: str,
        device_types: Sequence[str],
        options: PluginOptions,
        stop: Stop,
        *,
        profile_path: str = "",
    ) -> None:
        self._driver = driver
        self._device_types = device_types
        self._program = program
        self._options = options
        self._stop = stop
        self._profile_path = profile_path
        self._paths = NodePaths(
            f"{os.path.abspath(options.kubelet_plugins_directory_path)}/{driver}", os.path.abspath(options.cdi_root)
        )
        self._tasks = Tasks(stop)
        self._starts_anew = False
        self._registry = CollectorRegistry()
        self._health = HealthFeed()
        self._hardware: Hardware
        self._plugin: Plugin
        self._checkpoint: Checkpoint | None = None
        self._counted: Checkpoint | None = None
        self._counting: asyncio.TimerHandle | None = None

    async def run(self, build: Build) -> int:
        """Run, and return the exit status. Does not return if the plugin executes itself again."""
        self._stop.on_loop(STOP_S, self._stop_late)
        try:
            async with AsyncExitStack() as stack:
                await self._start(stack, build)
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
        return self._end()

    def _stop_late(self) -> None:
        """End the process although the shutdown hangs: the next start continues from the durable state on disk."""
        telemetry.warning("Stopped before all work ended", waited_s=STOP_S)
        self._end()

    def _end(self) -> NoReturn:
        telemetry.info(0, "shutdown")
        telemetry.flush()
        if self._starts_anew:
            os.execv(sys.executable, sys.orig_argv)
        # A hung driver call must not keep the process alive; all durable state is on disk.
        os._exit(1 if self._tasks.failed else 0)

    async def _start(self, stack: AsyncExitStack, build: Build) -> None:
        options, clock, host = self._options, LoopClock(), Node()
        stack.callback(host.close)
        await self._folders(host)
        await self._serve_metrics(stack)
        kube = await stack.enter_async_context(
            HttpKube(
                access(options.kubeconfig, os.environ),
                qps=options.kube_api_qps,
                burst=options.kube_api_burst,
                user_agent=self._program,
                on_response=log_response,
            )
        )
        api = ResourceApi(kube)
        chassis = Chassis(
            host,
            clock,
            api,
            self._paths,
            self._tasks,
            stack,
            self._checkpoint_changed,
            self._noticed,
            self._restart,
            self._registry,
            self._health,
            self._stop.unless,
        )
        hardware = self._hardware = await build(chassis)
        await hardware.context.locks.make_folder()
        parts = claim_parts(hardware.context, hardware.checkpoint_file, host, clock, api, self._metrics)
        look = asyncio.create_task(hardware.look(parts), name="first look")
        hardware.context.checkpoint_writer.start()
        stack.push_async_callback(hardware.context.checkpoint_writer.stop)
        await self._first_checkpoint(hardware.context)
        stack.push_async_callback(self._tasks.cancel)
        await self._register(stack, kube, clock, parts.service)
        self._tasks.start("publication", hardware.publication.run())
        await hardware.serve(look)
        self._tasks.start("sweep", parts.sweep.run())

    async def _serve_metrics(self, stack: AsyncExitStack) -> None:
        registry = self._registry
        process_metrics(registry)
        self._metrics = DriverMetrics(
            registry, driver=self._driver, node=self._options.node_name, device_types=self._device_types
        )
        ClaimDevices(registry, self._claim_devices)
        if self._profile_path and not self._options.http_endpoint:
            telemetry.warning("No profiles are served: --pprof-path needs --http-endpoint", path=self._profile_path)
        if self._options.http_endpoint and (self._options.metrics_path or self._profile_path):
            server = MetricsServer(
                registry,
                endpoint=self._options.http_endpoint,
                path=self._options.metrics_path,
                apps=profiles(self._profile_path),
            )
            await server.start()
            stack.push_async_callback(server.stop)

    def _claim_devices(self) -> Iterator[tuple[str, ...]]:
        """Rows of the metric about devices of claims. Called on other threads: reads only values that do not change."""
        if (checkpoint := self._checkpoint) is None:
            return
        describe = self._hardware.context.hooks.describe
        for entry in checkpoint.entries.values():
            for device in claims.answers(entry) if entry.state == "PrepareCompleted" else ():
                about = describe(device)
                uuid, pci, minor = (str(about.get(name, "")) for name in ("uuid", "pciBusID", "minor"))
                for pod in claims.pods(entry).values() or ("",):
                    yield entry.name, entry.namespace, pod, device.device, uuid, pci, minor

    async def _register(self, stack: AsyncExitStack, kube: HttpKube, clock: Clock, service: ClaimService) -> None:
        """Serve kubelet's calls and the health service, and register."""
        plugin = self._plugin = Plugin(
            driver=self._driver,
            paths=await instance_paths(
                kube,
                driver=self._driver,
                node_name=self._options.node_name,
                pod_uid=self._options.pod_uid,
                registrar_dir=self._options.kubelet_registrar_directory_path,
                plugins_dir=self._options.kubelet_plugins_directory_path,
            ),
            prepare=service.prepare,
            unprepare=service.unprepare,
            on_registered=self._registered,
            on_change=self._placed,
            health=self._health,
        )
        if self._options.healthcheck_port >= 0:
            health = HealthService(
                paths=plugin.paths,
                port=self._options.healthcheck_port,
                is_standing_by=lambda: bool(plugin.standing_by_for),
                is_awaited=lambda: plugin.is_awaited,
            )
            await health.start()
            stack.push_async_callback(health.stop)
        stack.push_async_callback(_drain, plugin, service, clock)
        await self._stop.unless(plugin.start())
        self._placed()

    # ── callbacks between the parts ────────────────────────────────────────────────────────────────────────────

    def _restart(self) -> None:
        self._starts_anew = True
        self._stop.ask()

    def _checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        """Called after the checkpoint was read or written: schedule one update for a whole burst of claims."""
        if self._counting is None:
            self._counting = asyncio.get_running_loop().call_later(CHECKPOINT_DELAY_S, self._count)
        self._checkpoint = checkpoint

    def _count(self) -> None:
        """Update the gauges and the unpublished devices from the checkpoint."""
        self._counting = None
        if self._checkpoint is None or self._checkpoint is self._counted:
            return
        if self._counted is not None:
            self._metrics.wrote_checkpoint()
        self._counted = self._checkpoint
        self._metrics.prepared(claims.device_types(self._checkpoint, self._hardware.context.driver.device_type))
        self._hardware.checkpoint_changed(self._checkpoint)

    def _noticed(self, notice: Notice) -> None:
        log(notice)
        if notice.kind == "wrote":
            self._metrics.published()

    def _placed(self) -> None:
        """Called when kubelet registers this instance, registers another one, or the last other one ended."""
        self._metrics.registered(self._plugin.is_registered)
        if self._plugin.is_current:
            self._hardware.publication.resume()
        else:
            self._hardware.publication.hold()

    def _registered(self) -> None:
        self._placed()
        # kubelet removes every slice of its node when it starts.
        self._hardware.publication.nudge()

    async def _first_checkpoint(self, context: ClaimContext) -> None:
        """Read the checkpoint before the first call. If another instance holds the locks, the first call reads it."""
        try:
            self._checkpoint = await context.checkpoint_writer.submit(Change)
            self._count()
        except CheckpointError as error:
            telemetry.warning("The checkpoint cannot be read yet", cause=str(error))

    async def _folders(self, host: Node) -> None:
        try:
            await host.mkdir(self._paths.plugin_dir, mode=0o750)
            await host.mkdir(self._paths.cdi_root, mode=0o750)
        except NotADirectoryError:
            raise StartError(f"path for cdi file generation is not a directory: '{self._paths.cdi_root}'") from None
        except OSError as error:
            raise StartError(f"cannot create {error.filename}: {error.strerror}") from None


async def _drain(plugin: Plugin, service: ClaimService, clock: Clock) -> None:
    """Wait for kubelet's calls, then for work that outlasted its call; both together at most DRAIN_S."""
    ends = clock.now() + DRAIN_S
    asyncio.get_running_loop().call_later(RESUMED_S, service.hurry)
    await plugin.stop(grace_s=DRAIN_S)
    await service.finish(max(ends - clock.now(), 0.0))


def _give_up(why: str) -> NoReturn:
    telemetry.flush()
    print(f"Error: {why}", file=sys.stderr, flush=True)
    os._exit(1)
