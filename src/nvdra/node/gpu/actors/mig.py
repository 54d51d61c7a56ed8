"""Partitions made and destroyed, MIG mode turned on and off.

Every step reads the GPU before it changes it: what the GPU says counts, not what was remembered. A call into NVML that
does not return is waited for: nobody knows what it will have done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from nvdra import telemetry
from nvdra.claims import Facts
from nvdra.gpu import ComputeInstanceScan, Gpu, GpuInstanceScan, MigDevice, MigSpec, Partitions, StuckMode
from nvdra.gpu.partitions import UnmanagedPartition
from nvdra.gpu.steps import CreatePartition, LeaveMigMode
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.nvml import (
    IN_USE,
    NO_PERMISSION,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    DriverAbsent,
    DriverChanged,
    NvmlError,
    NvmlHung,
)

_LOOK = "nvidia-smi mig -lgi lists what is there; kubelet will ask again"

# Of a change of MIG mode: to ask again does not help before a reset.
_LASTING = frozenset((NOT_SUPPORTED, NO_PERMISSION, RESET_REQUIRED))

T = TypeVar("T")


class Partitioner(Protocol):
    """The part of NVML that partitions need. Raises NvmlError, NvmlHung, DriverAbsent or DriverChanged."""

    async def mig(self, uuid: str) -> tuple[bool, tuple[GpuInstanceScan, ...]]: ...
    async def set_mig_mode(self, uuid: str, on: bool) -> None: ...
    async def create_gpu_instance(self, uuid: str, profile_id: int, start: int, size: int) -> int: ...
    async def create_compute_instance(self, uuid: str, gi_id: int, profiles: Sequence[int]) -> ComputeInstanceScan: ...
    async def destroy_compute_instance(self, uuid: str, gi_id: int, ci_id: int) -> None: ...
    async def destroy_gpu_instance(self, uuid: str, gi_id: int) -> None: ...
    async def processes(self, uuid: str, gi_id: int) -> tuple[int, ...]: ...


Changed = Callable[[str, Partitions], None]
"""Called with a GPU's PCI address and its partitions after each change, before the claim is answered."""


StuckModeNoted = Callable[[str, StuckMode], Awaitable[None]]
"""Called with a GPU's PCI address when it refuses a change of MIG mode for longer than a moment."""


async def _forget(_address: str, _stuck: StuckMode) -> None:
    pass


class MigActor:
    """Applies and rolls back `CreatePartition` and `LeaveMigMode`."""

    def __init__(self, nvml: Partitioner, changed: Changed, stuck: StuckModeNoted = _forget) -> None:
        self._nvml = nvml
        self._changed = changed
        self._stuck = stuck

    async def apply(self, step: CreatePartition | LeaveMigMode, journal: StepJournal) -> Facts:
        """The made `MigDevice` by device name. Raises StepFailed."""
        calls = self._calls(step.gpu, journal)
        match step:
            case LeaveMigMode():
                await calls.leave_mode()
                return {}
            case CreatePartition(spec=MigSpec() as spec):
                return {spec.name: await calls.create(spec)}
            case _:
                raise StepFailed(f"error creating MIG device: {step.device} is no partition that this GPU has")

    async def roll_back(self, step: CreatePartition | LeaveMigMode, journal: StepJournal) -> None:
        """Destroy the partition, whole or half made, and leave MIG mode with the last one. Raises StepFailed."""
        if isinstance(step, CreatePartition):
            await self._calls(step.gpu, journal).roll_back(step)

    # ── upkeep ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def leave_empty_mode(self, gpu: Gpu, journal: StepJournal) -> None:
        """Turn MIG mode off if no partition is on the GPU and no claim works there. Raises StepFailed."""
        await self._calls(gpu, journal).leave_empty_mode()

    async def destroy(self, partition: UnmanagedPartition, journal: StepJournal) -> None:
        """Destroy a partition that no entry names, if it still stands. Raises StepFailed."""
        await self._calls(partition.gpu, journal).destroy_unmanaged(partition)

    def _calls(self, gpu: Gpu, journal: StepJournal) -> _Calls:
        return _Calls(self._nvml, gpu, self._changed, self._stuck, journal)


