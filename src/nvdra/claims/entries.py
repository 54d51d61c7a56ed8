"""The record's entries, read: what a claim was allocated of this driver, and what was answered for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from nvdra.api.claim import OpaqueConfig, Result, decode_status
from nvdra.checkpoint import Entry, Foreign, PreparedDevice, Record
from nvdra.devices import GpuName, MigName, VfioName, parse_name

DRIVER = "gpu.nvidia.com"


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a claim's status gives it of this driver.

    Two claims' allocations are the same if these are equal; timestamps, reservations and other drivers do not count.
    """

    results: tuple[Result, ...]
    configs: tuple[OpaqueConfig, ...]

    @property
    def exclusive(self) -> Iterator[Result]:
        """Results that keep others away: all but those for administrators."""
        return (result for result in self.results if not result.admin_access)


# More claims than a node has pods for; no more, because every claim that comes and goes leaves a status here.
@lru_cache(maxsize=256)
def allocation(status: bytes) -> Allocation:
    """The allocation in a claim's status; empty if it has none.

    status   JSON as the record keeps it
    """
    results, configs = decode_status(status)
    return Allocation(
        tuple(result for result in results if result.driver == DRIVER),
        tuple(config for config in configs if config.driver == DRIVER),
    )


def answers(entry: Entry) -> tuple[PreparedDevice, ...]:
    """What was answered to kubelet for a completed claim, whoever prepared it."""
    if isinstance(entry.prepared, Foreign):
        return entry.prepared.devices
    return tuple(device for group in entry.prepared for device in group.devices)


def device_types(record: Record) -> Counter[str]:
    """How many devices are prepared, by type: "gpu", "mig", "vfio" or "unknown"."""
    completed = (entry for entry in record.entries.values() if entry.state == "PrepareCompleted")
    return Counter(_device_type(device.device) for entry in completed for device in answers(entry))


def _device_type(device: str) -> str:
    match parse_name(device):
        case GpuName():
            return "gpu"
        case MigName():
            return "mig"
        case VfioName():
            return "vfio"
        case None:
            return "unknown"


def exclusive_names(entry: Entry) -> frozenset[str]:
    """Device names that an entry of any state speaks of and keeps from others: not those for administrators alone."""
    given = allocation(entry.status)
    return names(entry) - ({result.device for result in given.results} - {result.device for result in given.exclusive})


def names(entry: Entry) -> frozenset[str]:
    """Device names that an entry of any state speaks of."""
    prepared = entry.prepared.device_names if isinstance(entry.prepared, Foreign) else ()
    return frozenset(
        (
            *prepared,
            *(device.device for device in answers(entry)),
            *(r.device for r in allocation(entry.status).results),
        )
    )
