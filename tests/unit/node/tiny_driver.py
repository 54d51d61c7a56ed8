"""A second driver, as small as the seam allows: lamps that are switched on for a claim and off after it.

One device kind, one step with a fact (the lamp's colour), one rollback. Nothing of it is known to `claims` or `node`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.api.claim import OpaqueConfig, Result
from nvdra.checkpoint import GPU, Checkpoint, Entry, PreparedDevice, PreparedGpu, PreparedGroup, Schema
from nvdra.claims import Facts, Group, Missing, NodeDevice, Refuse, Step, Steps, Teardown, answers, names
from nvdra.node.steps import StepFailed, StepJournal

NAME = "lamps.example.com"
KIND = cdi.ClaimKind("k8s.lamps.example.com")


@dataclass(frozen=True)
class Lamp:
    name: str


@dataclass(frozen=True)
class SwitchOn:
    kind: ClassVar[str] = "switch-on"
    has_rollback: ClassVar[bool] = True
    lamp: str

    @property
    def key(self) -> str:
        return self.lamp

    @property
    def resources(self) -> frozenset[str]:
        return frozenset((self.lamp,))


@dataclass
class Room:
    """The hardware: lamps by name, on or off; and what goes wrong with it.

    held   a lamp is switched on only once this is set
    """

    lamps: dict[str, bool] = field(default_factory=lambda: {"lamp-0": False, "lamp-1": False})
    switched: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    held: asyncio.Event | None = None

    async def switch(self, lamp: str, on: bool) -> None:
        if lamp in self.broken:
            raise StepFailed(f"{lamp} cannot be switched")
        if on and self.held is not None:
            await self.held.wait()
        self.switched.append(f"{lamp} {'on' if on else 'off'}")
        self.lamps[lamp] = on


class LampActor:
    def __init__(self, room: Room) -> None:
        self._room = room

    async def apply(self, step: SwitchOn, journal: StepJournal) -> Facts:
        journal.touch({"on": self._room.lamps[step.lamp]})
        if self._room.held is not None:
            journal.waits(f"{step.lamp} is slow")
        await self._room.switch(step.lamp, True)
        return {step.lamp: f"colour-of-{step.lamp}"}

    async def roll_back(self, step: SwitchOn, journal: StepJournal) -> None:
        if journal.is_touched and self._room.lamps[step.lamp]:
            await self._room.switch(step.lamp, False)


@dataclass(frozen=True)
class LampDriver:
    """Its view of the node: the names of the lamps."""

    name: str = NAME
    cdi: cdi.ClaimKind = KIND
    schema: Schema = GPU
    has_steps: bool = True

    def resolve(self, result: Result, node: Sequence[str]) -> NodeDevice | Missing:
        return Lamp(result.device) if result.device in node else Missing(result.device, "no such lamp")

    def forbids(self, result: Result, node: Sequence[str]) -> str:
        return ""

    def group(self, members: Sequence[tuple[Result, NodeDevice]], configs: Sequence[OpaqueConfig]) -> tuple[Group, ...]:
        return (Group(None, tuple(members)),)

    def conflict(self, result: Result, other: Entry, node: Sequence[str]) -> bool:
        return False  # names say all

    def overlaps(self, result: Result, other: Entry, node: Sequence[str]) -> bool:
        return False

    def same_extent(self, device: str, other: str, node: Sequence[str]) -> bool:
        return False

    def steps(
        self, claim: ClaimRef, groups: Sequence[Group], node: Sequence[str], checkpoint: Checkpoint
    ) -> Steps | Refuse:
        return Steps(tuple(SwitchOn(device.name) for group in groups for _, device in group.members))

    def teardown(self, claim: ClaimRef, entry: Entry, node: Sequence[str], checkpoint: Checkpoint) -> Teardown | Refuse:
        return Teardown(tuple(SwitchOn(name) for name in sorted(names(entry, NAME))), blocks_others=True)

    def needs(self, step: Step, entry: Entry) -> bool:
        return step.key in names(entry, NAME)

    def prepared(self, claim: ClaimRef, group: Group, facts: Facts) -> PreparedGroup:
        return PreparedGroup(
            tuple(
                PreparedDevice(
                    PreparedGpu(facts[device.name]),
                    (result.request,),
                    result.pool,
                    device.name,
                    (KIND.device_id(claim.uid, device.name),),
                )
                for result, device in group.members
            )
        )

    def concrete(self, device: NodeDevice, facts: Facts) -> NodeDevice:
        return device

    def edits(self, group: Group, facts: Facts) -> cdi.Edits:
        return cdi.Edits(env=tuple(f"COLOUR={facts[device.name]}" for _, device in group.members))

    def restore(self, entry: Entry, node: Sequence[str]) -> tuple[tuple[Group, ...], Facts] | Missing:
        known = answers(entry)
        members = tuple((Result(d.requests[0], NAME, d.pool, d.device), Lamp(d.device)) for d in known)
        return (Group(None, members),), {device.device: device.uuid for device in known}

    def changed(self, device: PreparedDevice, node: Sequence[str]) -> str:
        return ""

    def adopt(self, results: Sequence[Result], node: Sequence[str]) -> tuple[tuple[Group, ...], Facts] | Missing:
        members = tuple((result, Lamp(result.device)) for result in results)
        return (Group(None, members),), {result.device: f"colour-of-{result.device}" for result in results}

    def device_type(self, device: str) -> str:
        return "lamp"


class LampEdits:
    """Every lamp has a node in the container; nothing is ever missing."""

    common = cdi.Common(cdi.Edits(env=("LAMPS=1",)))

    def is_available(self, devices: Iterable[Lamp]) -> bool:
        return True

    async def refresh(self, devices: Iterable[Lamp]) -> None:
        return

    def gone(self, document: cdi.Document) -> list[str]:
        return []

    def edits(self, device: Lamp) -> cdi.Edits:
        return cdi.Edits(device_nodes=(cdi.DeviceNode(f"/dev/{device.name}"),))


def published(room: Room) -> list[Mapping[str, object]]:
    return [{"name": name, "attributes": {}, "capacity": {}} for name in room.lamps]
