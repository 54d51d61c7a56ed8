"""The health monitor: receives NVML events, raises faults, looks at GPUs with faults, and ends them when GPUs recover.

`gpu/health*.py` decides; this module waits and looks; `fault_store` keeps and reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import NoReturn, Protocol

from nvdra import telemetry
from nvdra.gpu import Inventory
from nvdra.gpu.health import (
    IGNORED_XIDS,
    WATCHED_EVENTS,
    XID_EVENT,
    HealthEvent,
    Unattributed,
    fault_of,
    lost,
    unmonitored,
    waits_for_reset,
)
from nvdra.gpu.health_state import Health, Look
from nvdra.node.gpu.fault_store import FaultStore, Metrics
from nvdra.nvml import DriverAbsent, EventsClosed, NvmlError, NvmlHung, Watched
from nvdra.ports import Clock

# How often GPUs with faults are looked at: those that the session watches, and those that it leaves out.
LOOK_S = 5.0
REOPEN_S = 30.0
# Pause after NVML failed twice; doubled with each further failure in a row.
PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
# How often the partition of an event is looked for if it cannot be read.
ATTEMPTS = 3


class EventSession(Protocol):
    """The part of `NvmlEvents` that the monitor uses; errors as there."""

    async def open(self, addresses: Iterable[str], wanted: int) -> Mapping[str, Watched]: ...
    async def next(self) -> Sequence[tuple[str, int, int, int, int]]: ...
    async def look(self, addresses: Iterable[str]) -> Mapping[str, Watched]: ...
    def released(self) -> AbstractAsyncContextManager[None]: ...


class HealthMonitor:
    """Watches this node's GPUs.

    reread    reads the partitions of a GPU (PCI address) again. Raises NvmlError, NvmlHung, DriverAbsent
    rescan    looks at all GPUs again: one that was lost answers
    ignored   XIDs that are no faults, beside the built-in ones
    """

    def __init__(
        self,
        events: EventSession,
        clock: Clock,
        store: FaultStore,
        inventory: Callable[[], Inventory],
        *,
        reread: Callable[[str], Awaitable[None]],
        rescan: Callable[[], Awaitable[None]],
        metrics: Metrics,
        ignored: frozenset[int] = frozenset(),
    ) -> None:
        self._events = events
        self._clock = clock
        self._store = store
        self._inventory = inventory
        self._reread = reread
        self._rescan = rescan
        self._metrics = metrics
        self._ignored = IGNORED_XIDS | ignored
        self._wanted: frozenset[str] = frozenset()
        self._watched: dict[str, Watched] = {}
        self._links: dict[str, int] = {}  # up when the GPU was watched first
        self._pending: list[tuple[HealthEvent, int]] = []  # events of unknown partitions, and attempts
        self._looked_s = self._opened_s = clock.now()
        self._is_partial = False  # a GPU refuses, is lost, or waits for a reset
        self._pauses = AsyncExitStack()
        self._absent = ""

    async def run(self) -> NoReturn:
        """Receive events and look at GPUs with faults. Raises DriverChanged; never returns."""
        storing = asyncio.create_task(self._store.run(), name="store health")
        try:
            await self._monitor()
        finally:
            storing.cancel()

    async def clear(self, device: str = "") -> list[str]:
        """As `FaultStore.clear`. What still lasts is found again at once."""
        gone = self._store.clear(device)
        self._wanted = frozenset()  # open the session anew, which looks at every GPU
        return gone

    async def pause(self) -> None:
        """Hold no GPU until `resume`, so that one can be reset. Meanwhile no event is received. Raises NvmlHung."""
        await self._pauses.enter_async_context(self._events.released())
        telemetry.info(0, "Paused the monitoring of GPUs")
        self._unmonitor()

    async def resume(self) -> None:
        """Receive events again; what recovery GPUs need now is read from NVML."""
        await self._pauses.aclose()
        telemetry.info(0, "Resumed the monitoring of GPUs")

    async def _monitor(self) -> NoReturn:
        failures = 0
        while True:
            try:
                await self._turn()
                failures = 0
            except EventsClosed:
                self._wanted = frozenset()  # opened anew at the next turn
            except (NvmlError, NvmlHung, DriverAbsent) as error:
                failures += 1
                await self._failed(error)
                if failures > 1:  # events are missed meanwhile: try again at once first
                    await self._clock.sleep(min(PAUSE_S * 2 ** (failures - 2), LONGEST_PAUSE_S))

    async def _turn(self) -> None:
        """One wait for events, after what is due before it."""
        now = self._clock.now()
        wanted = frozenset(self._inventory().gpus) | self._store.health.addresses
        if wanted != self._wanted or (self._is_partial and now - self._opened_s >= REOPEN_S):
            await self._open(wanted)
        elif self._watched and now - self._looked_s >= LOOK_S:
            self._looked_s = now
            await self._look(self._store.health.addresses & self._watched.keys())
            await self._attribute_pending()
        if not self._watched:
            await self._clock.sleep(PAUSE_S)
        elif events := await self._events.next():
            await self._received(events)

    async def _open(self, wanted: frozenset[str]) -> None:
        found = await self._events.open(sorted(wanted), WATCHED_EVENTS)
        self._absent = ""
        self._wanted, self._opened_s = wanted, self._clock.now()
        self._is_partial = any(gpu.error or not gpu.is_held for gpu in found.values())
        self._watched = {address: gpu for address, gpu in found.items() if gpu.kinds & XID_EVENT and gpu.is_held}
        inventory, health = self._inventory(), self._store.health
        for address, gpu in found.items():
            if address in self._watched and not gpu.error:
                self._links.setdefault(address, gpu.links)
                health = health.monitored(address)
            elif gpu.is_held and address in inventory.gpus:
                if health.monitored(address) is health:
                    reason = gpu.error or "it sends no events of XIDs"
                    telemetry.warning("A GPU is not monitored", address=address, reason=reason)
                health = health.raised(unmonitored(address), self._opened_s)
        self._store.replace(self._judged(health, found))
        if any(address not in inventory.gpus and not gpu.error for address, gpu in found.items()):
            await self._rescan()

    async def _look(self, addresses: Iterable[str]) -> None:
        if addresses := sorted(addresses):
            found = await self._events.look(addresses)
            self._store.replace(self._judged(self._store.health, found))
            if any(gpu.is_lost or waits_for_reset(gpu.action) for gpu in found.values()):
                self._wanted = frozenset()  # open the session anew without it

    def _judged(self, health: Health, found: Mapping[str, Watched]) -> Health:
        now = self._clock.now()
        for address, gpu in found.items():
            if gpu.is_lost:
                health = health.raised(lost(address), now)
            elif not gpu.error:
                health = health.looked_at(address, Look(gpu.action, gpu.links), now)
        return health

    async def _failed(self, error: NvmlError | NvmlHung | DriverAbsent) -> None:
        """NVML failed: find out whether a GPU is lost, and open the session anew."""
        watched, self._wanted = self._watched, frozenset()
        if isinstance(error, NvmlError):
            self._metrics.event("nvml-error", "")
            telemetry.warning("Waiting for GPU events failed, looking at every GPU", cause=str(error))
            with suppress(EventsClosed, NvmlHung):
                await self._look(watched)
            return
        if self._absent != str(error):
            telemetry.warning("GPUs are not monitored now", cause=str(error))
        self._absent, self._watched = str(error), {}
        self._unmonitor()

    def _unmonitor(self) -> None:
        """No event of any GPU is received."""
        health = self._store.health
        for address in self._inventory().gpus:
            health = health.raised(unmonitored(address), self._clock.now())
        self._wanted = frozenset()
        self._store.replace(health)

    async def _received(self, events: Iterable[tuple[str, int, int, int, int]]) -> None:
        health = self._store.health
        unknown: dict[HealthEvent, int] = {}
        for address, kind, data, gi_id, _ci_id in events:
            event = HealthEvent(address, kind, data, gi_id)
            try:
                health = self._noted(health, event)
            except Unattributed:
                unknown[event] = 0
        self._store.replace(health)
        self._pending += unknown.items()
        await self._attribute_pending()

    async def _attribute_pending(self) -> None:
        """Read the partitions of GPUs anew for events that name an unknown one, and judge these events."""
        pending, self._pending = self._pending, []
        for event, attempts in pending:
            try:
                await self._reread(event.address)
                self._store.replace(self._noted(self._store.health, event))
            except Unattributed as error:
                self._metrics.event("unattributed", "")
                telemetry.warning("Ignored an event of a partition that is gone", partition=str(error), xid=event.data)
            except (NvmlError, NvmlHung, DriverAbsent) as error:
                if attempts + 1 < ATTEMPTS:
                    self._pending.append((event, attempts + 1))
                    continue
                self._metrics.event("unattributed", "")
                telemetry.warning(
                    "Ignored an event whose partition cannot be looked up",
                    address=event.address,
                    xid=event.data,
                    cause=str(error),
                )

    def _noted(self, health: Health, event: HealthEvent) -> Health:
        if not event.address:
            telemetry.info(1, "Ignored an event of a GPU that is not watched", kind=event.kind, data=event.data)
            return health
        fault = fault_of(event, self._inventory(), self._ignored, self._links.get(event.address, 0))
        if fault is None:
            telemetry.info(6, "Ignored an event", address=event.address, kind=event.kind, data=event.data)
            return health
        self._metrics.event(fault.key.rpartition("/")[2], fault.effect)
        return health.raised(fault, self._clock.now())
