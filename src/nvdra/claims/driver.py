"""The seam between the driver-neutral code and one DRA driver.

`claims` and `node` use devices, steps and configs only through these protocols. They pass a driver's view of its node
(an inventory of its devices) through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from nvdra.api.claim import Claim, ClaimRef, OpaqueConfig, Result
from nvdra.cdi import ClaimKind, Edits
from nvdra.checkpoint import Checkpoint, DomainGroup, Entry, PreparedDevice, PreparedGroup, Schema
from nvdra.claims.entries import Allocation

Facts = Mapping[str, Any]
"""Values that steps produced, by names that the driver chooses."""

V = TypeVar("V")
V_contra = TypeVar("V_contra", contravariant=True)


class NodeDevice(Protocol):
    """A device of this node that a result can name."""

    @property
    def name(self) -> str:
        """As published."""
        ...


class Step(Protocol):
    """One hardware change: a frozen value with its parameters.

    An actor applies the step and rolls it back; both are idempotent.
    """

    @property
    def kind(self) -> str:
        """The kind of change, as the journal writes it; it selects the actor."""
        ...

    @property
    def key(self) -> str:
        """An identifier, unique among the steps of this kind in one claim; no spaces."""
        ...

    @property
    def has_rollback(self) -> bool:
        """Whether the step leaves effects that a rollback must remove."""
        ...

    @property
    def resources(self) -> frozenset[str]:
        """Names of the resources that the step changes. Steps that share none run side by side."""
        ...


@dataclass(frozen=True, slots=True)
class Group:
    """Results that share one config, in the allocation's order, each with its device."""

    config: Any
    members: tuple[tuple[Result, NodeDevice], ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A device that is not on this node; `reason` is empty if none is known."""

    device: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The claim cannot be prepared or unprepared now.

    permanent  a retry cannot succeed before the claim itself changes
    rescan     a scan of the hardware may change the answer
    """

    reason: str
    permanent: bool = False
    rescan: bool = False


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that a claim's devices need before a container can use them.

    apply    steps to apply for this claim; applying a step again that another claim has too changes nothing
    shared   steps that are already applied, for other claims that still need them; the last claim rolls them back
    facts    facts of the shared steps
    """

    apply: tuple[Step, ...] = ()
    shared: tuple[Step, ...] = ()
    facts: Facts = field(default_factory=dict)

    @property
    def resources(self) -> frozenset[str]:
        return resources((*self.apply, *self.shared))


@dataclass(frozen=True, slots=True)
class Teardown:
    """The rollback of a prepared or half-prepared claim.

    steps           to be rolled back
    shared          steps that other claims need too: they stay, unless those claims leave before the teardown ends
    notes           for the log: effects that stay
    blocks_others   the entry conflicts with other claims even if it has no step to roll back
    """

    steps: tuple[Step, ...] = ()
    shared: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    blocks_others: bool = False


class ConfigRefused(ValueError):
    """A claim's opaque configs cannot be used; a retry cannot help. The text is the Go driver's."""


class Driver(Protocol[V_contra]):
    """One DRA driver's rules. Every method is pure.

    name           as claims and slices name the driver
    cdi            kind and names of the CDI files of claims
    device_types   values of the metric's device type label, in order; the last one is for unknown devices
    """

    @property
    def name(self) -> str: ...
    @property
    def cdi(self) -> ClaimKind: ...
    @property
    def device_types(self) -> tuple[str, ...]: ...
    @property
    def schema(self) -> Schema:
        """The kinds of entries that the driver's checkpoint file may contain."""
        ...

    @property
    def has_steps(self) -> bool:
        """Whether any claim can need a step; if not, no claim is ever half prepared."""
        ...

    @property
    def on_abandoned(self) -> Literal["forget", "abort"]:
        """Whether unpreparing a half-prepared claim removes its entry or leaves one that refuses late prepares.

        "abort" needs a schema that can hold such an entry.
        """
        ...

    @property
    def resumes(self) -> bool:
        """Whether a half-prepared claim is prepared on from where it stands; if not, it is rolled back first.

        Its entry then stays until kubelet prepares it or gives it up, or the claim is gone.
        """
        ...

    def resolve(self, result: Result, node: V_contra) -> NodeDevice | Missing:
        """The device behind an allocation result."""
        ...

    def forbids(self, result: Result, node: V_contra) -> str:
        """Why the result can never be prepared as it is allocated; "" if it can."""
        ...

    def group(self, members: Sequence[tuple[Result, NodeDevice]], configs: Sequence[OpaqueConfig]) -> tuple[Group, ...]:
        """The results by the config that applies to them. Raises ConfigRefused."""
        ...

    def conflict(self, result: Result, other: Entry, node: V_contra) -> bool:
        """Whether another claim's completed entry conflicts with the result's device."""
        ...

    def share_refused(self, claim: Claim, result: Result, uid: str, other: Entry) -> str | None:
        """Why the claim cannot share a device with another completed claim that was allocated it too: a text, or "" if
        it can. None: devices of this kind are not shared.
        """
        ...

    def overlaps(self, result: Result, other: Entry, node: V_contra) -> bool:
        """Whether another, half-prepared claim may have changed the hardware of the result's device."""
        ...

    def same_extent(self, device: str, other: str, node: V_contra) -> bool:
        """Whether the extents of two devices, given by name, overlap, so that they cannot both be in use."""
        ...

    def steps(self, claim: ClaimRef, groups: Sequence[Group], node: V_contra, checkpoint: Checkpoint) -> Steps | Refuse:
        """The steps that the claim needs; empty for devices that are ready."""
        ...

    def teardown(self, claim: ClaimRef, entry: Entry, node: V_contra, checkpoint: Checkpoint) -> Teardown | Refuse:
        """The rollback of everything that the entry's claim changed, except what other entries still need."""
        ...

    def needs(self, step: Step, entry: Entry) -> bool:
        """Whether an entry, in any state but PrepareAborted, still needs the step's effect."""
        ...

    def prepared(self, claim: ClaimRef, group: Group, facts: Facts) -> PreparedGroup | DomainGroup:
        """The group's part of the completed entry."""
        ...

    def concrete(self, device: NodeDevice, facts: Facts) -> NodeDevice:
        """The device that a container gets, after the steps: for example, the one that a step created."""
        ...

    def edits(self, group: Group, result: Result, facts: Facts) -> Edits:
        """Container edits that the group's config and facts add to the device of one of its results."""
        ...

    def has_common_edits(self, group: Group) -> bool:
        """Whether containers with the group's devices get the driver's common edits."""
        ...

    def restore(
        self, claim: ClaimRef, given: Allocation, entry: Entry | None, node: V_contra
    ) -> tuple[tuple[Group, ...], Facts] | Missing:
        """Groups and facts of a claim that was prepared earlier, to write its CDI file or its entry again.

        given  the claim's results and configs; a config that this release cannot read is ignored, not refused
        entry  the completed entry; None if it was lost: facts then come from the devices on the node
        """
        ...

    def changed(self, device: PreparedDevice, node: V_contra) -> str:
        """How a prepared device changed since, so that it cannot be used; "" if it did not."""
        ...

    def device_type(self, device: str) -> str:
        """The element of `device_types` for a device, given by name."""
        ...


def resources(steps: Sequence[Step]) -> frozenset[str]:
    """The resources of all these steps."""
    return frozenset().union(*(step.resources for step in steps))
