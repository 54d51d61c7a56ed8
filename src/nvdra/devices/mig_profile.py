"""MIG profiles of a GPU model: what a partition of it has, and where it may lie. Values only."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Go driver: what a device name takes of a profile's text.
_NOT_IN_NAMES = re.compile(r"[^a-z0-9-]", re.ASCII)


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
