"""What flags add to a node of GPUs: Events and status of claims, the coexistence guard.

A part is imported only where its flag is set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nvdra.checkpoint import Checkpoint
from nvdra.gpu import Inventory
from nvdra.gpu.coexistence import taints
from nvdra.gpu.described import described
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.taints import Taints
from nvdra.node.hooks import Hooks, Report
from nvdra.programs.chassis import Chassis
from nvdra.programs.gpu_flags import Options

if TYPE_CHECKING:
    from nvdra.node.claim_events import ClaimEvents
    from nvdra.node.claim_status import ClaimStatus
    from nvdra.node.gpu.coexistence_guard import CoexistenceGuard


class GpuExtras:
    """The parts that the options ask for.

    inventory   as last scanned
    taint       sets the taints of one source
    """

    def __init__(
        self,
        chassis: Chassis,
        options: Options,
        inventory: Callable[[], Inventory],
        taint: Callable[[str, Taints], None],
    ) -> None:
        self._chassis = chassis
        self._options = options
        self._inventory = inventory
        self._taint = taint
        self._events = self._claim_events() if options.claim_events else None
        self._guard = self._coexistence_guard() if options.coexistence_guard != "off" else None
        self.hooks = Hooks(
            report=self._report,
            describe=lambda device: described(device, inventory()),
            before_prepare=None if self._guard is None else self._guard.refresh,
        )
        self._status = self._claim_status() if options.claim_status else None

    def view(self, inventory: Inventory) -> Inventory:
        """The inventory as claims see it."""
        return inventory if self._guard is None else self._guard.view(inventory)

    def checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        if self._status is not None:
            self._status.checkpoint_changed(checkpoint)
        if self._guard is not None:
            self._guard.checkpoint_changed(checkpoint)

    def start(self) -> None:
        """Start the tasks of the parts."""
        for name, part in (("events", self._events), ("claim status", self._status), ("guard", self._guard)):
            if part is not None:
                self._chassis.tasks.start(name, part.run())

    def _report(self, report: Report) -> None:
        if self._events is not None:
            self._events.report(report)

    def _claim_events(self) -> ClaimEvents:
        from nvdra.node.claim_events import ClaimEvents

        return ClaimEvents(self._chassis.api, self._chassis.clock, DRIVER, self._options.node_name)

    def _claim_status(self) -> ClaimStatus:
        from nvdra.node.claim_status import ClaimStatus

        return ClaimStatus(self._chassis.api, self._chassis.clock, DRIVER, self.hooks.describe)

    def _coexistence_guard(self) -> CoexistenceGuard:
        from nvdra.kubelet.pod_resources import PodResources
        from nvdra.node.gpu.coexistence_guard import CoexistenceGuard

        return CoexistenceGuard(
            PodResources(self._options.pod_resources_socket),
            self._chassis.clock,
            self._inventory,
            lambda given: self._taint("device plugin", taints(given)),
            self._report,
            enforces=self._options.coexistence_guard == "enforce",
        )
