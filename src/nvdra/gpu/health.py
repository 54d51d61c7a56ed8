"""Faults of GPUs: what an NVML event, a lost GPU or a recovery action means, and which devices it concerns.

A fault becomes a device taint. Keys, values and effects of the first three are the Go driver's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from nvdra.gpu.inventory import Inventory

Effect = Literal["None", "NoSchedule"]
SEVERITY: tuple[Effect, ...] = ("None", "NoSchedule")  # ascending

XID = "gpu.nvidia.com/xid"
GPU_LOST = "gpu.nvidia.com/gpu-lost"
UNMONITORED = "gpu.nvidia.com/unmonitored"
ECC = "gpu.nvidia.com/ecc"
RECOVERY_ACTION = "gpu.nvidia.com/recovery-action"

# Source: nvml.h, NVML_EVENT types. Single-bit errors are corrected by the hardware.
SINGLE_BIT_ECC_EVENT = 0x1
DOUBLE_BIT_ECC_EVENT = 0x2
XID_EVENT = 0x8
WATCHED_EVENTS = SINGLE_BIT_ECC_EVENT | DOUBLE_BIT_ECC_EVENT | XID_EVENT

WHOLE_GPU = 0xFFFFFFFF  # the instance id of an event that concerns no instance

# Errors of programs, not of GPUs. Source: the Go driver's list.
IGNORED_XIDS = frozenset((13, 31, 43, 45, 68, 109))

# Errors of NVLink, of Blackwell's fifth generation from 144 on. Source: NVIDIA's XID catalog.
_NVLINK_XIDS = frozenset((74, *range(144, 151)))

# Source: nvml.h, nvmlDeviceGpuRecoveryAction_t.
_ACTIONS: Mapping[int, str] = {
    1: "gpu-reset",
    2: "node-reboot",
    3: "drain-p2p",
    4: "drain-and-reset",
    5: "recover-imex-domain",
    6: "bus-reset",
    7: "system-reboot",
}
_RESETS = frozenset((1, 4, 6))


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """The devices that a fault concerns: those of a GPU, or of one MIG partition of it.

    address     PCI address
    partition   GPU instance profile id and first memory slice; () for every device of the GPU
    """

    address: str
    partition: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """One NVML event of a GPU. `gi_id` is WHOLE_GPU where it names no GPU instance."""

    address: str
    kind: int
    data: int
    gi_id: int = WHOLE_GPU


@dataclass(frozen=True, slots=True)
class Fault:
    """One taint of the target's devices.

    links   NVLinks that were up before; the fault is over only if as many are up again. 0 if it is not about NVLink
    """

    target: Target
    key: str
    value: str
    effect: Effect
    links: int = 0


class Unattributed(LookupError):
    """The event names a GPU instance that is not known; the text says which."""


def extra_ignored(text: str) -> tuple[frozenset[int], tuple[str, ...]]:
    """The XIDs of a comma list, and its parts that are no XIDs."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    good = {part for part in parts if part.isascii() and part.isdigit() and int(part) < 1 << 64}
    return frozenset(map(int, good)), tuple(part for part in parts if part not in good)


def fault_of(
    event: HealthEvent, inventory: Inventory, ignored: frozenset[int] = IGNORED_XIDS, links: int = 0
) -> Fault | None:
    """What an event means; None if nothing is wrong (a corrected ECC error, a kind that is not watched).

    ignored   XIDs that are no faults of the GPU: their taint has effect None
    links     NVLinks of the GPU that are up when all is well
    Raises Unattributed.
    """
    match event.kind:
        case kind if kind == XID_EVENT:
            effect: Effect = "None" if event.data in ignored else "NoSchedule"
            about = links if event.data in _NVLINK_XIDS else 0
            return Fault(target_of(event, inventory), XID, str(event.data), effect, about)
        case kind if kind == DOUBLE_BIT_ECC_EVENT:
            return Fault(target_of(event, inventory), ECC, "double-bit", "NoSchedule")
    return None


def target_of(event: HealthEvent, inventory: Inventory) -> Target:
    """Exactly the partition hit, or the whole GPU if the event names none or the GPU is not in MIG mode.

    Raises Unattributed.
    """
    partitions = inventory.partitions.get(event.address)
    if event.gi_id == WHOLE_GPU or partitions is None or not partitions.is_on:
        return Target(event.address)
    for instance in partitions.instances:
        if instance.gi_id == event.gi_id:
            return Target(event.address, (instance.profile_id, instance.start))
    raise Unattributed(f"GPU instance {event.gi_id} of GPU {event.address}")


def lost(address: str) -> Fault:
    return Fault(Target(address), GPU_LOST, "", "NoSchedule")


def unmonitored(address: str) -> Fault:
    return Fault(Target(address), UNMONITORED, "", "None")


def needs_recovery(address: str, action: int) -> Fault:
    """NVML's recovery action as a fault; it holds what was missed while no event could be received."""
    return Fault(Target(address), RECOVERY_ACTION, _ACTIONS.get(action, str(action)), "NoSchedule")


def waits_for_reset(action: int | None) -> bool:
    """Whether NVML asks for a reset, which is refused while a program holds the GPU."""
    return action in _RESETS


def worst(faults: Iterable[Fault]) -> dict[str, Fault]:
    """The worst fault of each key; of equal ones the last."""
    found: dict[str, Fault] = {}
    for fault in faults:
        if fault.key not in found or not is_worse(found[fault.key], fault):
            found[fault.key] = fault
    return found


def is_worse(one: Fault, other: Fault) -> bool:
    return SEVERITY.index(one.effect) > SEVERITY.index(other.effect)
