"""The executor: steps of claims carried out on GPUs, and undone where they fail.

Steps of different GPUs run side by side, those of one GPU in the order in which their claims came. Nobody holds the
node's locks meanwhile; who calls holds the locks of the GPUs. Every step looks at the GPU before it changes it: what it
finds there counts, not what was remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol, TypeVar

from nvdra import telemetry
from nvdra.claims import CreateMig, DestroyMig, LeaveMig, Step, UnknownPartition
from nvdra.gpu import ComputeInstanceScan, Gpu, GpuInstanceScan, MigDevice, MigSpec, Partitions
from nvdra.node.gpu_locks import GpuLocks
from nvdra.nvml import IN_USE, DriverAbsent, DriverChanged, NvmlError, NvmlHung
from nvdra.ports import LockError

_LOOK = "nvidia-smi mig -lgi lists what is there; kubelet will ask again"

S = TypeVar("S", CreateMig | LeaveMig, DestroyMig)


class StepFailed(Exception):
    """A step that could not be done; the text names the device, the cause, and what helps.

    is_undone   nothing of the claim's steps is left on any GPU
    """

    def __init__(self, text: str, *, is_undone: bool = False) -> None:
        super().__init__(text)
        self.is_undone = is_undone


class Partitioner(Protocol):
    """What the executor needs of NVML; every call may raise NvmlError, NvmlHung, DriverAbsent or DriverChanged."""

    async def mig(self, uuid: str) -> tuple[bool, tuple[GpuInstanceScan, ...]]: ...
    async def set_mig_mode(self, uuid: str, on: bool) -> None: ...
    async def create_gpu_instance(self, uuid: str, profile_id: int, start: int, size: int) -> int: ...
    async def create_compute_instance(self, uuid: str, gi_id: int, profiles: Sequence[int]) -> ComputeInstanceScan: ...
    async def destroy_compute_instance(self, uuid: str, gi_id: int, ci_id: int) -> None: ...
    async def destroy_gpu_instance(self, uuid: str, gi_id: int) -> None: ...
    async def processes(self, uuid: str, gi_id: int) -> tuple[int, ...]: ...


class Executor:
    """Carries out what claims need of the hardware.

    changed   told how a GPU is partitioned after something was done to it, before its claim is answered
    """

    def __init__(self, nvml: Partitioner, locks: GpuLocks, changed: Callable[[str, Partitions], None]) -> None:
        self._nvml = nvml
        self._locks = locks
        self._changed = changed

    async def make(self, claim: str, steps: Sequence[Step]) -> dict[str, MigDevice]:
        """What the steps make, by device name. Raises StepFailed, with everything of this claim undone if it could be.

        claim   the UID that the GPUs' locks were taken for
        """
        made: dict[str, MigDevice] = {}
        by_gpu = _by_gpu(steps)
        failures = await _side_by_side(self._make_on(claim, gpu, some, made) for gpu, some in by_gpu.values())
        if not failures:
            return made
        undoing = _by_gpu([destruction(step.spec) for step in reversed(steps) if isinstance(step, CreateMig)])
        for uuid in by_gpu.keys() - undoing.keys():
            self._locks.settled(claim, uuid)
        left = await _side_by_side(self._undo_on(claim, gpu, some) for gpu, some in undoing.values())
        text = str(failures[0])
        if left:
            raise StepFailed(f"{text}; and what was made before could not be taken back: {left[0]}")
        raise StepFailed(text, is_undone=True)

    async def undo(self, claim: str, steps: Iterable[DestroyMig]) -> None:
        """Take the partitions away, whole or half made. Raises StepFailed: what still stands is tried again later."""
        failures = await _side_by_side(self._undo_on(claim, gpu, some) for gpu, some in _by_gpu(steps).values())
        if failures:
            raise failures[0]

    async def tidy(self, claim: str, gpu: Gpu) -> None:
        """Turn MIG mode off if nothing is on the GPU and nobody works on it. Raises StepFailed."""
        await self._undo_on(claim, gpu, ())

    async def destroy(self, partition: UnknownPartition) -> None:
        """Take away what no claim speaks of, if it still stands. Raises StepFailed. The caller holds the GPU's lock."""
        gpu = partition.gpu
        async with self._turn(gpu):
            _, instances = await _told(f"error deleting MIG device {partition}", self._nvml.mig(gpu.uuid))
            for instance in instances:
                # NVML gives the numbers of instances again.
                seen = (instance.gi_id, instance.profile_id, instance.start)
                if seen == (partition.gi_id, partition.profile_id, partition.start):
                    await self._destroy(gpu, instance, str(partition))
            await self._look(gpu)

    @asynccontextmanager
    async def _turn(self, gpu: Gpu) -> AsyncIterator[None]:
        """One operation on the GPU. A call that hangs in it may still change it: the lock is kept until it returns."""
        async with self._locks.turn(gpu.uuid):
            try:
                yield
            except StepFailed as failed:
                hung = failed.__cause__
                if isinstance(hung, NvmlHung) and hung.call is not None:
                    self._locks.keep(gpu.uuid, hung.call)
                raise

    async def _make_on(self, claim: str, gpu: Gpu, steps: Sequence[Step], made: dict[str, MigDevice]) -> None:
        async with self._turn(gpu):
            is_on, instances = await _told("error creating MIG device", self._nvml.mig(gpu.uuid))
            for step in steps:
                match step:
                    case LeaveMig():
                        if instances:
                            raise StepFailed(
                                f"{gpu.name} ({gpu.uuid}) is wanted whole and {_shown(instances[0])} is on it: {_LOOK}"
                            )
                        await self._set_mode(gpu, False)
                    case CreateMig(spec):
                        _check_free(spec, instances)
                        self._touch(claim, spec)
                        if not is_on:
                            await self._set_mode(gpu, True)
                            is_on = True
                        made[spec.name] = await self._create(spec)
            await self._look(gpu)
            self._locks.settled(claim, gpu.uuid)

    def _touch(self, claim: str, spec: MigSpec) -> None:
        try:
            self._locks.touch(claim, spec.parent.uuid, (spec.profile.profile_id, spec.start))
        except LockError as error:
            raise StepFailed(f"error creating MIG device: {error}") from error

    async def _create(self, spec: MigSpec) -> MigDevice:
        gpu, profile = spec.parent, spec.profile
        prefix = "error creating MIG device"
        gi_id = await _told(
            f"{prefix}: error creating GPU instance for '{spec.name}'",
            self._nvml.create_gpu_instance(gpu.uuid, profile.profile_id, spec.start, spec.size),
        )
        compute = await _told(
            f"{prefix}: error creating Compute instance for '{profile.text}'",
            self._nvml.create_compute_instance(gpu.uuid, gi_id, profile.compute_profiles),
        )
        telemetry.info(1, "Created MIG device", device=spec.name, uuid=compute.uuid, gi=gi_id, ci=compute.ci_id)
        return MigDevice(gpu, profile, spec.start, spec.size, gi_id, compute.ci_id, compute.uuid)

    async def _undo_on(self, claim: str, gpu: Gpu, steps: Sequence[DestroyMig]) -> None:
        async with self._turn(gpu):
            try:
                await self._undo_all(claim, gpu, steps)
            finally:
                self._locks.settled(claim, gpu.uuid)

    async def _undo_all(self, claim: str, gpu: Gpu, steps: Sequence[DestroyMig]) -> None:
        _, instances = await _told("error deleting MIG device", self._nvml.mig(gpu.uuid))
        try:
            for step in steps:
                if not self._locks.touched(claim, gpu.uuid, (step.profile_id, step.start)):
                    continue
                for instance in instances:
                    if (instance.profile_id, instance.start) == (step.profile_id, step.start):
                        await self._undo_one(gpu, step, instance)
        except StepFailed:
            with suppress(StepFailed):
                await self._look(gpu)
            raise
        is_on, instances = await self._look(gpu)
        can_toggle = gpu.partitioning is not None and gpu.partitioning.can_toggle
        if is_on and not instances and can_toggle and self._locks.is_last(claim, gpu.uuid):
            await self._set_mode(gpu, False)
            await self._look(gpu)

    async def _undo_one(self, gpu: Gpu, step: DestroyMig, instance: GpuInstanceScan) -> None:
        live = {compute.uuid for compute in instance.compute}
        if step.uuid and live and step.uuid not in live:
            telemetry.warning(
                "The claim's partition is gone and another stands in its place; that one stays",
                device=step.device,
                uuid=step.uuid,
                now=sorted(live),
            )
            return
        await self._destroy(gpu, instance, step.device)

    async def _destroy(self, gpu: Gpu, instance: GpuInstanceScan, what: str) -> None:
        prefix = f"error deleting MIG device {what}"
        try:
            for compute in instance.compute:
                await _told(
                    f"{prefix}: error destroying Compute Instance",
                    self._nvml.destroy_compute_instance(gpu.uuid, instance.gi_id, compute.ci_id),
                )
            await _told(
                f"{prefix}: error destroying GPU Instance", self._nvml.destroy_gpu_instance(gpu.uuid, instance.gi_id)
            )
        except StepFailed as failed:
            raise StepFailed(f"{failed}{await self._who(failed, gpu, instance.gi_id)}") from failed.__cause__
        telemetry.info(1, "Destroyed MIG device", device=what, gi=instance.gi_id)

    async def _who(self, failed: StepFailed, gpu: Gpu, gi_id: int) -> str:
        """Which processes keep a GPU instance in use, where NVML tells."""
        if not (isinstance(failed.__cause__, NvmlError) and failed.__cause__.code == IN_USE):
            return ""
        try:
            pids = await self._nvml.processes(gpu.uuid, gi_id)
        except (NvmlError, NvmlHung, DriverAbsent, DriverChanged):
            return ""
        return f" (process {', '.join(map(str, pids))} is in it)" if pids else ""

    async def _set_mode(self, gpu: Gpu, on: bool) -> None:
        verb = "enabling" if on else "disabling"
        await _told(f"error {verb} MIG mode for device {gpu.name}-{gpu.uuid}", self._nvml.set_mig_mode(gpu.uuid, on))
        telemetry.info(1, f"MIG mode is {'on' if on else 'off'}", device=gpu.name, uuid=gpu.uuid)

    async def _look(self, gpu: Gpu) -> tuple[bool, tuple[GpuInstanceScan, ...]]:
        is_on, instances = await _told(f"{gpu.name} ({gpu.uuid}) cannot be read", self._nvml.mig(gpu.uuid))
        self._changed(gpu.uuid, Partitions(is_on, instances))
        return is_on, instances


