"""The health monitor: receives NVML events, keeps the faults of this node's GPUs, and ends them when GPUs recover.

`gpu/health*.py` decides; this module waits, looks, stores and reports. The order is: file, then taints and kubelet.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any, NoReturn, Protocol

from nvdra import telemetry
from nvdra.gpu import GpuDevice, Inventory, parent
from nvdra.gpu.health import (
    GPU_LOST,
    IGNORED_XIDS,
    WATCHED_EVENTS,
    XID_EVENT,
    Fault,
    HealthEvent,
    Target,
    Unattributed,
    fault_of,
    lost,
    unmonitored,
    waits_for_reset,
)
from nvdra.gpu.health_report import DeviceVerdict, concerns, described, faults_of, verdicts
from nvdra.gpu.health_state import Health, Look
from nvdra.node.gpu.health_file import HealthFile
from nvdra.nvml import DriverAbsent, EventsClosed, NvmlError, NvmlHung, Watched
from nvdra.ports import Clock

# After a change, further ones within this time are stored and published together.
SETTLE_S = 1.0
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


class Metrics(Protocol):
    """What the monitor counts."""

    def event(self, kind: str, effect: str) -> None: ...
    def tainted(self, counts: Mapping[tuple[str, str], int]) -> None: ...


class HealthMonitor:
    """The faults of this node's GPUs.

    reread    reads the partitions of a GPU (PCI address) again. Raises NvmlError, NvmlHung, DriverAbsent
    rescan    looks at all GPUs again: one that was lost answers
    changed   called when taints, or the health that kubelet is told, may have changed
    ignored   XIDs that are no faults, beside the built-in ones
    """

    def __init__(
        self,
        events: EventSession,
        clock: Clock,
        file: HealthFile,
        inventory: Callable[[], Inventory],
        *,
        reread: Callable[[str], Awaitable[None]],
        rescan: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        metrics: Metrics,
        ignored: frozenset[int] = frozenset(),
    ) -> None:
        self._events = events
        self._clock = clock
        self._file = file
        self._inventory = inventory
        self._reread = reread
        self._rescan = rescan
        self._changed = changed
        self._metrics = metrics
        self._ignored = IGNORED_XIDS | ignored
        self.health = file.read()
        self._wanted: frozenset[str] = frozenset()
        self._watched: dict[str, Watched] = {}
        self._links: dict[str, int] = {}  # up when the GPU was watched first
        self._pending: list[tuple[HealthEvent, int]] = []  # events of unknown partitions, and attempts
        self._known: dict[str, str] = {}  # devices ever published, and their GPUs
        self._looked_s = self._opened_s = clock.now()
        self._is_partial = False  # a GPU refuses, is lost, or waits for a reset
        self._pauses = AsyncExitStack()
        self._is_due = asyncio.Event()
        self._absent = ""

    def faults_of(self, device: GpuDevice) -> tuple[Fault, ...]:
        return faults_of(device, self.health)

    def verdicts(self) -> tuple[DeviceVerdict, ...]:
        """The health of every device for kubelet; of one that is not published any more while its GPU has a fault."""
        inventory = self._inventory()
        self._known |= {name: parent(device).pci_bus_id for name, device in inventory.devices.items()}
        return verdicts(inventory, self.health, self._known)

    async def run(self) -> NoReturn:
        """Receive events and look at GPUs with faults. Raises DriverChanged; never returns."""
        storing = asyncio.create_task(self._store(), name="store health")
        try:
            await self._monitor()
        finally:
            storing.cancel()

    def shown(self) -> list[str]:
        """The faults in words, one a line."""
        now = self._clock.now()
        return [
            f"{self._named(raised.fault.target)}: {described(raised.fault)} ({raised.fault.effect}, "
            f"last seen {max(now - raised.seen_s, 0):.0f} s ago"
            + (", stays until it is cleared)" if self.health.is_held(key) else ")")
            for key, raised in sorted(self.health.faults.items(), key=lambda item: item[0])
        ]

    def _named(self, target: Target) -> str:
        names = [name for name, device in self._inventory().devices.items() if concerns(target, device)]
        return ", ".join(names) or f"GPU {target.address}"

    async def clear(self, device: str = "") -> list[str]:
        """Forget the faults of a device, or of all; what was cleared, in words.

        A fault that still lasts is found again at the next look. Raises LookupError for a device without faults.
        """
        meant = self._targets(device)
        gone = [raised.fault for (target, _), raised in self.health.faults.items() if target in meant]
        if device and not gone:
            raise LookupError(f"device {device} has no fault")
        self._set(self.health.cleared(lambda target: target in meant))
        for fault in gone:
            telemetry.info(0, "An administrator cleared a GPU fault", **_about(fault))
        self._wanted = frozenset()  # open the session anew, which looks at every GPU
        return [f"{fault.key}={fault.value}:{fault.effect} of GPU {fault.target.address}" for fault in gone]

    async def pause(self) -> None:
        """Hold no GPU until `resume`, so that one can be reset. Meanwhile no event is received. Raises NvmlHung."""
        await self._pauses.enter_async_context(self._events.released())
        telemetry.info(0, "Paused the monitoring of GPUs")
        self._unmonitor()

    async def resume(self) -> None:
        """Receive events again; what recovery GPUs need now is read from NVML."""
        await self._pauses.aclose()
        telemetry.info(0, "Resumed the monitoring of GPUs")

    def _targets(self, device: str) -> set[Target]:
        every = {target for target, _ in (*self.health.faults, *self.health.flaps)}
        if not device:
            return every
        found = self._inventory().devices.get(device)
        if found is None:
            return {target for target in every if target.address == self._known.get(device)}
        return {fault.target for fault in self.faults_of(found)} | (every & {Target(parent(found).pci_bus_id)})

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
        wanted = frozenset(self._inventory().gpus) | self.health.addresses
        if wanted != self._wanted or (self._is_partial and now - self._opened_s >= REOPEN_S):
            await self._open(wanted)
        elif self._watched and now - self._looked_s >= LOOK_S:
            self._looked_s = now
            await self._look(self.health.addresses & self._watched.keys())
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
        inventory, health = self._inventory(), self.health
        for address, gpu in found.items():
            if address in self._watched and not gpu.error:
                self._links.setdefault(address, gpu.links)
                health = health.monitored(address)
            elif gpu.is_held and address in inventory.gpus:
                if health.monitored(address) is health:
                    reason = gpu.error or "it sends no events of XIDs"
                    telemetry.warning("A GPU is not monitored", address=address, reason=reason)
                health = health.raised(unmonitored(address), self._opened_s)
        self._set(self._judged(health, found))
        if any(address not in inventory.gpus and not gpu.error for address, gpu in found.items()):
            await self._rescan()

    async def _look(self, addresses: Iterable[str]) -> None:
        if addresses := sorted(addresses):
            found = await self._events.look(addresses)
            self._set(self._judged(self.health, found))
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
        health = self.health
        for address in self._inventory().gpus:
            health = health.raised(unmonitored(address), self._clock.now())
        self._wanted = frozenset()
        self._set(health)

    async def _received(self, events: Iterable[tuple[str, int, int, int, int]]) -> None:
        health = self.health
        unknown: dict[HealthEvent, int] = {}
        for address, kind, data, gi_id, _ci_id in events:
            event = HealthEvent(address, kind, data, gi_id)
            try:
                health = self._noted(health, event)
            except Unattributed:
                unknown[event] = 0
        self._set(health)
        self._pending += unknown.items()
        await self._attribute_pending()

    async def _attribute_pending(self) -> None:
        """Read the partitions of GPUs anew for events that name an unknown one, and judge these events."""
        pending, self._pending = self._pending, []
        for event, attempts in pending:
            try:
                await self._reread(event.address)
                self._set(self._noted(self.health, event))
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
        fault = fault_of(event, self._inventory(), self._ignored, self._links.get(event.address, 0))
        if fault is None:
            telemetry.info(6, "Ignored an event", address=event.address, kind=event.kind, data=event.data)
            return health
        self._metrics.event(fault.key.rpartition("/")[2], fault.effect)
        return health.raised(fault, self._clock.now())

    def _set(self, health: Health) -> None:
        before, self.health = self.health, health
        if health is before:
            return
        for key, raised in health.faults.items():
            if key not in before.faults or before.faults[key].fault != raised.fault:
                self._log_raised(raised.fault, is_held=health.is_held(key))
        for key in before.faults.keys() - health.faults.keys():
            telemetry.info(0, "A GPU recovered from a fault", **_about(before.faults[key].fault))
        self._is_due.set()

    def _log_raised(self, fault: Fault, *, is_held: bool) -> None:
        # DROP-IN: the Go driver's line.
        for name, device in self._inventory().devices.items():
            if fault in self.faults_of(device):
                kind = "gpu-lost" if fault.key == GPU_LOST else fault.key.rpartition("/")[2]
                telemetry.warning(f"Received {kind} health event for device {name}", **_about(fault))
        if is_held:
            telemetry.warning(
                "A GPU fault came back too often and stays: look after the GPU, then run nvdra health clear",
                **_about(fault),
            )

    async def _store(self) -> NoReturn:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            await self._file.write(self.health)
            self._changed()
            devices = self._inventory().devices.values()
            self._metrics.tainted(
                Counter((fault.key, fault.effect) for device in devices for fault in self.faults_of(device))
            )
            await self._clock.sleep(SETTLE_S)


def _about(fault: Fault) -> dict[str, Any]:
    return {
        "address": fault.target.address,
        "partition": list(fault.target.partition) or None,
        "key": fault.key,
        "value": fault.value,
        "effect": fault.effect,
    }
