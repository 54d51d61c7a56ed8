"""Administrative access: which devices it is given for, and which configs it goes without.

A result with `adminAccess: true` looks at a device that others use. Nothing is done to the hardware for it, so it takes
neither a device that would have to be made or bound first, nor a config. Both rules hold at admission too, where
requests are known and devices are not: the texts name the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nvdra.api.admin_access import takes_no_config
from nvdra.gpu.matching import match

_REFUSED = {
    "vfio": "a VFIO device",
    "migdyn": "a MIG device made on demand (feature gate DynamicMIG)",
}

# Below all others: each kind of device has one, which does nothing.
_BUILT_IN = (((), "GpuConfig"), ((), "MigDeviceConfig"), ((), "VfioDeviceConfig"))


@dataclass(frozen=True, slots=True)
class Asked:
    """One result of a claim, or one request of it before allocation.

    kind   "gpu", "mig", "migdyn" or "vfio"; "" if it is not known
    """

    request: str
    kind: str
    admin_access: bool
    device: str = ""


def refused_device(asked: Asked) -> str:
    """Why administrative access is not given to a device of this kind; "" if it is, or if no such access is asked."""
    what = _REFUSED.get(asked.kind, "") if asked.admin_access else ""
    if not what:
        return ""
    return (
        f"request {asked.request} has adminAccess: true, which never changes a GPU and is given for full GPUs and for "
        f"MIG devices made beforehand, not for {what}"
    )


def refused_config(asked: Sequence[Asked], configs: Sequence[tuple[Sequence[str], str]]) -> str:
    """Why a config keeps administrative access from being given; "" if none does.

    configs   this driver's, as (requests, kind), lowest precedence first, without the built-in ones
    A config for all requests is meant for the results without administrative access, if it fits one of them.
    Raises MismatchError.
    """
    others = [one for one in asked if not one.admin_access]
    left = [(requests, kind) for requests, kind in configs if requests or not any(_fits(kind, one) for one in others)]
    for one in asked:
        if one.admin_access and (index := _applied(one, left)) is not None:
            return takes_no_config(one.request, left[index][1])
    return ""


def _fits(kind: str, one: Asked) -> bool:
    return not one.kind or _applied(one, [((), kind)]) is not None


def _applied(one: Asked, configs: Sequence[tuple[Sequence[str], str]]) -> int | None:
    """Which of these configs is applied to a result; None if only a built-in one is, or its kind is not known."""
    if not one.kind:
        return None
    (found,) = match([(one.request, one.device, one.kind)], [*_BUILT_IN, *configs])
    return None if found < len(_BUILT_IN) else found - len(_BUILT_IN)
