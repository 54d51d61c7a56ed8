"""The seam: what the neutral frame of prepare and unprepare knows of a driver.

`claims` and `node` know devices, steps and configs only through these protocols. A driver's view of its node (an
inventory of its devices) is passed through untouched.
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
"""What steps found out, by names of the driver's choice."""

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

    An actor applies it and rolls it back. Applying it twice and rolling it back twice are harmless.
    """

    @property
    def kind(self) -> str:
        """The journal's word for this kind of change; it names the actor too."""
        ...

    @property
    def key(self) -> str:
        """What distinguishes the step from others of its kind in one claim; no spaces."""
        ...

    @property
    def has_rollback(self) -> bool:
        """Whether the step leaves effects that a rollback takes away."""
        ...

    @property
    def resources(self) -> frozenset[str]:
        """Names of what the step changes. Steps that share none run side by side."""
        ...


@dataclass(frozen=True, slots=True)
class Group:
    """Results that share one config, in the allocation's order, each with its device."""

    config: Any
    members: tuple[tuple[Result, NodeDevice], ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A device that is not on this node; `reason` is empty where nothing is known of it."""

    device: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not this time.

    permanent  kubelet's retry changes nothing before the claim itself changes
    rescan     a look at the hardware may change the answer
    """

    reason: str
    permanent: bool = False
    rescan: bool = False


@dataclass(frozen=True, slots=True)
class Steps:
    """What a claim's devices need before a container can use them.

    apply    to be applied for this claim; applying again what another claim has too changes nothing
    shared   applied already, for other claims that still need them: rolled back only with the last of these claims
    facts    of the shared ones
    """

    apply: tuple[Step, ...] = ()
    shared: tuple[Step, ...] = ()
    facts: Facts = field(default_factory=dict)

    @property
    def resources(self) -> frozenset[str]:
        return resources((*self.apply, *self.shared))


@dataclass(frozen=True, slots=True)
class Teardown:
    """What gives everything of an entry back.

    steps    to be rolled back
    shared   other claims need these too: they stay, unless the others leave before the teardown ends
    notes    for the log: what stays as it is
    holds    the entry keeps others away from hardware even where no step gives it back
    """

    steps: tuple[Step, ...] = ()
    shared: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    blocks_others: bool = False


class ConfigRefused(ValueError):
    """A claim's opaque configs cannot be used: a retry changes nothing. The text is the Go driver's."""


class Driver(Protocol[V_contra]):
    """One DRA driver's rules. Every method is pure.

    name           as claims and slices name the driver
    cdi            kind and names of the CDI files of claims
    device_types   the metric's words for kinds of device, in their order there; the last one is for unknown devices
    """

    @property
    def name(self) -> str: ...
    @property
    def cdi(self) -> ClaimKind: ...
    @property
    def device_types(self) -> tuple[str, ...]: ...
    @property
    def schema(self) -> Schema:
        """What its checkpoint file may hold."""
        ...

    @property
    def has_steps(self) -> bool:
        """Whether any claim can need a step; without, no claim is ever half prepared."""
        ...

    @property
    def on_abandoned(self) -> Literal["forget", "abort"]:
        """What an unprepare of a half-prepared claim leaves: nothing, or an aborted entry, which refuses late prepares.

        "abort" needs a schema that can hold such an entry.
        """
        ...

    def resolve(self, result: Result, node: V_contra) -> NodeDevice | Missing:
        """The device behind an allocation result."""
        ...

    def forbids(self, result: Result, node: V_contra) -> str:
        """Why the result can never be prepared as it is allocated; "" if it can. A retry changes nothing."""
        ...

    def group(self, members: Sequence[tuple[Result, NodeDevice]], configs: Sequence[OpaqueConfig]) -> tuple[Group, ...]:
        """The results by the config that applies to them. Raises ConfigRefused."""
        ...

    def conflict(self, result: Result, other: Entry, node: V_contra) -> bool:
        """Whether another claim's completed entry keeps the result's device away."""
        ...

    def share_refused(self, claim: Claim, result: Result, uid: str, other: Entry) -> str | None:
        """Why the claim cannot share a device with another completed claim that was allocated it too: a text, or "" if
        it can. None: devices of this kind are not shared.
        """
        ...

    def overlaps(self, result: Result, other: Entry, node: V_contra) -> bool:
        """Whether another claim that is half prepared may have changed what the result's device lies on."""
        ...

    def same_extent(self, device: str, other: str, node: V_contra) -> bool:
        """Whether two devices, by name, cannot both be in use."""
        ...

    def steps(self, claim: ClaimRef, groups: Sequence[Group], node: V_contra, checkpoint: Checkpoint) -> Steps | Refuse:
        """What must be done before the claim is usable; empty for devices that are ready as they are."""
        ...

    def teardown(self, claim: ClaimRef, entry: Entry, node: V_contra, checkpoint: Checkpoint) -> Teardown | Refuse:
        """What gives back everything the entry holds, reference-counted over other entries."""
        ...

    def needs(self, step: Step, entry: Entry) -> bool:
        """Whether an entry still needs what the step did; of any state but PrepareAborted."""
        ...

    def prepared(self, claim: ClaimRef, group: Group, facts: Facts) -> PreparedGroup | DomainGroup:
        """The group's part of the completed entry."""
        ...

    def concrete(self, device: NodeDevice, facts: Facts) -> NodeDevice:
        """The device a container is given, now that its steps are done."""
        ...

    def edits(self, group: Group, result: Result, facts: Facts) -> Edits:
        """Container edits that the group's config and facts add to the device of one of its results."""
        ...

    def has_common_edits(self, group: Group) -> bool:
        """Whether containers with the group's devices get the edits that the driver's devices have in common."""
        ...

    def restore(
        self, claim: ClaimRef, given: Allocation, entry: Entry | None, node: V_contra
    ) -> tuple[tuple[Group, ...], Facts] | Missing:
        """Groups and facts of a claim that was prepared before, for writing its CDI file or its entry again.

        given  its results and configs. No config is refused: one that this release cannot read does not apply.
        entry  completed; None where it was lost: facts then come from what stands on the node
        """
        ...

    def changed(self, device: PreparedDevice, node: V_contra) -> str:
        """What became of a prepared device since; "" if nothing is known against it."""
        ...

    def device_type(self, device: str) -> str:
        """The one of `device_types` that a device, by name, is of."""
        ...


def resources(steps: Sequence[Step]) -> frozenset[str]:
    """Everything these steps change."""
    return frozenset().union(*(step.resources for step in steps))
