"""MIG of one GPU: the operations of its worker thread, and NVML's tuples as values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from nvdra._nvml import (
    FUNCTION_NOT_FOUND,
    INVALID_ARGUMENT,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    Mig,
    NvmlError,
)
from nvdra.gpu.scan import ComputeInstanceScan, ComputeProfileScan, GpuInstanceScan, MigProfileScan

if TYPE_CHECKING:
    from nvdra._nvml import _GpuInstance, _Profile

# Slices of compute instance profiles by index. NVML reports them for a live GPU instance only.
# Source: nvml.h. That the ids are the indices: MIG user guide, `nvidia-smi mig -lcip`.
_COMPUTE_SLICES = (1, 2, 3, 4, 7, 8, 6, 1, 7)
_SECOND_ONE_SLICE = 7


def profiles(table: Iterable[_Profile]) -> tuple[MigProfileScan, ...]:
    return tuple(MigProfileScan(*profile, _spanning(profile[2])) for profile in table)


def _spanning(slices: int) -> tuple[ComputeProfileScan, ...]:
    return tuple(
        ComputeProfileScan(index, index, slices)
        for index, its in enumerate(_COMPUTE_SLICES)
        if its == slices and index != _SECOND_ONE_SLICE
    )


def instances(seen: Iterable[_GpuInstance]) -> tuple[GpuInstanceScan, ...]:
    return tuple(
        GpuInstanceScan(*instance[:4], tuple(ComputeInstanceScan(*compute) for compute in instance[4]))
        for instance in seen
    )


def read(gpu: Mig) -> tuple[bool, tuple[GpuInstanceScan, ...]]:
    try:
        current, _ = gpu.mode()
    except NvmlError as refusal:
        if refusal.code in (NOT_SUPPORTED, FUNCTION_NOT_FOUND):
            return False, ()
        raise
    return current == 1, instances(gpu.instances()) if current == 1 else ()


def set_mode(gpu: Mig, on: bool) -> None:
    current, pending = gpu.mode()
    if (current, pending) == (on, on):
        return
    activation = gpu.set_mode(on)
    if activation == 0:
        now, after_reset = gpu.mode()
        if now == on:
            return
        state = f"reported as done, but MIG mode is still {'on' if now else 'off'}"
        if after_reset == on:
            raise NvmlError(RESET_REQUIRED, "nvmlDeviceSetMigMode", f"{state} until the GPU is reset")
        raise NvmlError(NOT_SUPPORTED, "nvmlDeviceSetMigMode", state)
    # Accepted but not activated: without this rollback the mode would change at the GPU's next reset.
    with suppress(NvmlError):
        gpu.set_mode(bool(current))
    text = "accepted, but not activated: " + gpu.error_text(activation)
    raise NvmlError(activation, "nvmlDeviceSetMigMode", text)


def create_compute_instance(gpu: Mig, gi_id: int, profiles: Sequence[int]) -> ComputeInstanceScan:
    refused = NvmlError(
        NOT_SUPPORTED, "nvmlGpuInstanceCreateComputeInstance", "no profile takes the whole GPU instance"
    )
    for profile_id in profiles:
        try:
            return ComputeInstanceScan(*gpu.create_compute_instance(gi_id, profile_id))
        except NvmlError as refusal:
            if refusal.code not in (NOT_SUPPORTED, INVALID_ARGUMENT):
                raise
            refused = refusal
    raise refused


def destroy_compute_instance(gpu: Mig, gi_id: int, ci_id: int) -> None:
    try:
        gpu.destroy_compute_instance(gi_id, ci_id)
    except NvmlError as refusal:
        if not _is_gone(refusal):
            raise


def destroy_gpu_instance(gpu: Mig, gi_id: int) -> None:
    try:
        gpu.destroy_gpu_instance(gi_id)
    except NvmlError as refusal:
        if not _is_gone(refusal):
            raise


def _is_gone(refusal: NvmlError) -> bool:
    """With MIG mode off there are no instances: NVML says NOT_SUPPORTED, or NOT_FOUND as an H200 does."""
    return refusal.code == NOT_FOUND or (
        refusal.code == NOT_SUPPORTED and refusal.function == "nvmlDeviceGetGpuInstanceById"
    )


def processes(gpu: Mig, gi_id: int) -> tuple[int, ...]:
    try:
        listed = gpu.processes()
    except NvmlError as refusal:
        if refusal.code in (NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND):
            return ()
        raise
    return tuple(sorted({pid for pid, gi, _ in listed if gi == gi_id}))
