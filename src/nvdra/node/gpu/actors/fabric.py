"""Fabric partitions activated and deactivated through Fabric Manager, which says what is active."""

from __future__ import annotations

from nvdra import telemetry
from nvdra.claims import Facts
from nvdra.gpu.fabric import ActivateFabricPartition
from nvdra.gpu.fabric_topology import FabricPartition, OddTopology
from nvdra.host.fabric_manager import IN_USE, FabricError
from nvdra.node.gpu.fabric import Fabric, FabricHung
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.ports import Clock

RETRY_S = 1.0
RETRIES = 30


class FabricActor:
    """Applies and rolls back `ActivateFabricPartition`."""

    def __init__(self, fabric: Fabric, clock: Clock) -> None:
        self._fabric = fabric
        self._clock = clock

    async def apply(self, step: ActivateFabricPartition, journal: StepJournal) -> Facts:
        """No facts. Waits while Fabric Manager is busy, starting, or away. Raises StepFailed."""
        prefix = f"activating fabric partition {step.id}"
        for left in reversed(range(RETRIES)):
            try:
                if not await self._activate(step, journal):
                    return {}
                telemetry.info(1, "Activated a fabric partition", partition=step.id, devices=list(step.names))
                return {}
            except (OddTopology, OSError) as error:
                raise StepFailed(f"{prefix}: {error}") from error
            except FabricError as error:
                if isinstance(error, FabricHung):
                    self._keep(step, journal, error)
                if isinstance(error, FabricHung) or not error.is_temporary or not left:
                    raise StepFailed(f"{prefix}: {await self._explained(step, error)}") from error
                journal.waits(f"Fabric Manager: {error}")
                await journal.wait_for(self._clock.sleep(RETRY_S))
        return {}

    async def roll_back(self, step: ActivateFabricPartition, journal: StepJournal) -> None:
        """Deactivate the partition. Raises StepFailed."""
        if not journal.is_touched:
            return
        try:
            now = await self._find(step)
            if now is None:
                telemetry.warning("A fabric partition to deactivate is unknown now", partition=step.id)
            elif now.is_active:
                await self._fabric.deactivate(step.id)
                telemetry.info(1, "Deactivated a fabric partition", partition=step.id, devices=list(step.names))
        except (FabricError, OddTopology, OSError) as error:
            if isinstance(error, FabricHung):
                self._keep(step, journal, error)
            raise StepFailed(f"error deactivating fabric partition: {step.id}: {error}") from error

    async def _activate(self, step: ActivateFabricPartition, journal: StepJournal) -> bool:
        """Whether the partition had to be activated."""
        now = await self._find(step)
        if now is None:
            raise StepFailed(f"activating fabric partition {step.id}: fabricmanager: unknown partitionId {step.id}")
        journal.touch()
        if now.is_active:
            return False
        await self._fabric.activate(step.id)
        return True

    async def _find(self, step: ActivateFabricPartition) -> FabricPartition | None:
        return next((one for one in await self._fabric.partitions() if one.id == step.id), None)

    async def _explained(self, step: ActivateFabricPartition, error: FabricError) -> str:
        """The error's text, with the partitions that keep the GPUs in use."""
        if error.code != IN_USE:
            return str(error)
        try:
            partitions = await self._fabric.partitions()
        except (FabricError, OddTopology, OSError):
            return str(error)
        wanted = {module for one in partitions if one.id == step.id for module in one.modules}
        active = [one.id for one in partitions if one.is_active and one.id != step.id and wanted & set(one.modules)]
        if not active:
            return str(error)
        return (
            f"{error}: partition {' and '.join(map(str, active))} has some of these GPUs and is active: end the "
            "claims or virtual machines that use it, or deactivate it (fmpm -d)"
        )

    def _keep(self, step: ActivateFabricPartition, journal: StepJournal, hung: FabricHung) -> None:
        for address in step.addresses:
            journal.keep(address, hung.call)
