"""Consumable shares: one device for several claims, and what its capacities say about how much each may take.

Source: KEP-5075; `--consumable-shares` of the Go driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nvdra.api.claim import Result
from nvdra.api.gates import CONSUMABLE_SHARES, Gates
from nvdra.api.quantity import binary, parse

_MI = 2**20


@dataclass(frozen=True, slots=True)
class Shares:
    """How devices are shared.

    mode   "unlimited", "memory", how many shares a device has ("4"), or "" where devices are not shared
    """

    mode: str = ""

    @property
    def is_active(self) -> bool:
        return bool(self.mode)


NOT_SHARED = Shares()


def shares(setting: str, gates: Gates) -> Shares:
    """The mode that `--consumable-shares` and the gate stand for together."""
    mode = setting.strip()
    return Shares(mode) if gates.enabled(CONSUMABLE_SHARES) and mode not in ("", "disabled") else NOT_SHARED


def shared(device: dict[str, Any], mode: Shares) -> dict[str, Any]:
    """A published device that several claims may have; as it is where devices are not shared.

    A device without a memory capacity is shared without a limit.
    """
    if not mode.is_active:
        return device
    capacity: dict[str, Any] = dict(device.get("capacity") or {})
    most = parse(capacity["memory"]["value"]).whole() // _MI * _MI if "memory" in capacity else 0
    if most:
        capacity["memory"] = _memory(most, mode)
        if mode.mode.isdigit():
            capacity["shares"] = _policy(mode.mode, "1", "1", mode.mode, "1")
    made = {"allowMultipleAllocations": True, **device}
    return {**made, "capacity": dict(sorted(capacity.items()))} if capacity else made


def consumed_mib(result: Result) -> int:
    """Memory that a share was allocated, in MiB rounded down; 0 where it has no limit."""
    memory = dict(result.consumed_capacity).get("memory")
    return 0 if memory is None else parse(memory).whole() // _MI


def _memory(most: int, mode: Shares) -> dict[str, Any]:
    whole = str(binary(most))
    if mode.mode == "memory":
        return _policy(whole, whole, "1Mi", whole, "1Mi")
    return _policy(whole, "0", "0", whole, "1Mi")


def _policy(value: str, default: str, least: str, most: str, step: str) -> dict[str, Any]:
    return {
        "requestPolicy": {"default": default, "validRange": {"max": most, "min": least, "step": step}},
        "value": value,
    }
