"""Partitions as they stand on the GPUs: whose they are, and what is behind a device's name."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from nvdra.api.claim import ClaimRef
from nvdra.checkpoint import Checkpoint, PreparedDevice
from nvdra.claims import answers
from nvdra.gpu.extents import GpuExtent, exclusive_names, partitions
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.inventory import Inventory, Partitions
from nvdra.gpu.mig import MigDevice, MigSpec
from nvdra.gpu.names import MigName, parse_name
from nvdra.gpu.vfio import VfioGpu


@dataclass(frozen=True, slots=True)
class UnmanagedPartition:
    """A GPU instance that no checkpoint entry names, on a GPU that is partitioned on demand."""

    gpu: Gpu
    gi_id: int
    profile_id: int
    start: int
    size: int

    @property
    def extent(self) -> GpuExtent:
        return GpuExtent(self.gpu.pci_bus_id, range(self.start, self.start + self.size))

    def __str__(self) -> str:
        last = self.start + self.size - 1
        slices = f"memory slice {self.start}" if self.size == 1 else f"memory slices {self.start} to {last}"
        return f"GPU instance {self.gi_id} (profile {self.profile_id}, {slices}) of {self.gpu.name} ({self.gpu.uuid})"


def unmanaged_partitions(inventory: Inventory, checkpoint: Checkpoint) -> tuple[UnmanagedPartition, ...]:
    """Partitions that this driver did not make, on GPUs that are partitioned on demand."""
    standing = [
        UnmanagedPartition(gpu, instance.gi_id, instance.profile_id, instance.start, instance.size)
        for address, gpu in inventory.gpus.items()
        if gpu.partitioning is not None and address in inventory.partitions
        for instance in inventory.partitions[address].instances
    ]
    if not standing:
        return ()
    ours = {
        (gpu, name.profile_id, name.start)
        for entry in checkpoint.entries.values()
        for name, gpu in partitions(entry, inventory)
    }
    return tuple(seen for seen in standing if (seen.gpu.pci_bus_id, seen.profile_id, seen.start) not in ours)


def partitions_of_others(
    wanted: Set[str], claim: ClaimRef, checkpoint: Checkpoint, inventory: Inventory
) -> dict[str, MigDevice]:
    """Those of the devices wanted that other completed claims have, by name: one more claim for them makes nothing.

    A partition is destroyed whether or not a claim with admin access has it too: such an entry counts only while its
    partition is seen.
    """
    return {
        device.device: known
        for uid, entry in checkpoint.entries.items()
        if uid != claim.uid and entry.state == "PrepareCompleted"
        for device in answers(entry)
        if device.device in wanted
        and isinstance(known := current_device(device, inventory), MigDevice)
        and (device.device in exclusive_names(entry) or live(device.device, inventory) == known)
    }


def current_device(device: PreparedDevice, inventory: Inventory) -> Gpu | MigDevice | VfioGpu | None:
    """The device behind an answer, as this node knows it now; None if it does not know it, or only as another one."""
    here = inventory.devices.get(device.device)
    if here is not None and not isinstance(here, MigSpec):
        return here if here.uuid == device.uuid else None
    name = parse_name(device.device)
    if device.mig is None or not isinstance(name, MigName):
        return None
    gpu = inventory.gpus.get(inventory.address_of(device.mig.parent_uuid))
    if gpu is None or gpu.partitioning is None:
        return None
    profile, size = gpu.partitioning.profile(name.profile_id), gpu.partitioning.size(name.profile_id, name.start)
    if profile is None or size is None:
        return None
    return MigDevice(gpu, profile, name.start, size, device.mig.gi_id, device.mig.ci_id, device.uuid)


def live(name: str, inventory: Inventory) -> Gpu | MigDevice | VfioGpu | None:
    """The device of this name as it stands on the node now; None if there is none, or a partition not made."""
    device = inventory.devices.get(name)
    if not isinstance(device, MigSpec):
        return device
    for instance in inventory.partitions.get(device.parent.pci_bus_id, Partitions()).instances:
        if (instance.profile_id, instance.start) == (device.profile.profile_id, device.start):
            for compute in instance.compute:
                return MigDevice(
                    device.parent,
                    device.profile,
                    device.start,
                    device.size,
                    instance.gi_id,
                    compute.ci_id,
                    compute.uuid,
                )
    return None
