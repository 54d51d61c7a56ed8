"""MIG devices as this node offers them. Values only.

A *partition* is a place on a GPU: a profile and its first memory slice. Announced but not made it is a `MigSpec`; made
it is a `MigDevice`. Both have the same name, so that a claim finds its device whoever made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nvdra.gpu.gpu import Gpu, OddDeviceError
from nvdra.gpu.mig_profile import MigProfile, profile
from nvdra.gpu.names import MigName
from nvdra.gpu.scan import GpuInstanceScan, MigProfileScan
from nvdra.gpu.vfio import VfioGpu


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


NvmlDevice = Gpu | MigSpec | MigDevice
GpuDevice = NvmlDevice | VfioGpu


def parent(device: NvmlDevice) -> Gpu:
    """The GPU a device is or lies on."""
    return device if isinstance(device, Gpu) else device.parent


def address_of_device(device: GpuDevice) -> str:
    """The PCI address of the GPU a device is or lies on."""
    return device.pci_bus_id if isinstance(device, VfioGpu) else parent(device).pci_bus_id


def specs(gpu: Gpu) -> Iterator[MigSpec]:
    """Every partition that could be made of a GPU; none if it is not partitioned on demand."""
    for each, placements in gpu.partitioning.profiles if gpu.partitioning else ():
        for start, size in placements:
            yield MigSpec(gpu, each, start, size)


def live(gpu: Gpu, instance: GpuInstanceScan, profiles: Mapping[int, MigProfileScan]) -> MigDevice | None:
    """The MIG device of a GPU instance; None while it is half made and has none.

    profiles   of the GPU, by NVML's id
    Raises OddDeviceError for one that cannot be offered.
    """
    if not instance.compute:
        return None
    seen = profiles.get(instance.profile_id)
    if seen is None:
        raise OddDeviceError(f"the driver does not describe GPU instance profile {instance.profile_id}")
    named = profile(seen, gpu.memory_bytes)
    if named is None:
        why = f"profile index {seen.index} is not known here" if gpu.memory_bytes else "the GPU's memory is unknown"
        raise OddDeviceError(f"GPU instance profile {instance.profile_id} has no name: {why}")
    # A device is named by its GPU instance alone: the parts of a divided one would all have its name. One slice is not
    # divided, whichever compute profile it has.
    is_part = seen.slices > 1 and instance.compute[0].profile_id not in named.compute_profiles
    if len(instance.compute) > 1 or (is_part and named.compute_profiles):
        count = len(instance.compute)
        has = f"{count} compute instances divide it" if count > 1 else "its compute instance spans only a part of it"
        raise OddDeviceError(f"GPU instance {instance.gi_id}: {has}; only whole GPU instances are offered")
    (compute,) = instance.compute
    if not compute.uuid:
        raise OddDeviceError(f"GPU instance {instance.gi_id}: NVML tells no UUID of its MIG device")
    return MigDevice(gpu, named, instance.start, instance.size, instance.gi_id, compute.ci_id, compute.uuid)
