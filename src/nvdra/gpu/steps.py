"""Steps of gpu.nvidia.com: one frozen value per kind of hardware change.

An actor in `node/gpu/actors/` applies each kind and rolls it back. All lie on one GPU, named by its PCI address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nvdra.api.claim import ClaimRef
from nvdra.api.configs import INTERVALS, TIME_SLICING, ConfigError, GpuConfig, decode
from nvdra.api.gates import TIME_SLICING_SETTINGS, Gates
from nvdra.checkpoint import Checkpoint, Entry, PreparedGroup, Unsupported
from nvdra.claims import Group, Refuse, Steps, allocation, answers, unable
from nvdra.gpu.extents import DRIVER, exclusive_names, extent
from nvdra.gpu.fabric import ActivateFabricPartition, fabric_steps, needs_partition
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.inventory import Inventory, Partitions
from nvdra.gpu.mig import MigDevice, MigSpec
from nvdra.gpu.mig_profile import Partitioning
from nvdra.gpu.mps import StartMpsDaemon
from nvdra.gpu.names import GpuName, parse_name
from nvdra.gpu.partitions import partitions_of_others, unmanaged_partitions
from nvdra.gpu.sharing import Sharing, daemons, daemons_of, differing_shares
from nvdra.gpu.vfio import BindVfio, bindings, vfio_uuid


@dataclass(frozen=True, slots=True)
class CreatePartition:
    """Make a partition, with MIG mode turned on for it if it is off. Its fact is the `MigDevice`, by device name.

    spec   None where the step is only to be rolled back and the GPU's profiles are not known any more
    uuid   of the MIG device that was made there; "" if that was never recorded
    """

    kind: ClassVar[str] = "partition"
    has_rollback: ClassVar[bool] = True

    gpu: Gpu
    device: str
    profile_id: int
    start: int
    spec: MigSpec | None = None
    uuid: str = ""

    @property
    def key(self) -> str:
        return f"{self.profile_id}@{self.start}"

    @property
    def resources(self) -> frozenset[str]:
        return frozenset((self.gpu.pci_bus_id,))


@dataclass(frozen=True, slots=True)
class LeaveMigMode:
    """Turn MIG mode off: the GPU is wanted whole, and no partition is on it. Nothing is rolled back."""

    kind: ClassVar[str] = "mig-mode-off"
    has_rollback: ClassVar[bool] = False

    gpu: Gpu

    @property
    def key(self) -> str:
        return "off"

    @property
    def resources(self) -> frozenset[str]:
        return frozenset((self.gpu.pci_bus_id,))


@dataclass(frozen=True, slots=True)
class SetTimeSlice:
    """Set a GPU's time slice, and its compute mode to DEFAULT; rolled back to the slice before.

    wanted_by  requests and claim, for the Go driver's error text
    interval   0 (default) to 3 (long), as `nvidia-smi compute-policy --set-timeslice` takes it
    """

    kind: ClassVar[str] = "timeslice"
    has_rollback: ClassVar[bool] = True

    gpu: Gpu
    interval: int
    wanted_by: str = ""

    @property
    def key(self) -> str:
        return "interval"

    @property
    def resources(self) -> frozenset[str]:
        return frozenset((self.gpu.pci_bus_id,))


def create_partition(made: MigSpec | MigDevice, uuid: str = "") -> CreatePartition:
    spec = made if isinstance(made, MigSpec) else MigSpec(made.parent, made.profile, made.start, made.size)
    return CreatePartition(made.parent, made.name, made.profile.profile_id, made.start, spec, uuid)


GpuStep = CreatePartition | LeaveMigMode | SetTimeSlice | StartMpsDaemon | ActivateFabricPartition | BindVfio


def steps(
    claim: ClaimRef,
    groups: Sequence[Group],
    inventory: Inventory,
    checkpoint: Checkpoint,
    gates: Gates,
    sharing: Sharing,
) -> Steps | Refuse:
    """What must be done to GPUs before these groups' devices can be handed out."""
    if why := differing_shares(groups):
        return Refuse(f"{unable(claim)}{why}", permanent=True)
    # A device stands in a claim as often as it has results; its partition is made once.
    devices = {device.name: device for group in groups for _, device in group.members}
    used = {device.name: device for group in groups for result, device in group.members if not result.admin_access}
    specs = {name for name, device in devices.items() if isinstance(device, MigSpec)}
    made = partitions_of_others(specs, claim, checkpoint, inventory) if specs else {}
    found: list[CreatePartition | LeaveMigMode] = []
    for name, device in used.items():
        match device:
            case MigSpec() if name not in made:
                found.append(create_partition(device))
            case Gpu(partitioning=Partitioning()) if _is_partitioned(device, inventory):
                found.append(LeaveMigMode(device))
            case _:
                pass
    if found and (refuse := _unmanaged(claim, found, inventory, checkpoint)):
        return refuse
    shared = tuple(create_partition(device, device.uuid) for device in made.values())
    slices = time_slices(claim, groups, gates)
    if isinstance(slices, Refuse):
        return slices
    mps = daemons(claim, groups, gates, sharing)
    if isinstance(mps, Refuse):
        return mps
    fabric = fabric_steps(groups, inventory)
    if isinstance(fabric, Refuse):
        return fabric
    binds = bindings(claim, groups)
    if isinstance(binds, Refuse):
        return binds
    # Settings of devices that are shared are looked at for each claim, and stay for the others if that fails.
    settings: tuple[GpuStep, ...] = (*fabric, *slices, *mps)
    theirs = tuple(step for step in settings if is_shared(step, claim, checkpoint))
    return Steps((*found, *settings, *binds), (*shared, *theirs), made)


