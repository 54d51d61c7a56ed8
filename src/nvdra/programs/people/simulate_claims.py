"""Shorthand for claims, and mixes of pods made from it.

gpu, gpu:4              whole GPUs
mig:1g.10gb, mig:1g     a MIG device of a profile, or of any profile with so many compute slices
share:20Gi              20Gi of a GPU's memory, where GPUs are shared (gate ConsumableShares)
mig:1g|gpu              the first alternative that can be had
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 32
_ATTRIBUTES = "device.attributes['gpu.nvidia.com']"
_PROFILE = re.compile(r"[1-9]g(\.[0-9]+gb(\+[a-z.]+)?)?", re.ASCII)
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?", re.ASCII)

# The device classes of this driver's chart.
CLASSES = tuple(
    {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name},
        "spec": {
            "selectors": [
                {"cel": {"expression": f"device.driver == 'gpu.nvidia.com' && {_ATTRIBUTES}.type == '{kind}'"}}
            ]
        },
    }
    for name, kind in (("gpu.nvidia.com", "gpu"), ("mig.nvidia.com", "mig"))
)


class ShorthandError(ValueError):
    """A text is no claim; the message is for people."""


def claim_spec(text: str) -> Mapping[str, Any]:
    """Returns the spec of a ResourceClaim. Raises ShorthandError."""
    parts = text.split("|")
    if len(parts) == 1:
        return {"devices": {"requests": [{"name": "device", "exactly": _exactly(text)}]}}
    alternatives = [{"name": f"choice-{at}", **_exactly(part)} for at, part in enumerate(parts)]
    return {"devices": {"requests": [{"name": "device", "firstAvailable": alternatives}]}}


def _exactly(text: str) -> dict[str, Any]:
    kind, *words = text.split(":")
    match kind, words:
        case "gpu", []:
            return _request("gpu.nvidia.com", 1)
        case "gpu", [count]:
            return _request("gpu.nvidia.com", _count(text, count))
        case "mig", [profile] if _PROFILE.fullmatch(profile):
            return _mig(profile, 1)
        case "mig", [profile, count] if _PROFILE.fullmatch(profile):
            return _mig(profile, _count(text, count))
        case "share", [amount] if _AMOUNT.fullmatch(amount):
            return {**_request("gpu.nvidia.com", 1), "capacity": {"requests": {"memory": amount}}}
    raise ShorthandError(f"{text!r} is no claim: write gpu, gpu:4, mig:1g.10gb, mig:1g, share:20Gi, or mig:1g|gpu")


def _request(name: str, count: int) -> dict[str, Any]:
    return {"deviceClassName": name, "allocationMode": "ExactCount", "count": count}


def _mig(profile: str, count: int) -> dict[str, Any]:
    test = f" == '{profile}'" if "." in profile else f".matches('^{profile}[.][0-9]+gb$')"
    return {**_request("mig.nvidia.com", count), "selectors": [{"cel": {"expression": f"{_ATTRIBUTES}.profile{test}"}}]}


def _count(text: str, count: str) -> int:
    if not count.isdecimal() or not 1 <= int(count) <= _MOST:
        raise ShorthandError(f"{text!r}: a claim has 1 to {_MOST} devices")
    return int(count)


@dataclass(frozen=True, slots=True)
class Share:
    """One kind of pod in a mix: how many of 100 pods, and their mean duration in hours."""

    claims: str
    weight: int
    hours: float


MIXES: Mapping[str, tuple[Share, ...]] = {
    "training": (Share("gpu", 40, 2), Share("gpu:2", 25, 4), Share("gpu:4", 20, 6), Share("gpu:8", 15, 12)),
    "inference": (Share("mig:1g|gpu", 45, 8), Share("mig:3g|gpu", 25, 8), Share("gpu", 30, 12)),
    "notebooks": (Share("mig:1g|gpu", 75, 3), Share("mig:2g|gpu", 20, 3), Share("gpu", 5, 4)),
    "mixed": (
        Share("mig:1g|gpu", 35, 3),
        Share("mig:3g|gpu", 15, 8),
        Share("gpu", 25, 4),
        Share("gpu:2", 12, 4),
        Share("gpu:4", 8, 6),
        Share("gpu:8", 5, 12),
    ),
    "shares": (Share("share:8Gi", 60, 3), Share("share:20Gi", 30, 4), Share("share:60Gi", 10, 6)),
}


def generated(mix: str, pods: int, per_hour: float, seed: int) -> list[tuple[float, float, str]]:
    """Arrival, duration and claims of pods: arrivals are a Poisson process, durations are exponential."""
    dice = random.Random(seed)
    kinds = MIXES[mix]
    weights = [kind.weight for kind in kinds]
    made = []
    time = 0.0
    for kind in dice.choices(kinds, weights, k=pods):
        time += dice.expovariate(per_hour / 3600)
        made.append((time, dice.expovariate(1 / (kind.hours * 3600)), kind.claims))
    return made
