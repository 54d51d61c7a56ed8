"""Device names: what a device is called in a ResourceSlice, and what a name says of its device.

Names are contract: claims, checkpoints and CDI ids carry them across releases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_GPU = re.compile(r"gpu-(\d+)", re.ASCII)
_MIG = re.compile(r"gpu-(\d+)-mig-(.+)-(\d+)-(\d+)", re.ASCII)
_VFIO = re.compile(r"gpu-vfio-(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class GpuName:
    """A full GPU, by its NVML minor number (not its index)."""

    minor: int

    def __str__(self) -> str:
        return f"gpu-{self.minor}"


@dataclass(frozen=True, slots=True)
class MigName:
    """A MIG device, by its place: parent's minor, profile, NVML's GPU instance profile id, first memory slice.

    profile   as it stands in the name ("1g5gb", "1g5gb-me"): the id tells profiles apart, the text is for people
    """

    parent_minor: int
    profile: str
    profile_id: int
    start: int

    def __str__(self) -> str:
        return f"gpu-{self.parent_minor}-mig-{self.profile}-{self.profile_id}-{self.start}"


@dataclass(frozen=True, slots=True)
class VfioName:
    """A GPU for passthrough, by its position among the node's GPUs in PCI address order."""

    position: int

    def __str__(self) -> str:
        return f"gpu-vfio-{self.position}"


Name = GpuName | MigName | VfioName


# More names than a node announces: sixteen GPUs and all their partitions.
@lru_cache(maxsize=1024)
def parse_name(text: str) -> Name | None:
    """What kind of device a name names; None if it is none of ours."""
    if found := _GPU.fullmatch(text):
        return GpuName(int(found[1]))
    if found := _MIG.fullmatch(text):
        return MigName(int(found[1]), found[2], int(found[3]), int(found[4]))
    if found := _VFIO.fullmatch(text):
        return VfioName(int(found[1]))
    return None
