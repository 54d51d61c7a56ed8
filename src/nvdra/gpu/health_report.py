"""What others are told of faults: taints in ResourceSlices, device health for kubelet, lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nvdra.gpu.health import ECC, GPU_LOST, RECOVERY_ACTION, SEVERITY, UNMONITORED, XID, Fault, Target, worst
from nvdra.gpu.health_state import Health
from nvdra.gpu.inventory import Inventory
from nvdra.gpu.mig import GpuDevice, MigDevice, MigSpec, address_of_device

Verdict = Literal["healthy", "unhealthy", "unknown"]


@dataclass(frozen=True, slots=True)
class DeviceVerdict:
    """The health of one device for kubelet, and why."""

    device: str
    verdict: Verdict
    message: str = ""


def faults_of(device: GpuDevice, health: Health) -> tuple[Fault, ...]:
    """The worst fault of each key that concerns a device; sorted by key."""
    if not health.faults:
        return ()
    found = worst(raised.fault for key, raised in health.faults.items() if concerns(key[0], device))
    return tuple(found[key] for key in sorted(found))


def concerns(target: Target, device: GpuDevice) -> bool:
    """Whether a fault of the target is one of the device."""
    if target.address != address_of_device(device):
        return False
    if not target.partition:
        return True
    return isinstance(device, MigSpec | MigDevice) and target.partition == (device.profile.profile_id, device.start)


def tainted(device: dict[str, Any], faults: Iterable[Fault]) -> dict[str, Any]:
    """A published device with a taint for each fault. The API server fills in the times."""
    if not (taints := [_taint(fault) for fault in faults]):
        return device
    return {**device, "taints": taints}


def _taint(fault: Fault) -> dict[str, str]:
    value = {"value": fault.value} if fault.value else {}
    return {"key": fault.key, **value, "effect": fault.effect}


def verdicts(inventory: Inventory, health: Health, gone: Mapping[str, str]) -> tuple[DeviceVerdict, ...]:
    """The health of every device, by name.

    gone   devices that were published and are not any more, with the PCI addresses of their GPUs
    """
    told = {name: _verdict(name, faults_of(device, health)) for name, device in inventory.devices.items()}
    for name, address in gone.items():
        if name not in told and (faults := worst(health.of_gpu(address))):
            told[name] = _verdict(name, faults.values())
    return tuple(told[name] for name in sorted(told))


def _verdict(name: str, faults: Iterable[Fault]) -> DeviceVerdict:
    faults = tuple(faults)
    message = "; ".join(map(described, sorted(faults, key=lambda fault: -SEVERITY.index(fault.effect))))
    if any(fault.effect != "None" for fault in faults):
        return DeviceVerdict(name, "unhealthy", message)
    is_watched = all(fault.key != UNMONITORED for fault in faults)
    return DeviceVerdict(name, "healthy" if is_watched else "unknown", message)


def described(fault: Fault) -> str:
    """A fault in words."""
    match fault.key:
        case key if key == XID:
            cause = "an error of a program, not of the GPU" if fault.effect == "None" else "a GPU error"
            return f"XID {fault.value}: {cause}"
        case key if key == ECC:
            return "an ECC error that could not be corrected"
        case key if key == GPU_LOST:
            return "the GPU does not answer: it is lost"
        case key if key == UNMONITORED:
            return "NVML sends no events of this GPU: its health is not known"
        case key if key == RECOVERY_ACTION:
            return f"NVML says that the GPU needs: {fault.value}"
    return f"{fault.key}={fault.value}"
