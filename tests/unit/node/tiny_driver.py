"""A second driver, as small as the seam allows: lamps that are switched on for a claim and off after it.

One device kind, one step with a fact (the lamp's colour), one rollback, one kind of config. Nothing of it is known to
`claims` or `node`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from nvdra import cdi
from nvdra.api import Claim, ClaimRef
from nvdra.api.claim import OpaqueConfig, Result
from nvdra.checkpoint import (
    DOMAIN,
    GPU,
    Checkpoint,
    DomainGroup,
    Entry,
    PreparedChannel,
    PreparedDevice,
    PreparedGpu,
    PreparedGroup,
    Schema,
)
from nvdra.claims import (
    Allocation,
    ConfigRefused,
    Facts,
    Group,
    Missing,
    NodeDevice,
    Refuse,
    Step,
    Steps,
    Teardown,
    answers,
    names,
)
from nvdra.node.edits import EditsMissing
from nvdra.node.steps import StepFailed, StepJournal

NAME = "lamps.example.com"
KIND = cdi.ClaimKind("k8s.lamps.example.com")


@dataclass(frozen=True)
class Lamp:
    name: str


@dataclass(frozen=True)
class LampConfig:
    """What users may say of lamps: {"brightness": 3, "common": false, "cdi": false}.

    common   whether containers get what all lamps have in common
    cdi      whether containers get anything at all
    """

    brightness: int = 1
    common: bool = True
    cdi: bool = True


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

    broken   lamps that cannot be switched
    stuck    lamps that cannot be switched off
    held     a lamp is switched on only once this is set
    """

    lamps: dict[str, bool] = field(default_factory=lambda: {"lamp-0": False, "lamp-1": False})
    tint: str = "colour"
    switched: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)
    held: asyncio.Event | None = None

    def seen(self) -> Mapping[str, str]:
        """Lamps with their colours; "" for one that is off."""
        return {lamp: f"{self.tint}-of-{lamp}" if is_on else "" for lamp, is_on in self.lamps.items()}

    async def switch(self, lamp: str, on: bool) -> None:
        if lamp in self.broken or (lamp in self.stuck and not on):
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
        return {step.lamp: self._room.seen()[step.lamp]}

    async def roll_back(self, step: SwitchOn, journal: StepJournal) -> None:
        if journal.is_touched and self._room.lamps[step.lamp]:
            await self._room.switch(step.lamp, False)


@dataclass(frozen=True)
class LampDriver:
    """Its view of the node: `Room.seen`. With `is_dark`, no config but the built-in one is taken any more."""

    name: str = NAME
    cdi: cdi.ClaimKind = KIND
    schema: Schema = GPU
    has_steps: bool = True
    device_types: tuple[str, ...] = ("lamp", "unknown")
    is_dark: bool = False
    on_abandoned: Literal["forget", "abort"] = "forget"
    resumes: bool = False

    def resolve(self, result: Result, node: Mapping[str, str]) -> NodeDevice | Missing:
        return Lamp(result.device) if result.device in node else Missing(result.device, "no such lamp")

    def forbids(self, result: Result, node: Mapping[str, str]) -> str:
        return ""

    def group(self, members: Sequence[tuple[Result, NodeDevice]], configs: Sequence[OpaqueConfig]) -> tuple[Group, ...]:
        if self.is_dark and configs:
            raise ConfigRefused("lamps take no config")
        return _grouped(members, configs)

    def conflict(self, result: Result, other: Entry, node: Mapping[str, str]) -> bool:
        return False  # names say all

    def share_refused(self, claim: Claim, result: Result, uid: str, other: Entry) -> str | None:
        return None  # a lamp is one claim's

    def overlaps(self, result: Result, other: Entry, node: Mapping[str, str]) -> bool:
        return False

    def same_extent(self, device: str, other: str, node: Mapping[str, str]) -> bool:
        return False

    def steps(
        self, claim: ClaimRef, groups: Sequence[Group], node: Mapping[str, str], checkpoint: Checkpoint
    ) -> Steps | Refuse:
        return Steps(tuple(SwitchOn(device.name) for group in groups for _, device in group.members))

    def teardown(
        self, claim: ClaimRef, entry: Entry, node: Mapping[str, str], checkpoint: Checkpoint
    ) -> Teardown | Refuse:
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
                    (KIND.device_id(claim.uid, device.name),) if group.config.cdi else (),
                )
                for result, device in group.members
            )
        )

    def concrete(self, device: NodeDevice, facts: Facts) -> NodeDevice:
        return device

    def edits(self, group: Group, result: Result, facts: Facts) -> cdi.Edits:
        colours = tuple(f"COLOUR={facts[device.name]}" for _, device in group.members)
        return cdi.Edits(env=(*colours, f"BRIGHTNESS={group.config.brightness}"))

    def has_common_edits(self, group: Group) -> bool:
        common: bool = group.config.common
        return common

    def restore(
        self, claim: ClaimRef, given: Allocation, entry: Entry | None, node: Mapping[str, str]
    ) -> tuple[tuple[Group, ...], Facts] | Missing:
        colours = dict(node) if entry is None else {device.device: device.uuid for device in answers(entry)}
        for result in given.results:
            if not colours.get(result.device):
                return Missing(result.device, "it is off")
        return _grouped([(result, Lamp(result.device)) for result in given.results], given.configs), colours

    def changed(self, device: PreparedDevice, node: Mapping[str, str]) -> str:
        return ""

    def device_type(self, device: str) -> str:
        return "lamp"


@dataclass(frozen=True)
class AbortingLampDriver(LampDriver):
    """The same with a checkpoint that can hold aborted claims, and whose kinds of device keep no fact."""

    schema: Schema = DOMAIN
    on_abandoned: Literal["forget", "abort"] = "abort"

    def prepared(self, claim: ClaimRef, group: Group, facts: Facts) -> DomainGroup:  # type: ignore[override]
        devices = super().prepared(claim, group, facts).devices
        return DomainGroup(tuple(replace(device, info=PreparedChannel(0)) for device in devices), "channel", "d1")


def _grouped(members: Sequence[tuple[Result, NodeDevice]], configs: Sequence[OpaqueConfig]) -> tuple[Group, ...]:
    """The last config that names a lamp's request applies to it."""
    together: dict[LampConfig, list[tuple[Result, NodeDevice]]] = {}
    for member in members:
        own = [config for config in configs if member[0].request in config.requests]
        config = LampConfig(**json.loads(own[-1].parameters)) if own else LampConfig()
        together.setdefault(config, []).append(member)
    return tuple(Group(config, tuple(shared)) for config, shared in together.items())


class LampEdits:
    """Every lamp has a node in the container; nothing but `common` is ever missing."""

    def __init__(self) -> None:
        self.has_common = True
        self.bare = cdi.Common(cdi.Edits())

    @property
    def common(self) -> cdi.Common:
        assert self.has_common
        return cdi.Common(cdi.Edits(env=("LAMPS=1",)))

    def is_available(self, devices: Iterable[Lamp], *, common: bool = True) -> bool:
        return self.has_common or not common

    async def refresh(self, devices: Iterable[Lamp], *, common: bool = True) -> None:
        if not self.is_available(devices, common=common):
            raise EditsMissing("what lamps have in common is missing")

    def gone(self, document: cdi.Document) -> list[str]:
        return []

    def edits(self, device: Lamp) -> cdi.Edits:
        return cdi.Edits(device_nodes=(cdi.DeviceNode(f"/dev/{device.name}"),))


def published(room: Room) -> list[Mapping[str, object]]:
    return [{"name": name, "attributes": {}, "capacity": {}} for name in room.lamps]
