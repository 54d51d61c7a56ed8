"""What partitions of a GPU consume of it, as capacities people select by and as counters a scheduler keeps.

The Go driver: a capacity "copyEngines" is the counter "copy-engines"; a GPU has the most that any profile of its has.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from nvdra.api.quantity import binary
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.mig import MigDevice, MigSpec
from nvdra.gpu.mig_profile import MigProfile, Partitioning

# (capacity, counter), in the order of `_amounts`.
_NAMES = (
    ("copyEngines", "copy-engines"),
    ("decoders", "decoders"),
    ("encoders", "encoders"),
    ("jpegEngines", "jpeg-engines"),
    ("memory", "memory"),
    ("multiprocessors", "multiprocessors"),
    ("ofaEngines", "ofa-engines"),
)

Values = dict[str, dict[str, str]]


def capacity(device: Gpu | MigSpec | MigDevice) -> Values:
    """A device's capacities; {} for a GPU whose memory is unknown."""
    match device:
        case Gpu() if device.partitioning is not None:
            return _capacities(_most(device.partitioning))
        case Gpu():
            return {} if device.memory_bytes is None else {"memory": {"value": _text(device.memory_bytes)}}
        case MigSpec():
            return _capacities(_amounts(device.profile))
        case MigDevice():
            slices = range(device.start, device.start + device.size)
            # Sorted as the API server stores them: "memorySlice" comes after "memory" and before "multiprocessors".
            own = _capacities(_amounts(device.profile)) | {f"memorySlice{i}": {"value": "1"} for i in slices}
            return dict(sorted(own.items()))


def counter_set(gpu: Gpu) -> dict[str, Any] | None:
    """All there is of a GPU that is partitioned on demand; None for one that is not."""
    return None if gpu.partitioning is None else {"counters": _whole(gpu.partitioning), "name": _set_name(gpu)}


def consumption(device: Gpu | MigSpec | MigDevice) -> list[dict[str, Any]]:
    """`consumesCounters`: what is gone of its GPU while the device is allocated; [] where no one keeps count."""
    match device:
        case Gpu() if device.partitioning is not None:
            return [{"counterSet": _set_name(device), "counters": _whole(device.partitioning)}]
        case MigSpec():
            counters = _counters(_amounts(device.profile), range(device.start, device.start + device.size))
            return [{"counterSet": _set_name(device.parent), "counters": counters}]
        case Gpu() | MigDevice():
            return []


def _set_name(gpu: Gpu) -> str:
    return f"{gpu.name}-counter-set"


def _whole(whole: Partitioning) -> Values:
    return _counters(_most(whole), range(whole.memory_slices))


def _capacities(amounts: tuple[int, ...]) -> Values:
    return {name: {"value": _text(amount)} for (name, _), amount in zip(_NAMES, amounts, strict=True)}


def _counters(amounts: tuple[int, ...], slices: range) -> Values:
    counters = {name: {"value": _text(amount)} for (_, name), amount in zip(_NAMES, amounts, strict=True)}
    counters |= {f"memory-slice-{i}": {"value": "1"} for i in slices}
    return dict(sorted(counters.items()))


def _amounts(profile: MigProfile) -> tuple[int, ...]:
    return (
        profile.copy_engines,
        profile.decoders,
        profile.encoders,
        profile.jpeg_engines,
        profile.memory_bytes,
        profile.multiprocessors,
        profile.ofa_engines,
    )


def _most(whole: Partitioning) -> tuple[int, ...]:
    return tuple(max(each) for each in zip(*(_amounts(profile) for profile, _ in whole.profiles), strict=True))


@lru_cache(maxsize=256)
def _text(amount: int) -> str:
    return str(binary(amount))
