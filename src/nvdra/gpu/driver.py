"""gpu.nvidia.com as the neutral frame sees it: the first implementation of `nvdra.claims.Driver`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nvdra.api.claim import Claim, ClaimRef, OpaqueConfig, Result
from nvdra.api.gates import (
    DEVICE_METADATA,
    DYNAMIC_MIG,
    FABRIC_MANAGER_PARTITIONING,
    MPS_SUPPORT,
    PASSTHROUGH_SUPPORT,
    TIME_SLICING_SETTINGS,
    Gates,
)
from nvdra.cdi import GPU_CLAIMS, ClaimKind, Edits
from nvdra.checkpoint import (
    GPU,
    Checkpoint,
    Entry,
    Info,
    PreparedDevice,
    PreparedGpu,
    PreparedGroup,
    PreparedMig,
    PreparedVfio,
    Schema,
)
from nvdra.claims import (
    Allocation,
    Facts,
    Group,
    Missing,
    NodeDevice,
    Refuse,
    Step,
    Steps,
    Teardown,
    answers,
    metadata,
    prepared_allocation,
    unable,
)
from nvdra.gpu.admin import refused_device
from nvdra.gpu.attributes import published
from nvdra.gpu.extents import DRIVER, conflicts, extent, half_prepared_extents
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.groups import asked, groups, regroup
from nvdra.gpu.inventory import Inventory
from nvdra.gpu.mig import MigDevice, MigSpec
from nvdra.gpu.mps import StartMpsDaemon
from nvdra.gpu.names import GpuName, MigName, VfioName, parse_name
from nvdra.gpu.partitions import current_device, live
from nvdra.gpu.sharing import (
    UNSHARED,
    Sharing,
    daemon_facts,
    daemon_of,
    daemons,
    daemons_of,
    share_refused,
    sharing_edits,
)
from nvdra.gpu.steps import interval_of, needs, steps
from nvdra.gpu.teardown import teardown
from nvdra.gpu.vfio import BoundVfio, VfioGpu, bound_devices

DEVICE_TYPES = ("gpu", "mig", "vfio", "unknown")

# A fact about claims whose entry was lost: what their steps did is not known.
_ADOPTED = "adopted"


@dataclass(frozen=True, slots=True)
class GpuDriver:
    """Rules of gpu.nvidia.com under these feature gates and options. Its view of the node is the inventory."""

    gates: Gates
    sharing: Sharing = UNSHARED

    @property
    def name(self) -> str:
        return DRIVER

    @property
    def cdi(self) -> ClaimKind:
        return GPU_CLAIMS

    @property
    def schema(self) -> Schema:
        return GPU

    @property
    def device_types(self) -> tuple[str, ...]:
        return DEVICE_TYPES

    @property
    def has_steps(self) -> bool:
        having = (
            DYNAMIC_MIG,
            FABRIC_MANAGER_PARTITIONING,
            MPS_SUPPORT,
            PASSTHROUGH_SUPPORT,
            TIME_SLICING_SETTINGS,
        )
        return any(map(self.gates.enabled, having))

    @property
    def on_abandoned(self) -> Literal["forget", "abort"]:
        return "forget"  # the Go driver calls a checkpoint with an aborted claim corrupt

    @property
    def resumes(self) -> bool:
        return False  # the hardware may have changed since

    # ── prepare ────────────────────────────────────────────────────────────────────────────────────────────────

    def resolve(self, result: Result, node: Inventory) -> NodeDevice | Missing:
        device = node.devices.get(result.device)
        return Missing(result.device, node.why_absent(result.device)) if device is None else device

    def forbids(self, result: Result, node: Inventory) -> str:
        return refused_device(asked(result, node.devices.get(result.device)))

    def group(self, members: Sequence[tuple[Result, NodeDevice]], configs: Sequence[OpaqueConfig]) -> tuple[Group, ...]:
        return groups(members, configs, self.gates)

    def conflict(self, result: Result, other: Entry, node: Inventory) -> bool:
        """Also under another name: a GPU by its partitions and they by the GPU, a GPU that is passed through, or one
        that had another minor number before a driver reload.
        """
        wanted = extent(result.device, node)
        return wanted is not None and conflicts(other, wanted, node)

    def share_refused(self, claim: Claim, result: Result, uid: str, other: Entry) -> str | None:
        if not self.sharing.shares.is_active or not isinstance(parse_name(result.device), GpuName | MigName):
            return None
        return share_refused(claim, result, uid, other, self.gates)

    def overlaps(self, result: Result, other: Entry, node: Inventory) -> bool:
        wanted = extent(result.device, node)
        return wanted is not None and any(wanted.overlaps(begun) for begun in half_prepared_extents(other, node))

    def same_extent(self, device: str, other: str, node: Inventory) -> bool:
        one, two = extent(device, node), extent(other, node)
        return one is not None and two is not None and one.overlaps(two)

    def steps(
        self, claim: ClaimRef, groups: Sequence[Group], node: Inventory, checkpoint: Checkpoint
    ) -> Steps | Refuse:
        for result, device in (member for group in groups for member in group.members):
            if device.name in node.refused and not result.admin_access:
                return Refuse(f"{unable(claim)}{node.refused[device.name]}")
        return steps(claim, groups, node, checkpoint, self.gates, self.sharing)

    # ── unprepare ──────────────────────────────────────────────────────────────────────────────────────────────

    def teardown(self, claim: ClaimRef, entry: Entry, node: Inventory, checkpoint: Checkpoint) -> Teardown | Refuse:
        return teardown(claim, entry, node, checkpoint, self.gates, self.sharing)

    def needs(self, step: Step, entry: Entry) -> bool:
        return needs(step, entry)

    # ── seal ───────────────────────────────────────────────────────────────────────────────────────────────────

    def prepared(self, claim: ClaimRef, group: Group, facts: Facts) -> PreparedGroup:
        devices = tuple(self._prepared(claim.uid, result, device, facts) for result, device in group.members)
        return PreparedGroup(devices, daemon_of(group, facts), self._time_slice_applied(group, facts))

    def concrete(self, device: NodeDevice, facts: Facts) -> Gpu | MigDevice | BoundVfio:
        made = facts[device.name] if isinstance(device, MigSpec | VfioGpu) else device
        assert isinstance(made, Gpu | MigDevice | BoundVfio)
        return made

    def edits(self, group: Group, result: Result, facts: Facts) -> Edits:
        return sharing_edits(group, result, facts, self.sharing)

    def has_common_edits(self, group: Group) -> bool:
        return not any(isinstance(device, VfioGpu) for _, device in group.members)

    def restore(
        self, claim: ClaimRef, given: Allocation, entry: Entry | None, node: Inventory
    ) -> tuple[tuple[Group, ...], Facts] | Missing:
        """A device is the one of the entry; where that was lost, the one of this name that stands on the node."""
        answered = {} if entry is None else {answer.device: answer for answer in answers(entry)}
        members = []
        for result in given.results:
            found = live(result.device, node) if entry is None else current_device(answered[result.device], node)
            if found is None:
                return Missing(result.device, node.why_absent(result.device))
            members.append((result, found))
        groups = regroup(members, given.configs, self.gates)
        facts = {**daemon_facts(claim, groups, entry, self.sharing), **bound_devices(groups)}
        return groups, {**facts, _ADOPTED: True} if entry is None else facts

    def daemons_of_entry(self, claim: ClaimRef, entry: Entry, node: Inventory) -> tuple[StartMpsDaemon, ...]:
        """MPS daemons of a completed entry, with the settings that its configs ask for; none while a device is away."""
        if not daemons_of(entry):
            return ()
        found = self.restore(claim, prepared_allocation(entry, self.name), entry, node)
        steps = () if isinstance(found, Missing) else daemons(claim, found[0], self.gates, self.sharing)
        return () if isinstance(steps, Refuse) else tuple(step for step in steps if step.id in daemons_of(entry))

    def changed(self, device: PreparedDevice, node: Inventory) -> str:
        here = node.devices.get(device.device)
        if here is not None and not isinstance(here, MigSpec):
            return f"is {here.uuid} now" if here.uuid != device.uuid else ""
        if device.mig is None or node.unread:
            return ""
        partitions = node.partitions.get(node.address_of(device.mig.parent_uuid))
        if partitions is None:
            return ""
        uuids = {compute.uuid for instance in partitions.instances for compute in instance.compute}
        return "" if device.uuid in uuids else "is gone: somebody destroyed the partition"

    def device_type(self, device: str) -> str:
        match parse_name(device):
            case GpuName():
                return "gpu"
            case MigName():
                return "mig"
            case VfioName():
                return "vfio"
            case None:
                return "unknown"

    def _prepared(self, uid: str, result: Result, device: NodeDevice, facts: Facts) -> PreparedDevice:
        made = self.concrete(device, facts)
        info: Info = PreparedGpu(made.uuid)
        if isinstance(made, MigDevice):
            info = PreparedMig(made.uuid, made.parent.minor, made.parent.uuid, made.gi_id, made.ci_id)
        elif isinstance(made, BoundVfio):
            info = PreparedVfio(made.uuid, made.device.pci_bus_id)
        return PreparedDevice(
            info=info,
            requests=(result.request,),
            pool=result.pool,
            device=result.device,
            cdi_ids=(self.cdi.device_id(uid, result.device),),
            share_id=result.share_id,
            metadata=self._metadata(made),
        )

    def _metadata(self, made: NodeDevice) -> bytes:
        """The attributes of a passthrough device, for programs that start virtual machines; b"" of any other."""
        if not isinstance(made, BoundVfio) or not self.gates.enabled(DEVICE_METADATA):
            return b""
        group = made.device.facts.iommu_group
        more = {"iommuGroup": {"int": int(group)}} if group.isdecimal() else {}
        return metadata.encode(published(made.device, self.gates)["attributes"] | more)

    def _time_slice_applied(self, group: Group, facts: Facts) -> bool | None:
        """Explicit with the gate on, so that v0.4.1 of the Go driver resets only what was set. v0.4.0 does not know the
        key and calls a file that has it corrupt, so that a node without the gate never writes it.
        """
        if not self.gates.enabled(TIME_SLICING_SETTINGS) or _ADOPTED in facts:
            return None  # of an adopted claim its own config tells
        is_set = interval_of(group.config) is not None
        return is_set and any(isinstance(device, Gpu) and not r.admin_access for r, device in group.members)
