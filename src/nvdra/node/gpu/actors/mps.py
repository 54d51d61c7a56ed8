"""MPS control daemons, one Deployment each: started for claims, waited for by watch, ended with everything they left.

The daemon's folder is made first and removed last: without it, nothing of the daemon is there. It keeps the compute
modes from before too, because a daemon may outlive the claim that it was started for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from nvdra import telemetry
from nvdra.claims import Facts
from nvdra.gpu import Gpu, Inventory
from nvdra.gpu.mps import StartMpsDaemon, daemon_fact
from nvdra.gpu.mps_deployment import (
    STARTED,
    STARTUP_LOG,
    deployment,
    deployment_name,
    is_as_wanted,
    why_not_ready,
)
from nvdra.host import (
    DriverFileMissing,
    MpsControl,
    MpsControlError,
    MpsControlUnusable,
    NvidiaSmi,
    NvidiaSmiError,
)
from nvdra.kube import Followed, Objects, document, until
from nvdra.node.gpu.compute_modes import ComputeModes
from nvdra.node.gpu.mps_pods import PODS, Pods
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.ports import ApiError, Clock, Host, Kube, Resource

DEPLOYMENTS = Resource("apps", "v1", "deployments", namespaced=True)

# How long the end of a daemon's pod is waited for before the claim's end is tried again; kubelet asks every while.
END_TIMEOUT_S = 60.0

_BEFORE = "compute-modes.json"
_MEMORY = re.compile(rb"^MemTotal:\s*(\d+) (\w)?", re.ASCII | re.MULTILINE)
_SIZE_UNKNOWN = "65536k"
_ASK_AGAIN_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_NOT_READY = "MPS control daemon is not yet ready"
# DROP-IN: the Go driver's.
_STARTING = "error applying config: error starting MPS control daemon"
_STOPPING = "error stopping MPS control daemon"


@dataclass(frozen=True, slots=True)
class MpsPlace:
    """Where daemons live.

    folder       of all daemons, as this program sees it
    driver_root  as this program sees it
    """

    folder: str
    driver_root: str


class MpsActor:
    """Applies and rolls back `StartMpsDaemon`.

    smi                the driver root's `nvidia-smi`; raises DriverFileMissing
    pods               what daemons' pods have of the plugin's own; raises ApiError
    inventory          as last scanned
    sets_compute_mode  GPUs of daemons are EXCLUSIVE_PROCESS; else their mode is never touched
    """

    def __init__(
        self,
        host: Host,
        clock: Clock,
        kube: Kube,
        smi: Callable[[], NvidiaSmi],
        control: MpsControl,
        place: MpsPlace,
        pods: Pods,
        inventory: Callable[[], Inventory],
        *,
        sets_compute_mode: bool = True,
    ) -> None:
        self._host = host
        self._clock = clock
        self._kube = kube
        self._modes = ComputeModes(host, smi, inventory)
        self._control = control
        self._place = place
        self._pods = pods
        self._sets_compute_mode = sets_compute_mode

    async def apply(self, step: StartMpsDaemon, journal: StepJournal) -> Facts:
        """The daemon's id, by device UUID. Raises StepFailed."""
        try:
            journal.touch()
            await self._lay(step.id)
            if self._sets_compute_mode and step.gpus:
                await self._modes.make_exclusive(step.gpus, self._before(step.id))
            await self._run(step, journal)
        except ApiError as error:
            raise StepFailed(f"{_STARTING}: {error.message}") from error
        except (OSError, NvidiaSmiError, DriverFileMissing) as error:
            raise StepFailed(f"{_STARTING}: {error}") from error
        telemetry.info(1, "Started MPS control daemon", daemon=step.id, devices=list(step.uuids))
        return {daemon_fact(uuid): step.id for uuid in step.uuids}

    async def roll_back(self, step: StartMpsDaemon, journal: StepJournal) -> None:
        """End the daemon and give back all that it had. Raises StepFailed."""
        if journal.is_touched:
            await self.stop(step.id, step.gpus)

    def daemons(self) -> tuple[str, ...]:
        """Ids of daemons that have a folder, whoever started them. Raises OSError."""
        try:
            return tuple(self._host.list(self._place.folder))
        except FileNotFoundError:
            return ()

    async def is_deployed(self, daemon: str) -> bool:
        """Whether it has a Deployment. Raises ApiError."""
        return await self._stored(deployment_name(daemon), self._pods.namespace) is not None

    async def stop(self, daemon: str, gpus: Iterable[Gpu] = ()) -> None:
        """End a daemon and give back all that it had: Deployment, compute modes, tmpfs, folder. Raises StepFailed.

        gpus   whose compute mode it may have set, where it does not say itself
        """
        folder = f"{self._place.folder}/{daemon}"
        if not self._host.exists(folder):
            return
        try:
            await self._delete(deployment_name(daemon))
            # Another release's daemon does not say what was before: its GPUs are the claim's.
            await self._modes.restore(self._before(daemon), gpus if self._sets_compute_mode else ())
            while await self._host.unmount(f"{folder}/shm"):
                pass
            await self._host.remove_tree(folder)
        except ApiError as error:
            raise StepFailed(f"{_STOPPING}: failed to delete deployment: {error.message}") from error
        except (OSError, NvidiaSmiError, DriverFileMissing) as error:
            raise StepFailed(f"{_STOPPING}: {error}") from error
        telemetry.info(1, "Stopped MPS control daemon", daemon=daemon)

    # ── its folder ─────────────────────────────────────────────────────────────────────────────────────────────

    def _before(self, daemon: str) -> str:
        """The file with compute modes from before the daemon."""
        return f"{self._place.folder}/{daemon}/{_BEFORE}"

    async def _lay(self, daemon: str) -> None:
        folder = f"{self._place.folder}/{daemon}"
        for name in ("shm", "pipe", "log"):
            await self._host.mkdir(f"{folder}/{name}", mode=0o755)
        if not self._host.mount_count(f"{folder}/shm"):
            await self._host.mount_tmpfs(f"{folder}/shm", size=self._tmpfs_size())

    def _tmpfs_size(self) -> str:
        """Half of the node's memory, as the Go driver has it."""
        try:
            found = _MEMORY.search(self._host.read("/proc/meminfo"))
        except OSError:
            found = None
        return _SIZE_UNKNOWN if found is None else f"{int(found[1]) // 2}{(found[2] or b'').decode()}"

    # ── its Deployment ─────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, step: StartMpsDaemon, journal: StepJournal) -> None:
        """Return once the daemon serves. What it waits for is told to the journal."""
        while True:
            await self._deploy(step, journal)
            if await journal.wait_for(self._until_ready(step.id, journal)):
                break
        await journal.wait_for(self._until_answering(step, journal))
        journal.waits("")

    async def _deploy(self, step: StartMpsDaemon, journal: StepJournal) -> None:
        """The Deployment is there with these settings: one with other settings is replaced."""
        pods = await self._pods()
        shm_in_root = self._host.exists(f"{self._place.driver_root}/dev/shm")
        wanted = deployment(step, pods, shm_in_root=shm_in_root)
        name, namespace = deployment_name(step.id), pods.namespace
        stored = await self._stored(name, namespace)
        if stored is not None:
            is_ending = "deletionTimestamp" in (stored.get("metadata") or {})
            if not is_ending and is_as_wanted(stored, wanted):
                return
            telemetry.warning("Replacing an MPS control daemon with other settings", daemon=step.id)
            journal.waits(f"{_NOT_READY}: a daemon with other settings is to end first")
            await journal.wait_for(self._delete(name))
        try:
            await self._kube.create(DEPLOYMENTS, orjson.dumps(wanted), namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise ApiError(error.status, error.reason, f"failed to create deployment: {error.message}") from error

    async def _stored(self, name: str, namespace: str) -> dict[str, Any] | None:
        try:
            return document(await self._kube.get(DEPLOYMENTS, name, namespace))
        except ApiError as error:
            if error.is_missing("deployments", name):
                return None
            text = f"error checking if control daemon already started: failed to get deployment: {error.message}"
            raise ApiError(error.status, error.reason, text) from error

    async def _until_ready(self, daemon: str, journal: StepJournal) -> bool:
        """True once its pod is ready; False if the Deployment went meanwhile."""

        def decide(objects: Objects) -> bool | None:
            deployments = objects["deployments"]
            if all("deletionTimestamp" in each["metadata"] for each in deployments):
                return False
            reason = why_not_ready(objects["pods"], deployments)
            journal.waits(f"{_NOT_READY}: {reason}" if reason else "")
            return None if reason else True

        def on_failure(error: ApiError) -> None:
            journal.waits(f"{_NOT_READY}: the API server does not tell: {error.message}")

        name, namespace = deployment_name(daemon), self._pods.namespace
        followed = (Followed(DEPLOYMENTS, f"metadata.name={name}"), Followed(PODS, label_selector=f"app={name}"))
        return await until(self._kube, self._clock, namespace, followed, decide, on_failure=on_failure)

    async def _until_answering(self, step: StartMpsDaemon, journal: StepJournal) -> None:
        """The daemon itself answers. Nothing tells when it will: it is asked again, each second at most."""
        attempts = 0
        while reason := await self._silence(step):
            journal.waits(f"{_NOT_READY}: {reason}")
            await self._clock.sleep(_ASK_AGAIN_S[min(attempts, len(_ASK_AGAIN_S) - 1)])
            attempts += 1

    async def _silence(self, step: StartMpsDaemon) -> str:
        """Why the daemon is not known to serve; "" if it is."""
        folder = f"{self._place.folder}/{step.id}"
        try:
            percentage = await self._control.default_percentage(f"{folder}/pipe")
        except MpsControlError as error:
            return str(error)
        except MpsControlUnusable as error:
            try:
                is_started = STARTED in self._host.read(f"{folder}/log/{STARTUP_LOG}").decode(errors="replace")
            except OSError:
                is_started = False
            return "" if is_started else f"nothing tells whether it has started ({error})"
        wanted = step.settings and step.settings.percentage
        if wanted is not None and percentage != wanted:
            return f"it gives {percentage:g} % of the threads to clients, not {wanted} %"
        return ""

    async def _delete(self, name: str) -> None:
        """Delete the Deployment and wait for the end of its pods. Raises ApiError."""
        namespace = self._pods.namespace
        try:
            await self._kube.delete(DEPLOYMENTS, name, namespace, propagation="Foreground")
        except ApiError as error:
            if not error.is_missing("deployments", name):
                raise
        failures: list[str] = []
        followed = (Followed(DEPLOYMENTS, f"metadata.name={name}"), Followed(PODS, label_selector=f"app={name}"))
        try:
            async with self._clock.deadline(END_TIMEOUT_S):
                await until(
                    self._kube,
                    self._clock,
                    namespace,
                    followed,
                    lambda objects: None if any(objects.values()) else True,
                    on_failure=lambda error: failures.append(error.message),
                )
        except TimeoutError:
            why = failures[-1] if failures else "its pod has not ended"
            raise ApiError(0, "Timeout", f"{name} is not gone after {END_TIMEOUT_S:g} s: {why}") from None
