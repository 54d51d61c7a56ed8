"""The schema of each driver's checkpoint, inside one common envelope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nvdra.checkpoint.prepared import DeviceType


@dataclass(frozen=True, slots=True)
class Schema:
    """The driver's part of a checkpoint.

    types         of devices that its entries hold
    can_abort     whether an entry may be PrepareAborted
    unsupported   of "vfio" and "mps": entries with such devices or groups are read as `Unsupported`
    """

    driver: Literal["gpu.nvidia.com", "compute-domain.nvidia.com"]
    types: frozenset[DeviceType]
    can_abort: bool = False
    unsupported: frozenset[str] = frozenset()


# The Go GPU plugin calls a checkpoint with PrepareAborted corrupt, so this driver never writes that state.
GPU = Schema("gpu.nvidia.com", frozenset(("gpu", "mig", "vfio")))
DOMAIN = Schema("compute-domain.nvidia.com", frozenset(("channel", "daemon")), can_abort=True)
