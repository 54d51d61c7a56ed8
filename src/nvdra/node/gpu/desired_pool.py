"""The desired pool: which devices of the inventory are published, given the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nvdra import telemetry
from nvdra.api import Gates
from nvdra.checkpoint import Checkpoint
from nvdra.gpu import GpuDevice, Inventory
from nvdra.gpu.health import Fault
from nvdra.gpu.health_report import tainted
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.shares import NOT_SHARED, Shares
from nvdra.gpu.taints import Taints, merged, with_taints
from nvdra.gpu.twins import counter_sets, offered, taken_twins
from nvdra.gpu.unpublished import withdrawn
from nvdra.node.publication import Publication


class DesiredPool:
    """Tells publication what the pool is to hold.

    has_gpus   whether the node has GPUs at all, whoever can read them
    faults     those of a device now, for its taints
    """

    def __init__(
        self,
        publication: Publication,
        gates: Gates,
        inventory: Callable[[], Inventory],
        has_gpus: Callable[[], bool],
        shares: Shares = NOT_SHARED,
        faults: Callable[[GpuDevice], Iterable[Fault]] = lambda _device: (),
    ) -> None:
        self._publication = publication
        self._gates = gates
        self._inventory = inventory
        self._has_gpus = has_gpus
        self._shares = shares
        self._faults = faults
        self._checkpoint: Checkpoint | None = None
        self._taints: dict[str, Taints] = {}
        self._withdrawn: frozenset[str] = frozenset()
        self._twins: frozenset[str] = frozenset()
        self._unmanaged: frozenset[str] = frozenset()
        self._announced: frozenset[str] = frozenset()

    def checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        """The checkpoint is another one: it may hold other devices back."""
        is_first, self._checkpoint = self._checkpoint is None, checkpoint
        inventory = self._inventory()
        unpublished = withdrawn(inventory, checkpoint) | self._also_withdrawn(inventory, checkpoint)
        if is_first or (unpublished, taken_twins(inventory, checkpoint)) != (self._withdrawn, self._twins):
            self.renew()

    def taint(self, source: str, taints: Taints) -> None:
        """The taints of one source, which replace its former ones."""
        if self._taints.get(source, {}) != taints:
            self._taints[source] = taints
            self.renew()

    def renew(self) -> None:
        """The inventory may be another one."""
        if self._checkpoint is None:
            return
        inventory = self._inventory()
        unpublished = withdrawn(inventory, self._checkpoint) | self._also_withdrawn(inventory, self._checkpoint)
        if not inventory.devices and (inventory.unread or self._has_gpus()):
            # GPUs are there and cannot be read now: what is published stays, an empty pool would be a lie.
            return
        self._log_changes(inventory, self._checkpoint, unpublished)
        self._withdrawn = unpublished
        self._twins = taken_twins(inventory, self._checkpoint)
        for name in inventory.devices:
            if name not in self._announced:  # else every scan would say hundreds of lines anew
                telemetry.info(4, f"About to announce device {name}")
        self._announced = frozenset(inventory.devices)
        taints = merged(self._taints)
        self._publication.publish(
            [with_taints(self._offered(device, inventory), taints) for device in inventory.devices.values()],
            withdrawn=unpublished,
            counter_sets=(*inventory.counter_sets(), *counter_sets(inventory)),
            uncounted_withdrawn=self._twins,
        )

    def _offered(self, device: GpuDevice, inventory: Inventory) -> dict[str, Any]:
        return tainted(offered(device, inventory, self._gates, self._shares), self._faults(device))

    def _also_withdrawn(self, inventory: Inventory, checkpoint: Checkpoint) -> frozenset[str]:
        """Twins of claimed devices, where devices are shared: a share that consumes nothing may not count."""
        return taken_twins(inventory, checkpoint) if self._shares.is_active else frozenset()

    def _log_changes(self, inventory: Inventory, checkpoint: Checkpoint, unpublished: frozenset[str]) -> None:
        unmanaged = frozenset(map(str, unmanaged_partitions(inventory, checkpoint)))
        for partition in sorted(unmanaged - self._unmanaged):
            telemetry.warning(
                "A partition that this driver did not make keeps what overlaps it from being offered: destroy it "
                "(nvidia-smi mig -dci, -dgi), or leave that to who made it",
                partition=partition,
            )
        for partition in sorted(self._unmanaged - unmanaged):
            telemetry.info(0, "A partition that this driver did not make is gone", partition=partition)
        self._unmanaged = unmanaged
        if more := sorted(unpublished - self._withdrawn):
            telemetry.warning(
                "Devices are not offered: a claim has them under another name, or something overlaps them",
                devices=more,
            )
