"""The faults of this node's GPUs while the plugin runs: stored, published and logged when they change.

The order is: file, then taints and kubelet. After a change, further ones within a second are stored and published
together.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from nvdra import telemetry
from nvdra.gpu import GpuDevice, Inventory
from nvdra.gpu.health import Fault, Target
from nvdra.gpu.health_report import DeviceVerdict, concerns, described, faults_of, verdicts
from nvdra.gpu.health_state import Health
from nvdra.gpu.mig import address_of_device
from nvdra.node.gpu.health_file import HealthFile
from nvdra.ports import Clock

SETTLE_S = 1.0


class Metrics(Protocol):
    """What is counted."""

    def event(self, kind: str, effect: str) -> None: ...
    def tainted(self, counts: Mapping[tuple[str, str], int]) -> None: ...


class FaultStore:
    """The faults of this node's GPUs.

    changed   called when taints, or the health that kubelet is told, may have changed
    """

    def __init__(
        self,
        clock: Clock,
        file: HealthFile,
        inventory: Callable[[], Inventory],
        metrics: Metrics,
        changed: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._file = file
        self._inventory = inventory
        self._metrics = metrics
        self._changed = changed
        self._published: dict[str, str] = {}  # devices ever published, and their GPUs
        self._is_due = asyncio.Event()
        self.health = file.read()

    def faults_of(self, device: GpuDevice) -> tuple[Fault, ...]:
        return faults_of(device, self.health)

    def verdicts(self) -> tuple[DeviceVerdict, ...]:
        """The health of every device for kubelet; of one that is not published any more while its GPU has a fault."""
        inventory = self._inventory()
        self._published |= {name: address_of_device(device) for name, device in inventory.devices.items()}
        return verdicts(inventory, self.health, self._published)

    def shown(self) -> list[str]:
        """The faults in words, one a line."""
        now = self._clock.now()
        return [
            f"{self._named(raised.fault.target)}: {described(raised.fault)} ({raised.fault.effect}, "
            f"last seen {max(now - raised.seen_s, 0):.0f} s ago"
            + (", stays until it is cleared)" if self.health.is_held(key) else ")")
            for key, raised in sorted(self.health.faults.items(), key=lambda item: item[0])
        ]

    def replace(self, health: Health) -> None:
        """Replace the faults; store and publish them soon."""
        before, self.health = self.health, health
        if health is before:
            return
        for key, raised in health.faults.items():
            if key not in before.faults or before.faults[key].fault != raised.fault:
                self._log_raised(raised.fault, is_held=health.is_held(key))
        for key in before.faults.keys() - health.faults.keys():
            telemetry.info(0, "A GPU fault ended", **_about(before.faults[key].fault))
        self._is_due.set()

    def clear(self, device: str = "") -> list[str]:
        """Forget the faults of a device, or of all; what was cleared, in words.

        Raises LookupError for a device without faults.
        """
        meant = self._targets(device)
        gone = [raised.fault for (target, _), raised in self.health.faults.items() if target in meant]
        if device and not gone:
            raise LookupError(f"device {device} has no fault")
        telemetry.info(0, "An administrator cleared GPU faults", device=device or "all")
        self.replace(self.health.cleared(lambda target: target in meant))
        return [f"{fault.key}={fault.value}:{fault.effect} of GPU {fault.target.address}" for fault in gone]

    async def run(self) -> NoReturn:
        """Store and publish what changed; never returns."""
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

    def _named(self, target: Target) -> str:
        names = [name for name, device in self._inventory().devices.items() if concerns(target, device)]
        return ", ".join(names) or f"GPU {target.address}"

    def _targets(self, device: str) -> set[Target]:
        every = {target for target, _ in (*self.health.faults, *self.health.flaps)}
        if not device:
            return every
        found = self._inventory().devices.get(device)
        if found is None:
            return {target for target in every if target.address == self._published.get(device)}
        return {target for target in every if concerns(target, found)}

    def _log_raised(self, fault: Fault, *, is_held: bool) -> None:
        kind = fault.key.rpartition("/")[2]
        for name, device in self._inventory().devices.items():
            if fault in self.faults_of(device):
                # DROP-IN: the Go driver's line.
                telemetry.warning(f"Received {kind} health event for device {name}", **_about(fault))
        if is_held:
            telemetry.warning(
                "A GPU fault came back too often and stays: look after the GPU, then run nvdra health clear",
                **_about(fault),
            )


def _about(fault: Fault) -> dict[str, Any]:
    return {
        "address": fault.target.address,
        "partition": list(fault.target.partition) or None,
        "key": fault.key,
        "value": fault.value,
        "effect": fault.effect,
    }
