"""MIG profiles of a GPU model: what a partition of it has, and where it may lie. Values only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from nvdra.gpu.scan import MigProfileScan

# Go driver: what a device name takes of a profile's text.
_NOT_IN_NAMES = re.compile(r"[^a-z0-9-]", re.ASCII)

# How profiles of as many slices differ, by NVML's index. Source: NVML 13, NVML_GPU_INSTANCE_PROFILE_*.
_MARKS = {
    **dict.fromkeys((0, 1, 2, 3, 4, 5, 6, 9), ""),
    **dict.fromkeys((7, 8), "+me"),
    **dict.fromkeys((10, 11, 12, 17), "+gfx"),
    **dict.fromkeys((13, 14), "-me"),
    **dict.fromkeys((15, 16), "+me.all"),
}

_MIB = 1 << 20
_GIB = 1 << 30

# Models of GPUs that one node has, with what differs from GPU to GPU of a model: hardly ever more than one.
_MODELS = 32


@dataclass(frozen=True, slots=True)
class MigProfile:
    """A profile of one GPU model.

    text              NVML's notation, "1g.18gb+me"
    profile_id        NVML's GPU instance profile id
    compute_profiles  ids of compute instance profiles that span the instance, the preferred one first
    """

    text: str
    profile_id: int
    slices: int
    multiprocessors: int
    copy_engines: int
    decoders: int
    encoders: int
    jpeg_engines: int
    ofa_engines: int
    memory_bytes: int
    compute_profiles: tuple[int, ...] = ()

    @property
    def name_text(self) -> str:
        """The text as it stands in device names: "1g18gb-me"."""
        return _NOT_IN_NAMES.sub("-", self.text.replace(".", "").lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How any GPU of one model may be partitioned while its scheduler keeps count (gate DynamicMIG).

    profiles    each with its placements, (start, size) in memory slices
    can_toggle  MIG mode changes without a reset: it is turned on for the first partition and off after the last
    """

    profiles: tuple[tuple[MigProfile, tuple[tuple[int, int], ...]], ...]
    can_toggle: bool

    @property
    def memory_slices(self) -> int:
        """How many memory slices the largest placement spans."""
        return max((size for _, placements in self.profiles for _, size in placements), default=0)

    def profile(self, profile_id: int) -> MigProfile | None:
        return next((profile for profile, _ in self.profiles if profile.profile_id == profile_id), None)

    def size(self, profile_id: int, start: int) -> int | None:
        """Memory slices of the placement that begins at `start`; None if the profile has none there."""
        for profile, placements in self.profiles:
            if profile.profile_id == profile_id:
                return next((size for at, size in placements if at == start), None)
        return None


@lru_cache(maxsize=_MODELS)
def partitioning(seen: tuple[MigProfileScan, ...], memory_bytes: int | None, can_toggle: bool) -> Partitioning | None:
    """How GPUs of a model may be partitioned: one value for all of them. None if no profile of theirs is known here."""
    known = ((profile(each, memory_bytes), each.placements) for each in seen)
    profiles = tuple((made, placements) for made, placements in known if made is not None and placements)
    return Partitioning(profiles, can_toggle) if profiles else None


@lru_cache(maxsize=_MODELS * 32)
def profile(seen: MigProfileScan, memory_bytes: int | None) -> MigProfile | None:
    """The profile that NVML describes, one value for all GPUs of a model; None if it cannot be told in words.

    memory_bytes   of the whole GPU: profiles are called by their share of it
    """
    mark = _MARKS.get(seen.index)
    if mark is None or not memory_bytes:
        return None
    return MigProfile(
        text=f"{seen.slices}g.{_gigabytes(seen.memory_mib * _MIB, memory_bytes)}gb{mark}",
        profile_id=seen.profile_id,
        slices=seen.slices,
        multiprocessors=seen.multiprocessors,
        copy_engines=seen.copy_engines,
        decoders=seen.decoders,
        encoders=seen.encoders,
        jpeg_engines=seen.jpeg_engines,
        ofa_engines=seen.ofa_engines,
        memory_bytes=seen.memory_mib * _MIB,
        compute_profiles=tuple(each.profile_id for each in seen.compute),
    )


def _gigabytes(part: int, whole: int) -> int:
    """What a profile's text says of its memory: the eighths of the GPU that it needs, in the GPU's whole GiB."""
    eighths = math.ceil(part / whole * 8)  # DROP-IN: in floating point, as go-nvlib reckons
    return math.floor(eighths / 8 * -(-whole // _GIB) + 0.5)
