"""MIG devices as this node offers them. Values only.

A *partition* is a place on a GPU: a profile and its first memory slice. Announced but not made it is a `MigSpec`; made
it is a `MigDevice`. Both have the same name, so that a claim finds its device whoever made it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nvdra.devices.gpu import Gpu
from nvdra.devices.mig_profile import MigProfile
from nvdra.devices.names import MigName


@dataclass(frozen=True, slots=True)
class MigSpec:
    """A partition that could be made: announced with counters, made when a claim is prepared."""

    parent: Gpu
    profile: MigProfile
    start: int
    size: int

    @property
    def name(self) -> str:
        return str(MigName(self.parent.minor, self.profile.name_text, self.profile.profile_id, self.start))


@dataclass(frozen=True, slots=True)
class MigDevice:
    """A live partition with its MIG device. `size` and `start` in memory slices."""

    parent: Gpu
    profile: MigProfile
    start: int
    size: int
    gi_id: int
    ci_id: int
    uuid: str

    @property
    def name(self) -> str:
        return str(MigName(self.parent.minor, self.profile.name_text, self.profile.profile_id, self.start))


Device = Gpu | MigSpec | MigDevice


def parent(device: Device) -> Gpu:
    """The GPU a device is or lies on."""
    return device if isinstance(device, Gpu) else device.parent
