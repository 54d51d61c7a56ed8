"""The running compute-domain-controller: API client, metrics, leader election, the controller itself."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
import uuid
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from nvdra import telemetry
from nvdra.api.gates import Gates
from nvdra.api.imex import HOST_MANAGED
from nvdra.controller.controller import Controller
from nvdra.controller.election import Election, LeaseSettings
from nvdra.controller.metrics import ControllerMetrics
from nvdra.controller.settings import Settings
from nvdra.domains.templates import DaemonSettings
from nvdra.kube import ConfigError, HttpKube, ResourceApi, Response, access
from nvdra.node.clock import LoopClock
from nvdra.ports import Clock
from nvdra.programs.controller_flags import PROGRAM, Options
from nvdra.programs.kube_log import log_response
from nvdra.programs.stop import Stop
from nvdra.telemetry.http import EndpointError, MetricsServer
from nvdra.telemetry.metrics import process_metrics

STOP_S = 10.0  # from the signal to the end of the process, even if a call hangs


async def run(options: Options, gates: Gates, stop: Stop) -> int:
    """Run until the stop is requested or the lease is lost, and return the exit status."""
    stop.on_loop(STOP_S, lambda: os._exit(0))
    try:
        async with AsyncExitStack() as stack:
            await _serve(stack, options, gates, stop)
    # DROP-IN: the prefixes are the Go driver's.
    except EndpointError as error:
        return _give_up(f"setup metrics endpoint: {error}")
    except ConfigError as error:
        return _give_up(f"create client: {error}")
    except Exception as error:
        telemetry.error("The controller ended unexpectedly", traceback.format_exc())
        return _give_up(f"error running controller: {type(error).__name__}: {error}")
    telemetry.info(0, "shutdown")
    telemetry.flush()
    return 0


async def _serve(stack: AsyncExitStack, options: Options, gates: Gates, stop: Stop) -> None:
    clock = LoopClock()
    metrics: ControllerMetrics | None = None

    def called(response: Response) -> None:
        log_response(response)
        if metrics is not None:
            metrics.called(response.verb, response.status)

    kube = await stack.enter_async_context(
        HttpKube(
            access(options.kubeconfig, os.environ),
            qps=options.kube_api_qps,
            burst=options.kube_api_burst,
            user_agent=PROGRAM,
            on_response=called,
        )
    )
    settings = _settings(options, gates)
    # DROP-IN: tests of the Go driver look for this text and this field.
    telemetry.info(
        0,
        "controller manager config",
        driverNamespace=settings.namespace,
        additionalNamespaces=list(settings.additional),
        imageName=options.image_name,
        maxNodesPerIMEXDomain=options.max_nodes_per_imex_domain,
        imexMode=options.imex_mode,
    )
    controller = Controller(ResourceApi(kube), clock, settings, instance=options.pod_name)
    registry = CollectorRegistry()
    process_metrics(registry)
    metrics = controller.metrics = ControllerMetrics(registry, controller.statuses, controller.depth)
    if options.http_endpoint and options.metrics_path:
        server = MetricsServer(registry, endpoint=options.http_endpoint, path=options.metrics_path)
        await server.start()
        stack.push_async_callback(server.stop)
    if options.pprof_path:
        telemetry.warning("Ignored --pprof-path: this program serves no profiles", path=options.pprof_path)
    if not options.leader_election_enabled:
        metrics.leads(True)
        await stop.unless(controller.run())
        return
    election = Election(kube, clock, _lease(options))
    stack.push_async_callback(_release, election, clock)
    await stop.unless(_lead(election, controller, metrics))


async def _lead(election: Election, controller: Controller, metrics: ControllerMetrics) -> None:
    """Act while this replica holds the lease; return when it lost it."""
    await election.acquire()
    metrics.leads(True)
    acting = asyncio.ensure_future(controller.run())
    holding = asyncio.ensure_future(election.hold())
    try:
        await asyncio.wait((acting, holding), return_when=asyncio.FIRST_COMPLETED)
        if acting.done():
            acting.result()
    finally:
        metrics.leads(False)
        for task in (acting, holding):
            task.cancel()
        await asyncio.gather(acting, holding, return_exceptions=True)


async def _release(election: Election, clock: Clock) -> None:
    try:
        async with clock.deadline(STOP_S / 2):
            await election.release()
    except TimeoutError:
        telemetry.warning("Could not release the leader's lease in time")


def _settings(options: Options, gates: Gates) -> Settings:
    daemons = DaemonSettings(
        namespace=options.namespace,
        image=options.image_name,
        gates=gates.values,
        log_verbosity=options.log_verbosity_cd_daemon,
        max_nodes=options.max_nodes_per_imex_domain,
        pull_secrets=options.cd_daemon_image_pull_secret_names,
    )
    return Settings(daemons, options.additional_namespaces, options.imex_mode == HOST_MANAGED)


def _lease(options: Options) -> LeaseSettings:
    return LeaseSettings(
        options.leader_election_lease_lock_namespace,
        options.leader_election_lease_lock_name,
        f"{options.pod_name}-{uuid.uuid4()}",
        options.leader_election_lease_duration,
        options.leader_election_renew_deadline,
        options.leader_election_retry_period,
    )


def _give_up(why: str) -> int:
    telemetry.flush()
    print(f"Error: {why}", file=sys.stderr, flush=True)
    return 1
