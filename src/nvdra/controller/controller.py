"""A controller at work: caches, queue and reconciler, from the first list to the end."""

from __future__ import annotations

import asyncio
import traceback

from nvdra import telemetry
from nvdra.controller.caches import Caches
from nvdra.controller.context import Context
from nvdra.controller.events import Events
from nvdra.controller.metrics import ControllerMetrics
from nvdra.controller.patches import Waiting
from nvdra.controller.queue import WorkQueue
from nvdra.controller.reconciler import Reconciler
from nvdra.controller.settings import Settings
from nvdra.controller.status import Schema
from nvdra.kube import ResourceApi
from nvdra.ports import ApiError, Clock

COMPONENT = "compute-domain-controller"


class Controller:
    """Serves all ComputeDomains while `run` runs."""

    def __init__(self, api: ResourceApi, clock: Clock, settings: Settings, *, instance: str = "") -> None:
        self._clock, self._settings = clock, settings
        self._schema = Schema(api.kube)
        self.metrics: ControllerMetrics | None = None
        self._queue = WorkQueue(clock, self._work, on_failure=self._failed)
        self._caches = Caches(api, clock, settings, self._changed)
        events = Events(api.kube, clock, COMPONENT, instance)
        context = Context(
            api, clock, settings, self._caches, events, self._queue.add, lambda: self._schema.has_conditions
        )
        self._reconciler = Reconciler(context)
        self._is_working = False

    async def run(self) -> None:
        """Never returns; cancel it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._caches.run())
            group.create_task(self._start())

    def statuses(self) -> list[str]:
        """The status of each ComputeDomain."""
        domains = self._caches.domains
        return [each.status for uid in domains.keys() for each in domains.of(uid)]  # noqa: SIM118  a Cache is no dict

    def depth(self) -> int:
        """How many domains wait to be worked on."""
        return self._queue.depth

    async def _start(self) -> None:
        await self._caches.filled()
        await self._schema.look()
        self._is_working = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            group.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Look at every domain now, and from time to time without a change."""
        while True:
            for kind in ("ComputeDomain", "DaemonSet", "ResourceClaimTemplate", "Node"):
                telemetry.info(6, f"Cleanup: perform for {kind} objects")  # DROP-IN: the text is the Go driver's
            for uid in self._caches.uids():
                self._queue.add(uid)
            await self._clock.sleep(self._settings.sweep_s)
            await self._schema.look()

    def _changed(self, uid: str) -> None:
        if self._is_working:
            self._queue.add(uid, self._settings.coalesce_s)

    async def _work(self, uid: str) -> None:
        await self._reconciler.reconcile(uid)
        if self.metrics is not None:
            self.metrics.worked("success")

    def _failed(self, uid: str, error: Exception, failures: int) -> None:
        is_conflict = isinstance(error, ApiError) and error.status == 409
        is_expected = is_conflict or isinstance(error, Waiting)
        if self.metrics is not None:
            self.metrics.worked("conflict" if is_conflict else "error")
        cause = str(error)
        if not isinstance(error, ApiError | Waiting):
            frame = traceback.extract_tb(error.__traceback__)[-1]
            cause = f"{type(error).__name__} at {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}: {error}"
        # DROP-IN: the text is the Go driver's.
        telemetry.info(2 if is_expected else 0, f"Reconcile: {cause} (attempt {failures})", uid=uid)