T = TypeVar("T")


async def _told(what: str, call: Coroutine[Any, Any, T]) -> T:
    """What the call gives; a refusal as StepFailed with NVML's own words."""
    try:
        return await call
    except NvmlError as error:
        raise StepFailed(f"{what}: {error.text or error}") from error
    except (NvmlHung, DriverAbsent, DriverChanged) as error:
        raise StepFailed(f"{what}: {error}") from error


def _check_free(spec: MigSpec, instances: Iterable[GpuInstanceScan]) -> None:
    for instance in instances:
        if instance.start < spec.start + spec.size and spec.start < instance.start + instance.size:
            raise StepFailed(f"error creating MIG device: {spec.name} overlaps {_shown(instance)}: {_LOOK}")


def _shown(instance: GpuInstanceScan) -> str:
    return f"GPU instance {instance.gi_id} (profile {instance.profile_id} at memory slice {instance.start})"


def destruction(partition: MigSpec | MigDevice) -> DestroyMig:
    """What undoes the making of a partition."""
    return DestroyMig(partition.parent, partition.name, partition.profile.profile_id, partition.start)


def _by_gpu(steps: Iterable[S]) -> Mapping[str, tuple[Gpu, list[S]]]:
    found: dict[str, tuple[Gpu, list[S]]] = {}
    for step in steps:
        found.setdefault(step.gpu.uuid, (step.gpu, []))[1].append(step)
    return found


async def _side_by_side(work: Iterable[Coroutine[Any, Any, None]]) -> list[StepFailed]:
    """Carry them all out to their end; the failures, in their order."""
    ended = await asyncio.gather(*work, return_exceptions=True)
    for end in ended:
        if isinstance(end, BaseException) and not isinstance(end, StepFailed):
            raise end
    return [end for end in ended if isinstance(end, StepFailed)]
