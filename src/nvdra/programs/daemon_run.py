"""The running compute-domain-daemon: API client, membership, IMEX, and their end."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Sequence

import orjson

from nvdra import telemetry
from nvdra.api.compute_domain import CLIQUE_LABEL, Member
from nvdra.daemon.files import DaemonFiles
from nvdra.daemon.identity import DaemonFailed, Identity
from nvdra.daemon.membership import PODS, Membership
from nvdra.daemon.process import ImexProcess
from nvdra.daemon.readiness import Readiness
from nvdra.daemon.roster import CliqueRoster, StatusRoster
from nvdra.daemon.updates import ListedUpdates, NamedUpdates
from nvdra.kube import ConfigError, HttpKube, access, pause_s
from nvdra.node.clock import LoopClock
from nvdra.ports import ApiError, Clock, Kube
from nvdra.programs.daemon_flags import PROGRAM, Options
from nvdra.programs.kube_log import log_response
from nvdra.programs.stop import Stop

# From the signal to the end of the process; a pod has 30 seconds before it is killed.
STOP_S = 25.0
LEAVE_S = 20.0
LABEL_ATTEMPTS = 8


async def run(options: Options, stop: Stop, *, uses_names: bool, uses_cliques: bool) -> int:
    """Run until a stop signal. Returns the exit status."""
    stop.on_loop(STOP_S, lambda: os._exit(0))
    me = Identity(
        options.compute_domain_uuid,
        options.compute_domain_name,
        options.compute_domain_namespace,
        options.cliqueid,
        options.node_name,
        options.pod_ip,
        options.pod_uid,
        options.pod_name,
        options.pod_namespace,
        options.max_nodes_per_imex_domain,
    )
    telemetry.info(0, "Starting", domain=me.domain, clique=me.clique, node=me.node, ip=me.ip)
    try:
        async with HttpKube(
            access(options.kubeconfig, os.environ),
            qps=options.kube_api_qps,
            burst=options.kube_api_burst,
            user_agent=PROGRAM,
            on_response=log_response,
        ) as kube:
            await _Daemon(me, kube, options, stop, uses_names, uses_cliques).run()
    except ConfigError as error:
        return _give_up(1, f"create client: {error}")
    except DaemonFailed as failed:
        return _give_up(failed.status, str(failed))
    except Exception as error:
        telemetry.error("The daemon ended unexpectedly", traceback.format_exc())
        return _give_up(1, f"{type(error).__name__}: {error}")
    telemetry.info(0, "shutdown")
    telemetry.flush()
    return 0


class _Daemon:
    """The parts of one daemon, wired."""

    def __init__(
        self, me: Identity, kube: Kube, options: Options, stop: Stop, uses_names: bool, uses_cliques: bool
    ) -> None:
        clock: Clock = LoopClock()
        self._me = me
        self._kube = kube
        self._clock = clock
        self._stop = stop
        self._uses_names = uses_names
        self._files = DaemonFiles(options.imex_folder, options.hosts_file)
        self._process = ImexProcess(("nvidia-imex", "-c", self._files.config_path), clock)
        self._readiness = Readiness(
            ("nvidia-imex-ctl", "-c", self._files.config_path, "-q"), clock, lambda: self._process.is_running
        )
        roster = CliqueRoster(kube, me) if uses_cliques else StatusRoster(kube, me)
        self._membership = Membership(kube, clock, me, roster, lambda: self._readiness.is_ready, self._push)
        self._updates: NamedUpdates | ListedUpdates | None = None

    async def run(self) -> None:
        """Run until a stop signal; then leave. Raises DaemonFailed."""
        if not self._me.clique:
            await self._label_pod()
            telemetry.info(0, "no cliqueID: skipping controller and IMEX daemon management")
            await self._stop.wait()
            return
        self._files.write_config(self._me.ip)
        updates = NamedUpdates if self._uses_names else ListedUpdates
        self._updates = updates(self._me, self._files, self._process)
        telemetry.info(6, "Wait for updated ComputeDomainDaemonInfo list")
        serving = asyncio.create_task(self._serve(), name="daemon")
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            failure = serving.exception() if serving.done() and not serving.cancelled() else None
            serving.cancel()
            stopping.cancel()
            await asyncio.gather(serving, stopping, return_exceptions=True)
            await self._end()
        if failure is not None:
            raise _cause(failure)

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._label_pod(), name="pod label")
            group.create_task(self._membership.run(), name="membership")
            group.create_task(self._process.run(), name="IMEX")
            group.create_task(self._readiness.run(self._membership.nudge), name="readiness")

    async def _end(self) -> None:
        """Leave the domain and stop IMEX, side by side."""

        async def leave() -> None:
            try:
                async with self._clock.deadline(LEAVE_S):
                    await self._membership.leave()
            except TimeoutError:
                telemetry.warning("The entry of this daemon could not be removed", waited_s=LEAVE_S)

        await asyncio.gather(leave(), self._process.stop())

    async def _label_pod(self) -> None:
        """Say the clique on the pod. Raises DaemonFailed."""
        change = orjson.dumps({"metadata": {"labels": {CLIQUE_LABEL: self._me.clique}}})
        for attempt in range(1, LABEL_ATTEMPTS + 1):
            try:
                await self._kube.patch(PODS, self._me.pod_name, change, self._me.pod_namespace)
                return
            except ApiError as error:
                is_passing = error.status in (0, 409, 429) or error.status >= 500
                if not is_passing or attempt == LABEL_ATTEMPTS:
                    # DROP-IN: the prefix is the Go driver's.
                    raise DaemonFailed(
                        2, f"failed to add compute domain clique label to pod: {error.message}"
                    ) from error
                await self._clock.sleep(pause_s(attempt, 0.5, error.retry_after_s))

    def _push(self, members: Sequence[Member], wanted_nodes: int) -> None:
        assert self._updates is not None
        self._updates.take(members, wanted_nodes)


def _cause(failure: BaseException) -> BaseException:
    """The error inside a task group's."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _give_up(status: int, why: str) -> int:
    telemetry.flush()
    print(f"Error: {why}", file=sys.stderr, flush=True)
    return status
