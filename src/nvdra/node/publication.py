"""Publication: keeps this node's slices as desired, also if other writers change them.

`slices` decides the desired slices and the writes; this module watches, writes and repeats. It writes only
differences, never deletes devices because a driver is absent, and never ends the process: it retries while the API
server is unreachable or refuses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nvdra import telemetry
from nvdra.kube import Change, ResourceApi, Watcher, from_wire, pause_s
from nvdra.node.slice_writes import PARTITIONABLE, SLICES, Notice, SliceWrites, Unpublished, log
from nvdra.ports import ApiError, Clock, Resource
from nvdra.slices import (
    COUNTERS_SINCE,
    NEWEST_MINOR,
    Pool,
    changes,
    device_problems,
    slice_problems,
    specs_for,
    stored_order,
)

# Other writers mostly delete or edit several slices: all changes within this time are repaired together.
SETTLE_S = 1.0
# kubelet deletes a node's slices when it starts, at about the time when it registers the plugin.
SETTLE_AT_RESTART_S = 0.1
RESTART_LASTS_S = 15.0
# Repairs slow down while another writer keeps reverting them, and are quick again after this time without one.
PEACE_S = 60.0
REPAIR_LIMIT_S = 30.0

_AT_ONCE = 5  # conflicts in a row answered without a pause

Value = Mapping[str, Any]


class Publication:
    """One node's pool. `publish` sets the desired devices, `run` keeps the API server's slices equal to them.

    has_counters   devices may share counters: those of one PCI device have slices of their own, with counters in the
                   layout of the server's version
    published      set once the stored slices have been the desired ones
    is_published   whether they are now, as far as is known
    """

    def __init__(
        self,
        api: ResourceApi,
        clock: Clock,
        pool: Pool,
        *,
        has_counters: bool = False,
        on_notice: Callable[[Notice], None] = log,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._clock = clock
        self._pool = pool
        self._has_counters = has_counters
        self._logged_uncounted = False
        self._notice = on_notice
        self._jitter = jitter
        self._wanted: tuple[tuple[Value, ...], frozenset[str], tuple[Value, ...], frozenset[str]] | None = None
        self._is_held = False
        self._left_out: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._due_at: float | None = None
        self._not_before = 0.0
        self._restarted_at = -RESTART_LASTS_S
        self._is_repair = False
        self._repairs = 0
        self._repaired_at = 0.0
        self._writes = SliceWrites(api, pool, lambda: self._watcher.store, on_notice)
        self.published = asyncio.Event()
        self.is_published = False
        self._watcher: Watcher[dict[str, Any]] = Watcher(
            api.kube,
            clock,
            lambda: api.resource(SLICES),
            _shape,
            field_selector=f"spec.driver={pool.driver},spec.nodeName={pool.node_name}",
            on_change=self._on_change,
            on_failure=self._on_watch_failure,
            is_gone=api.forget,
            jitter=jitter,
        )

    def publish(
        self,
        devices: Iterable[Value],
        withdrawn: Iterable[str] = (),
        counter_sets: Iterable[Value] = (),
        uncounted_withdrawn: Iterable[str] = (),
    ) -> None:
        """Set the pool's devices (v1-shaped), without those withdrawn.

        counter_sets          the counters that the devices consume
        uncounted_withdrawn   devices that are withdrawn too where the API server keeps no counters
        """
        fit = tuple(device for device in devices if self._is_fit(device))
        if self._wanted != (wish := (fit, frozenset(withdrawn), tuple(counter_sets), frozenset(uncounted_withdrawn))):
            self._wanted = wish
            self._schedule(0.0)

    def hold(self) -> None:
        """Write nothing until `resume`: another instance publishes the pool."""
        self._is_held = True

    def resume(self) -> None:
        """Publish the pool again after `hold`."""
        if self._is_held:
            self._is_held = False
            self._schedule(0.0)

    def nudge(self) -> None:
        """Check the slices now, and repair them quickly for a while: kubelet registered the plugin again.

        kubelet deletes a node's slices when it starts.
        """
        self._restarted_at = self._clock.now()
        self._schedule(0.0)

    @property
    def stored(self) -> list[dict[str, Any]]:
        """The slices of this node and driver as the API server has them, v1-shaped."""
        return self._watcher.store.values()

    async def run(self) -> None:
        """Never returns; cancel it. The slices stay: kubelet removes them if no plugin registers again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watcher.run(), name="watch slices")
            group.create_task(self._writes.read_ahead(), name="read node")
            group.create_task(self._loop(), name="publish")

    # When

    def _schedule(self, in_s: float) -> None:
        at = max(self._clock.now() + in_s, self._not_before)
        if self._due_at is None or at < self._due_at:
            self._due_at = at
            self._wake.set()

    async def _until_due(self) -> None:
        while self._due_at is None or self._due_at > self._clock.now():
            self._wake.clear()
            if self._due_at is None:
                await self._wake.wait()
                continue
            try:
                async with self._clock.deadline(self._due_at - self._clock.now()):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._due_at = None

    def _on_change(self, change: Change[dict[str, Any]]) -> None:
        if self._writes.is_own(change.uid):
            return
        if change.kind == "listed":
            telemetry.info(2, "Caches populated", at="reflector.go:429", type="*v1.ResourceSlice")
            self._writes.forget_version()
            self._schedule(0.0)
            return
        if change.kind == "deleted":
            self._writes.forget_owner()
        if self._watcher.store.is_filled:
            self._is_repair = True
            self._schedule(self._settle_s())

    def _settle_s(self) -> float:
        now = self._clock.now()
        if now - self._restarted_at < RESTART_LASTS_S:
            return SETTLE_AT_RESTART_S
        if now - self._repaired_at > PEACE_S:
            self._repairs = 0
        return float(min(SETTLE_S * 2**self._repairs, REPAIR_LIMIT_S))

    def _on_watch_failure(self, error: ApiError, pause_s: float) -> None:
        # A server that comes back may be another release with other features: fields that it dropped are sent again.
        if self._writes.forget_server():
            self._schedule(pause_s + SETTLE_S)
        if not pause_s:
            telemetry.info(2, "Listing ResourceSlices anew", cause=error.message)
            return
        values = {"error": error.message, "retry_s": round(pause_s, 1)}
        self._notice(Notice("failed", "Listing or watching ResourceSlices failed", values))

    # What

    async def _loop(self) -> None:
        failures = 0
        while True:
            await self._until_due()
            try:
                await self._sync()
            except Unpublished as error:
                failures += 1
                self.is_published = False
                if error.retry_at_once and failures <= _AT_ONCE:
                    self._schedule(0.0)
                    continue
                retry_s = pause_s(failures, self._jitter(), error.retry_after_s)
                if error.retry_after_s is not None:
                    self._not_before = self._clock.now() + retry_s
                self._schedule(retry_s)
                values = {"pool": self._pool.node_name, "error": str(error), "retry_s": round(retry_s, 1)}
                self._notice(Notice("failed", "Publishing devices failed", values))
            except Exception as error:
                # An unexpected object must neither end publication nor make it loop without a pause.
                failures += 1
                self.is_published = False
                self._schedule(pause_s(failures, self._jitter()))
                telemetry.error("Publishing devices failed unexpectedly, trying again later", repr(error))
            else:
                failures = 0

    async def _sync(self) -> None:
        store = self._watcher.store
        if self._is_held or self._wanted is None or not store.is_filled:
            return
        wish = self._wanted
        minor = await self._writes.server_minor() if wish[2] else NEWEST_MINOR
        devices, withdrawn, counter_sets, uncounted_withdrawn = wish
        is_counted = bool(counter_sets) and self._is_counted(minor)
        stored = store.values()
        specs = specs_for(
            devices,
            counter_sets,
            has_counters=self._has_counters,
            is_counted=is_counted,
            minor=minor,
            withdrawn=withdrawn,
            uncounted_withdrawn=uncounted_withdrawn,
            stored_order=stored_order(stored),
        )
        plan = changes(specs, stored, self._pool, self._writes.kept)
        if plan.is_empty:
            self._settled()
            return
        if self._is_repair:
            self._repairs += 1
            self._repaired_at = self._clock.now()
            self._is_repair = False
        for body in (*(update.body for update in plan.updates), *(create.body for create in plan.creates)):
            if problems := slice_problems(body["spec"], minor):
                raise Unpublished(f"the API server would refuse the slices: {'; '.join(problems)}")
        await self._writes.carry_out(plan, specs)
        if is_counted and not self._writes.keeps_count:
            self._schedule(0.0)  # the server dropped the counters: devices that share them must be unpublished
        if self._wanted == wish:
            self._settled()

    def _is_counted(self, minor: int) -> bool:
        """Whether the server keeps counters; without them the scheduler would allocate overlapping devices."""
        keeps_count = self._writes.keeps_count and minor >= COUNTERS_SINCE
        if not keeps_count and not self._logged_uncounted:
            text = "Only whole devices are published, not their parts: the API server keeps no counters"
            needs = f"Kubernetes 1.{COUNTERS_SINCE} or newer with {PARTITIONABLE} on"
            self._notice(Notice("left_out", text, {"pool": self._pool.node_name, "needs": needs}))
        self._logged_uncounted = not keeps_count
        return keeps_count

    def _settled(self) -> None:
        self._is_repair = False
        self.is_published = True
        self.published.set()

    def _is_fit(self, device: Value) -> bool:
        name, problems = str(device.get("name")), "; ".join(device_problems(device))
        if problems and self._left_out.get(name) != problems:
            self._notice(Notice("left_out", "A device is not published", {"device": name, "reason": problems}))
        self._left_out[name] = problems
        return not problems


def _shape(thing: dict[str, Any], resource: Resource) -> dict[str, Any]:
    """A stored slice in v1 shape, without `managedFields`. Raises ValueError if it has no name or no pool."""
    named = str(thing.get("apiVersion") or "").rpartition("/")[2]
    shaped = from_wire(thing, named or resource.version)
    spec = shaped.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("pool"), dict):
        raise ValueError("its spec has no pool")
    if lacking := [key for key in ("name", "uid", "resourceVersion") if not thing["metadata"].get(key)]:
        raise ValueError(f"its metadata has no {lacking[0]}")
    shaped["metadata"] = {key: value for key, value in thing["metadata"].items() if key != "managedFields"}
    return shaped
