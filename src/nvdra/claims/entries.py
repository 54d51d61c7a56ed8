"""Reads checkpoint entries: a claim's allocation of one driver, and the devices that kubelet got as the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import orjson

from nvdra.api.claim import OpaqueConfig, Result, decode_status
from nvdra.checkpoint import Checkpoint, Entry, PreparedDevice, Unsupported


@dataclass(frozen=True, slots=True)
class Allocation:
    """One driver's part of a claim's allocation.

    Two allocations are the same if these values are equal; timestamps, reservations and other drivers do not count.
    """

    results: tuple[Result, ...]
    configs: tuple[OpaqueConfig, ...]

    @property
    def exclusive(self) -> Iterator[Result]:
        """Results that exclude other claims: all without admin access."""
        return (result for result in self.results if not result.admin_access)


# More claims than a node has pods. The size is limited because statuses of finished claims stay here.
@lru_cache(maxsize=256)
def allocation(status: bytes, driver: str) -> Allocation:
    """The driver's part of the allocation in a claim's status; empty if it has none.

    status   JSON as the checkpoint keeps it
    """
    results, configs = decode_status(status)
    return Allocation(
        tuple(result for result in results if result.driver == driver),
        tuple(config for config in configs if config.driver == driver),
    )


def pods(entry: Entry) -> dict[str, str]:
    """The pods that the claim was reserved for when it was prepared, name by UID; empty if its status is unreadable."""
    try:
        reserved = orjson.loads(entry.status).get("reservedFor") or []
        return {one["uid"]: one["name"] for one in reserved if one["resource"] == "pods"}
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return {}


def answers(entry: Entry) -> tuple[PreparedDevice, ...]:
    """The devices that kubelet got as the answer for a completed claim, also from another release."""
    if isinstance(entry.prepared, Unsupported):
        return entry.prepared.devices
    return tuple(device for group in entry.prepared for device in group.devices)


def prepared_allocation(entry: Entry, driver: str) -> Allocation:
    """The allocation of a completed entry: the results that were answered, and the configs of its status.

    An answer without a result (entries of early releases have no status) counts as a result without admin access.
    """
    given = allocation(entry.status, driver)
    answered = {answer_key(answer): answer.pool for answer in answers(entry)}
    results = [result for result in given.results if answered.pop(result_key(result), None) is not None]
    results += [
        Result(request, driver, pool, device, share_id=share_id)
        for (request, device, share_id), pool in answered.items()
    ]
    return Allocation(tuple(results), given.configs)


def result_key(result: Result) -> tuple[str, str, str | None]:
    """What tells the results of one claim apart."""
    return result.request, result.device, result.share_id


def answer_key(answer: PreparedDevice) -> tuple[str, str, str | None]:
    """The key of the result that an answer was given for."""
    return answer.requests[0] if answer.requests else "", answer.device, answer.share_id


def device_types(checkpoint: Checkpoint, type_of: Callable[[str], str]) -> Counter[str]:
    """The number of prepared devices by type."""
    completed = (entry for entry in checkpoint.entries.values() if entry.state == "PrepareCompleted")
    return Counter(type_of(device.device) for entry in completed for device in answers(entry))


def exclusive_names(entry: Entry, driver: str) -> frozenset[str]:
    """Device names of an entry in any state, without those that it has with admin access only."""
    given = allocation(entry.status, driver)
    looked_at = {result.device for result in given.results} - {result.device for result in given.exclusive}
    return names(entry, driver) - looked_at


def names(entry: Entry, driver: str) -> frozenset[str]:
    """Device names of an entry in any state, from its answers and its status."""
    prepared = entry.prepared.device_names if isinstance(entry.prepared, Unsupported) else ()
    return frozenset(
        (
            *prepared,
            *(device.device for device in answers(entry)),
            *(r.device for r in allocation(entry.status, driver).results),
        )
    )