class _Calls:
    """Changes of one GPU, for one step."""

    def __init__(
        self, nvml: Partitioner, gpu: Gpu, changed: Changed, stuck: StuckModeNoted, journal: StepJournal
    ) -> None:
        self._nvml = nvml
        self._gpu = gpu
        self._changed = changed
        self._stuck = stuck
        self._journal = journal

    async def create(self, spec: MigSpec) -> MigDevice:
        gpu, profile = spec.parent, spec.profile
        prefix = "error creating MIG device"
        is_on, instances = await self._done(prefix, self._nvml.mig(gpu.uuid))
        _check_free(spec, instances)
        try:
            self._journal.touch()
        except StepFailed as failed:
            raise StepFailed(f"{prefix}: {failed}") from failed.__cause__
        if not is_on:
            await self._set_mode(True)
        gi_id = await self._done(
            f"{prefix}: error creating GPU instance for '{spec.name}'",
            self._nvml.create_gpu_instance(gpu.uuid, profile.profile_id, spec.start, spec.size),
        )
        compute = await self._done(
            f"{prefix}: error creating Compute instance for '{profile.text}'",
            self._nvml.create_compute_instance(gpu.uuid, gi_id, profile.compute_profiles),
        )
        _, instances = await self._look()
        if not any(
            made.gi_id == gi_id and compute.ci_id in {each.ci_id for each in made.compute} for made in instances
        ):
            raise StepFailed(f"{prefix}: NVML reported '{spec.name}' as created, and it is not on the GPU: {_LOOK}")
        telemetry.info(1, "Created MIG device", device=spec.name, uuid=compute.uuid, gi=gi_id, ci=compute.ci_id)
        return MigDevice(gpu, profile, spec.start, spec.size, gi_id, compute.ci_id, compute.uuid)

    async def leave_mode(self) -> None:
        is_on, instances = await self._done("error creating MIG device", self._nvml.mig(self._gpu.uuid))
        if instances:
            raise StepFailed(
                f"{self._gpu.name} ({self._gpu.uuid}) is wanted whole and {_shown(instances[0])} is on it: {_LOOK}"
            )
        if is_on:
            await self._set_mode(False)
        await self._look()

    async def leave_empty_mode(self) -> None:
        is_on, instances = await self._look()
        can_toggle = self._gpu.partitioning is not None and self._gpu.partitioning.can_toggle
        if is_on and not instances and can_toggle and self._journal.is_last(self._gpu.pci_bus_id):
            await self._set_mode(False)
            await self._look()

    async def roll_back(self, step: CreatePartition) -> None:
        if not self._journal.is_touched:
            await self._leave_mode_left_on()
            return
        _, instances = await self._done("error deleting MIG device", self._nvml.mig(self._gpu.uuid))
        try:
            for instance in instances:
                if (instance.profile_id, instance.start) == (step.profile_id, step.start):
                    await self._roll_back_at(step, instance)
        except StepFailed:
            try:
                await self._look()
            except StepFailed as unread:
                telemetry.info(4, "Could not read a GPU after a failed rollback", cause=str(unread))
            raise
        await self.leave_empty_mode()

    async def _leave_mode_left_on(self) -> None:
        """Turn MIG mode off if another claim left it on for this step; the upkeep does if that fails."""
        try:
            await self.leave_empty_mode()
        except StepFailed as failed:
            telemetry.info(4, "Could not look whether MIG mode is needed", cause=str(failed))

    async def destroy_unmanaged(self, partition: UnmanagedPartition) -> None:
        _, instances = await self._done(f"error deleting MIG device {partition}", self._nvml.mig(self._gpu.uuid))
        for instance in instances:
            # NVML uses the numbers of instances again.
            seen = (instance.gi_id, instance.profile_id, instance.start)
            if seen == (partition.gi_id, partition.profile_id, partition.start):
                await self._destroy(instance, str(partition))
        await self._look()

    async def _roll_back_at(self, step: CreatePartition, instance: GpuInstanceScan) -> None:
        live = {compute.uuid for compute in instance.compute}
        if step.uuid and live and step.uuid not in live:
            telemetry.warning(
                "The claim's partition is gone and another stands in its place; that one stays",
                device=step.device,
                uuid=step.uuid,
                now=sorted(live),
            )
            return
        await self._destroy(instance, step.device)

    async def _destroy(self, instance: GpuInstanceScan, what: str) -> None:
        gpu, prefix = self._gpu, f"error deleting MIG device {what}"
        try:
            for compute in instance.compute:
                await self._done(
                    f"{prefix}: error destroying Compute Instance",
                    self._nvml.destroy_compute_instance(gpu.uuid, instance.gi_id, compute.ci_id),
                )
            await self._done(
                f"{prefix}: error destroying GPU Instance", self._nvml.destroy_gpu_instance(gpu.uuid, instance.gi_id)
            )
        except StepFailed as failed:
            raise StepFailed(f"{failed}{await self._holders(failed, instance.gi_id)}") from failed.__cause__
        _, standing = await self._look()
        if _identity(instance) in map(_identity, standing):
            raise StepFailed(f"{prefix}: NVML reported it as destroyed, and {_shown(instance)} is still there: {_LOOK}")
        telemetry.info(1, "Destroyed MIG device", device=what, gi=instance.gi_id)

    async def _holders(self, failed: StepFailed, gi_id: int) -> str:
        """Processes that keep a GPU instance in use, where NVML tells."""
        if not (isinstance(failed.__cause__, NvmlError) and failed.__cause__.code == IN_USE):
            return ""
        try:
            pids = await self._nvml.processes(self._gpu.uuid, gi_id)
        except (NvmlError, NvmlHung, DriverAbsent, DriverChanged):
            return ""
        return f" (process {', '.join(map(str, pids))} is in it)" if pids else ""

    async def _set_mode(self, on: bool) -> None:
        gpu, verb = self._gpu, "enabling" if on else "disabling"
        try:
            await self._done(
                f"error {verb} MIG mode for device {gpu.name}-{gpu.uuid}", self._nvml.set_mig_mode(gpu.uuid, on)
            )
        except StepFailed as failed:
            cause = failed.__cause__
            if isinstance(cause, NvmlError) and cause.code in _LASTING:
                await self._stuck(gpu.pci_bus_id, StuckMode(on, cause.text or str(cause)))
            raise
        telemetry.info(1, f"MIG mode is {'on' if on else 'off'}", device=gpu.name, uuid=gpu.uuid)

    async def _look(self) -> tuple[bool, tuple[GpuInstanceScan, ...]]:
        gpu = self._gpu
        is_on, instances = await self._done(f"{gpu.name} ({gpu.uuid}) cannot be read", self._nvml.mig(gpu.uuid))
        self._changed(gpu.pci_bus_id, Partitions(is_on, instances))
        return is_on, instances

    async def _done(self, what: str, call: Coroutine[Any, Any, T]) -> T:
        """The call's result, however long the call takes. Raises StepFailed with NVML's own words."""
        try:
            return await self._outlasted(what, call)
        except NvmlError as error:
            raise StepFailed(f"{what}: {error.text or error}") from error
        except (NvmlHung, DriverAbsent, DriverChanged) as error:
            raise StepFailed(f"{what}: {error}") from error

    async def _outlasted(self, what: str, call: Coroutine[Any, Any, T]) -> T:
        try:
            return await call
        except NvmlHung as hung:
            if hung.call is None:
                raise  # another call about this GPU hangs: this one was not made
            # The GPU stays locked as long as the call may still change it, even if this task is cancelled.
            self._journal.keep(self._gpu.pci_bus_id, hung.call)
            self._journal.waits(f"{what}: {hung}")
            result: T = await asyncio.shield(hung.call)
            self._journal.waits("")
            return result


def _check_free(spec: MigSpec, instances: Iterable[GpuInstanceScan]) -> None:
    for instance in instances:
        if instance.start < spec.start + spec.size and spec.start < instance.start + instance.size:
            raise StepFailed(f"error creating MIG device: {spec.name} overlaps {_shown(instance)}: {_LOOK}")


def _identity(instance: GpuInstanceScan) -> tuple[int, int, int]:
    return instance.gi_id, instance.profile_id, instance.start


def _shown(instance: GpuInstanceScan) -> str:
    return f"GPU instance {instance.gi_id} (profile {instance.profile_id} at memory slice {instance.start})"
