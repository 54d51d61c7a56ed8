"""Outcomes of `plan` and `unprepare`, matched exhaustively by the node's flows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nvdra.api.claim import Claim, ClaimRef
from nvdra.cdi import Edits
from nvdra.checkpoint import Entry, PreparedDevice
from nvdra.claims.driver import Facts, Group, NodeDevice, Refuse, Steps, Teardown


@dataclass(frozen=True, slots=True)
class SealedDevice:
    """A device of a claim's CDI file.

    added        edits that the device's group adds
    has_common   containers get the driver's common edits, too
    """

    device: NodeDevice
    added: Edits = field(default_factory=Edits)
    has_common: bool = True


@dataclass(frozen=True, slots=True)
class Sealed:
    """The results of preparing a claim.

    entry        for the checkpoint
    cdi_devices  the devices of its CDI file, by CDI device name, sorted; empty: the claim needs no file
    answers      for kubelet, one per result of this driver
    """

    entry: Entry
    cdi_devices: Mapping[str, SealedDevice]
    answers: tuple[PreparedDevice, ...]

    @property
    def devices(self) -> tuple[NodeDevice, ...]:
        """The devices of the CDI file."""
        return tuple(each.device for each in self.cdi_devices.values())

    @property
    def has_common(self) -> bool:
        """Whether the CDI file has the driver's common edits."""
        return any(each.has_common for each in self.cdi_devices.values())


@dataclass(frozen=True, slots=True)
class AlreadyPrepared:
    """The claim was prepared with this allocation and its CDI file is in place."""

    answers: tuple[PreparedDevice, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """The claim was prepared and its CDI file is lost: write the file again, then answer. The entry stays as it is."""

    sealed: Sealed


@dataclass(frozen=True, slots=True)
class Ready:
    """No step is needed: `seal` the claim at once."""

    claim: Claim
    groups: tuple[Group, ...]
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NeedsSteps:
    """Steps change the hardware first; their facts complete the groups."""

    claim: Claim
    groups: tuple[Group, ...]
    steps: Steps

    @property
    def started(self) -> Entry:
        """The claim's entry while its steps are under way."""
        ref = self.claim.ref
        return Entry("PrepareStarted", self.claim.status, (), ref.name, ref.namespace)

    def completed(self, facts: Facts) -> Ready:
        """The claim once its own steps are applied; `facts` are theirs."""
        return Ready(self.claim, self.groups, {**self.steps.facts, **facts})


@dataclass(frozen=True, slots=True)
class RollBackFirst:
    """A half-prepared entry that nothing works on conflicts: roll it back, then decide again."""

    claim: ClaimRef
    entry: Entry


@dataclass(frozen=True, slots=True)
class WaitForClaim:
    """A claim that is being worked on conflicts: decide again when that work ends."""

    uid: str


Plan = AlreadyPrepared | Repair | Refuse | Ready | NeedsSteps | RollBackFirst | WaitForClaim


@dataclass(frozen=True, slots=True)
class NotPrepared:
    """The checkpoint has no entry, or an aborted one: unprepare is done."""

    is_aborted: bool = False


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove the entry from the checkpoint, then the CDI file. No hardware changes.

    notes           for the log: effects that stay
    blocks_others   the entry conflicts with other claims as long as it exists
    remains         an entry in state `PrepareAborted` that replaces it; None: no entry
    """

    notes: tuple[str, ...] = ()
    blocks_others: bool = False
    remains: Entry | None = None


@dataclass(frozen=True, slots=True)
class TearDownFirst:
    """Steps are rolled back before the entry leaves the checkpoint.

    started   the entry meanwhile: `PrepareStarted` with its devices kept, so that a crash leaves no completed claim
              whose devices are half gone
    """

    teardown: Teardown
    started: Entry


Release = NotPrepared | Forget | TearDownFirst | Refuse
