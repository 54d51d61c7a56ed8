"""What can come of a claim: the values that `plan` and `unprepare` answer with, matched exhaustively by who acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nvdra.api.claim import Claim, ClaimRef, Result
from nvdra.api.configs import Config
from nvdra.checkpoint import Entry, PreparedDevice
from nvdra.gpu import Device, Gpu, MigDevice, MigSpec

Concrete = Gpu | MigDevice  # what a container can be given

D = TypeVar("D", bound=Device, covariant=True)


@dataclass(frozen=True, slots=True)
class Group(Generic[D]):
    """Results that share one config, in the allocation's order, each with its device."""

    config: Config
    members: tuple[tuple[Result, D], ...]


@dataclass(frozen=True, slots=True)
class CreateMig:
    """Make the partition, MIG mode turned on for it if it is off."""

    spec: MigSpec

    @property
    def gpu(self) -> Gpu:
        return self.spec.parent


@dataclass(frozen=True, slots=True)
class LeaveMig:
    """Turn MIG mode off: the GPU is wanted whole, and nothing is on it."""

    gpu: Gpu


Step = CreateMig | LeaveMig


@dataclass(frozen=True, slots=True)
class DestroyMig:
    """Take the partition at this place away, whole or half made.

    uuid   of the MIG device that was made there; "" if that was never recorded
    """

    gpu: Gpu
    device: str
    profile_id: int
    start: int
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a prepared claim leaves behind.

    entry        for the record
    cdi_devices  what its CDI file holds: CDI device name to the device behind it, sorted by name
    answers      for kubelet, one per result of this driver
    """

    entry: Entry
    cdi_devices: Mapping[str, Concrete]
    answers: tuple[PreparedDevice, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Asked before, same allocation, file in place: answer again."""

    answers: tuple[PreparedDevice, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """The same, but its CDI file is lost: write it again, then answer. The record stays as it is."""

    sealed: Sealed


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not this time.

    permanent  asking again changes nothing before the claim itself changes
    rescan     a look at the hardware may change it: a device is named that this node does not know
    """

    reason: str
    permanent: bool = False
    rescan: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """No step changes anything: `seal` it at once."""

    claim: Claim
    groups: tuple[Group[Concrete], ...]


@dataclass(frozen=True, slots=True)
class Needs:
    """Steps change the hardware first, by who holds the locks of their GPUs; what they make completes the groups.

    shared   those of its partitions that other claims have made already, by device name
    """

    claim: Claim
    groups: tuple[Group[Device], ...]
    steps: tuple[Step, ...]
    shared: Mapping[str, MigDevice] = field(default_factory=dict)

    @property
    def gpus(self) -> frozenset[str]:
        """UUIDs of the GPUs whose locks it takes."""
        return frozenset(step.gpu.uuid for step in self.steps) | {each.parent.uuid for each in self.shared.values()}

    @property
    def started(self) -> Entry:
        """What the record says of the claim while its steps are under way."""
        ref = self.claim.ref
        return Entry("PrepareStarted", self.claim.status, (), ref.name, ref.namespace)


@dataclass(frozen=True, slots=True)
class UndoFirst:
    """An entry that nobody works on stands in the way: undo it, then decide again."""

    claim: ClaimRef
    entry: Entry


@dataclass(frozen=True, slots=True)
class Await:
    """A claim in work stands in the way: decide again when it is done."""

    uid: str


Plan = Done | Repair | Refuse | Ready | Needs | UndoFirst | Await


@dataclass(frozen=True, slots=True)
class NotPrepared:
    """Nothing in the record: unprepare is done."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The entry leaves the record, then its file goes. No hardware is touched.

    notes  for the log: what stays as it is
    """

    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Undo:
    """Steps give hardware back first, by whoever holds the locks of their GPUs.

    started   what the record says meanwhile: begun again, its devices kept, so that a death leaves no completed claim
              whose partition is half gone
    shared    what would take away the claim's partitions that another one has too: they stay, unless that one leaves
              before the undoing is over
    """

    steps: tuple[DestroyMig, ...]
    started: Entry
    shared: tuple[DestroyMig, ...] = ()
    notes: tuple[str, ...] = ()


Release = NotPrepared | Leave | Undo | Refuse
