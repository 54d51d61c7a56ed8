"""The coexistence guard: keeps claims off GPUs that a device plugin has given to pods.

Best effort: kubelet tells what was given out only after it was, and has no watch for it. So a device plugin can still
give out a GPU that a claim got a moment before. Such a GPU is reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from nvdra import telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint
from nvdra.claims import answers
from nvdra.gpu import Inventory
from nvdra.gpu.coexistence import Assignment, given_out, refusal
from nvdra.kubelet.pod_resources import ContainerDevice, PodResourcesError
from nvdra.node.hooks import Report
from nvdra.ports import Clock

ASK_EVERY_S = 5.0
ASK_TIMEOUT_S = 4.0
# A prepare waits for kubelet's answer this long, and only if the last one came.
PREPARE_WAITS_S = 0.5
# kubelet restarts within this time; longer than that, an old answer keeps no GPU from claims.
FORGET_AFTER_S = 60.0


class Source(Protocol):
    """Devices that device plugins gave out, as kubelet tells of them."""

    async def devices(self, *, timeout_s: float) -> tuple[ContainerDevice, ...]:
        """Raises PodResourcesError."""
        ...


class CoexistenceGuard:
    """What device plugins have given out, and what claims are refused for it.

    changed    called when the devices that are given out change, with an assignment of each; only if it enforces
    report     told of each claim whose device was given out too
    enforces   such devices are refused to claims; else they are only logged
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        inventory: Callable[[], Inventory],
        changed: Callable[[Mapping[str, Assignment]], None],
        report: Callable[[Report], None],
        *,
        enforces: bool,
    ) -> None:
        self._enforces = enforces
        self._source = source
        self._clock = clock
        self._inventory = inventory
        self._changed = changed
        self._report = report
        self._assignments: tuple[Assignment, ...] = ()
        self._given: Mapping[str, Assignment] = {}
        self._seen: Inventory | None = None
        self._view: Inventory | None = None
        self._checkpoint: Checkpoint | None = None
        self._reported: frozenset[tuple[str, str, Assignment]] = frozenset()
        self._asking: asyncio.Task[None] | None = None
        self._silence = ""
        self._answered_at = 0.0

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self._ask()
            await self._clock.sleep(ASK_EVERY_S)

    async def refresh(self) -> None:
        """Ask before a prepare. Returns soon whatever kubelet does; at once if its last answer did not come."""
        if self._silence:
            return
        try:
            async with self._clock.deadline(PREPARE_WAITS_S):
                await asyncio.shield(self._begin())
        except TimeoutError:
            self._be_silent(f"no answer within {PREPARE_WAITS_S:g} s")  # no further prepare waits for it

    def view(self, inventory: Inventory) -> Inventory:
        """The inventory as claims see it: devices that are given out are refused if the guard enforces."""
        self._renew(inventory)
        if not self._enforces or not self._given:
            return inventory
        if self._view is None:
            refused = {name: refusal(name, assignment) for name, assignment in self._given.items()}
            self._view = replace(inventory, refused=refused)
        return self._view

    def checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        """Other claims may have devices that are given out."""
        self._checkpoint = checkpoint
        self._find_double_use()

    async def _ask(self) -> None:
        await asyncio.wait((self._begin(),))

    def _begin(self) -> asyncio.Task[None]:
        """The question that is under way, or a new one."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._answer(), name="pod resources")
        return self._asking

    async def _answer(self) -> None:
        try:
            async with self._clock.deadline(ASK_TIMEOUT_S):
                found = await self._source.devices(timeout_s=ASK_TIMEOUT_S)
        except (PodResourcesError, TimeoutError) as error:
            self._be_silent(str(error) or f"no answer within {ASK_TIMEOUT_S:g} s")
            return
        except Exception as error:  # an odd answer ends neither this task nor the program
            self._be_silent(f"internal error: {type(error).__name__}: {error}")
            return
        if self._silence:
            telemetry.info(0, "kubelet tells again what device plugins gave out")
        self._silence, self._answered_at = "", self._clock.now()
        self._take(tuple(Assignment(d.namespace, d.pod, d.container, d.resource, d.device_id) for d in found))

    def _be_silent(self, cause: str) -> None:
        if not self._silence:
            telemetry.warning(
                "kubelet does not tell what device plugins gave out; claims are prepared without regard to it",
                cause=cause,
            )
        self._silence = cause
        if self._clock.now() - self._answered_at >= FORGET_AFTER_S:
            self._take(())

    def _take(self, assignments: tuple[Assignment, ...]) -> None:
        if assignments != self._assignments:
            self._assignments, self._seen = assignments, None
            self._renew(self._inventory())

    def _renew(self, inventory: Inventory) -> None:
        """Find the devices that are given out, if the inventory or the assignments are other ones."""
        if inventory is self._seen:
            return
        self._seen, self._view = inventory, None
        before, self._given = self._given, given_out(self._assignments, inventory)
        for name in sorted(self._given.keys() - before.keys()):
            telemetry.warning("A device plugin gave a device to a pod", device=name, holder=str(self._given[name]))
        for name in sorted(before.keys() - self._given.keys()):
            telemetry.info(0, "A device is no longer given out by a device plugin", device=name)
        if self._given != before:
            self._find_double_use()
            if self._enforces:
                self._changed(self._given)

    def _find_double_use(self) -> None:
        if not self._given or self._checkpoint is None:
            self._reported = frozenset()
            return
        found = {}
        for uid, entry in self._checkpoint.entries.items():
            for device in answers(entry) if entry.state == "PrepareCompleted" else ():
                if (holder := self._given.get(device.device)) is not None:
                    found[uid, device.device, holder] = ClaimRef(entry.namespace, entry.name, uid)
        for key, claim in found.items():
            _, name, holder = key
            if key not in self._reported:
                telemetry.warning("A device is in use twice", claim=str(claim), device=name, holder=str(holder))
                text = f"device {name} of this claim is also in use by {holder}, which has it from a device plugin"
                self._report(Report(claim, "DeviceInUseTwice", text))
        self._reported = frozenset(found)