def time_slices(claim: ClaimRef, groups: Iterable[Group], gates: Gates) -> tuple[SetTimeSlice, ...] | Refuse:
    """One step for each full GPU whose config asks for a time slice; none for results with admin access."""
    if not gates.enabled(TIME_SLICING_SETTINGS):
        return ()
    found: dict[str, SetTimeSlice] = {}
    for group in groups:
        if (interval := interval_of(group.config)) is None:
            continue
        requests = " ".join(dict.fromkeys(result.request for result, _ in group.members))
        wanted_by = f"requests '[{requests}]' in claim '{claim.uid}'"
        if group.config.sharing.mps is not None:
            return Refuse(
                f"prepare devices failed: error applying config: error getting timeslice config for {wanted_by}: "
                f"cannot use MpsConfig with the '{TIME_SLICING}' strategy",
                permanent=True,
            )
        for result, device in group.members:
            if isinstance(device, Gpu) and not result.admin_access:
                found[device.pci_bus_id] = SetTimeSlice(device, interval, wanted_by)
    return tuple(found[address] for address in sorted(found))


def needs(step: object, entry: Entry) -> bool:
    """Whether an entry of any state still needs what the step did."""
    match step:
        case CreatePartition(device=device):
            return device in exclusive_names(entry)
        case SetTimeSlice(gpu=gpu):
            return gpu.uuid in set(sliced_uuids(entry)) or (
                entry.state == "PrepareStarted" and gpu.name in sliced_names(entry)
            )
        case ActivateFabricPartition():
            return needs_partition(step, entry)
        case BindVfio(device=device):
            prepared = {each.uuid for each in answers(entry)}
            return vfio_uuid(step.address) in prepared or (not prepared and device in exclusive_names(entry))
        case StartMpsDaemon():
            return step.id in daemons_of(entry) or (
                step.is_shared and entry.state == "PrepareStarted" and bool(exclusive_names(entry) & set(step.names))
            )
        case _:
            return False


def is_shared(step: GpuStep, claim: ClaimRef, checkpoint: Checkpoint) -> bool:
    """Whether another claim needs the step too."""
    return any(needs(step, entry) for uid, entry in checkpoint.entries.items() if uid != claim.uid)


def sliced_uuids(entry: Entry) -> Iterator[str]:
    """UUIDs of full GPUs that a prepared entry set a time slice on."""
    if isinstance(entry.prepared, Unsupported):
        return
    for group in entry.prepared:
        if not isinstance(group, PreparedGroup) or group.time_slice_applied is False:
            continue
        full = [d for d in group.devices if d.mig is None and isinstance(parse_name(d.device), GpuName)]
        if group.time_slice_applied is None:
            # v0.4.0 of the Go driver does not say whether it set a slice: the claim's own config tells.
            asked = sliced_names(entry)
            sliced = [device for device in full if device.device in asked]
        else:
            # A group with admin access alone says so only where the Go driver set its slice.
            exclusive = {result.device for result in allocation(entry.status, DRIVER).exclusive}
            sliced = [device for device in full if device.device in exclusive] or full
        yield from (device.uuid for device in sliced)


def sliced_names(entry: Entry) -> frozenset[str]:
    """Names of full GPUs whose claim has a config that asks for a time slice."""
    given = allocation(entry.status, DRIVER)
    asking = [config.requests for config in given.configs if _asks_for_slice(config.parameters)]
    return frozenset(
        result.device
        for result in given.exclusive
        if isinstance(parse_name(result.device), GpuName)
        and any(
            not requests or result.request in requests or result.request.partition("/")[0] in requests
            for requests in asking
        )
    )


def _asks_for_slice(parameters: bytes) -> bool:
    try:
        config = decode(parameters)
    except ConfigError:
        return False
    return isinstance(config, GpuConfig) and config.sharing is not None and config.sharing.strategy == TIME_SLICING


def interval_of(config: object) -> int | None:
    """The time slice that a normalized config asks for; None if it asks for none."""
    if not isinstance(config, GpuConfig) or config.sharing is None or config.sharing.strategy != TIME_SLICING:
        return None
    slicing = config.sharing.time_slicing
    return None if slicing is None or slicing.interval is None else INTERVALS.get(slicing.interval)


def _is_partitioned(gpu: Gpu, inventory: Inventory) -> bool:
    return inventory.partitions.get(gpu.pci_bus_id, Partitions()).is_on


def _unmanaged(
    claim: ClaimRef, found: Iterable[CreatePartition | LeaveMigMode], inventory: Inventory, checkpoint: Checkpoint
) -> Refuse | None:
    unmanaged = unmanaged_partitions(inventory, checkpoint)
    for step in found:
        name = step.device if isinstance(step, CreatePartition) else step.gpu.name
        wanted = extent(name, inventory)
        for other in unmanaged:
            if wanted is not None and wanted.overlaps(other.extent):
                return Refuse(
                    f"{unable(claim)}requested device {name} overlaps a partition that this driver did not make: "
                    f"{other}; destroy it (nvidia-smi mig -dci, -dgi) or leave the device to who made it",
                    rescan=True,
                )
    return None
