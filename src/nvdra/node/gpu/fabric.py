"""Fabric Manager as the node's parts use it: calls one at a time with a deadline, and the partitions as last seen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import orjson

from nvdra import telemetry
from nvdra.gpu import Inventory
from nvdra.gpu.fabric_topology import FabricPartition, FabricTopology, OddTopology, checked
from nvdra.host.fabric_manager import TIMEOUT, FabricError, ListedPartition
from nvdra.ports import Clock, Host

TIMEOUT_S = 10.0
LOOK_S = 5.0

MODULES = "gpu-module-ids.json"

T = TypeVar("T")

_UNSEEN = "it has not answered yet"


class Manager(Protocol):
    """`host.FabricManager` and its fake. Calls block and raise FabricError."""

    def partitions(self) -> tuple[ListedPartition, ...]: ...
    def activate(self, partition: int) -> None: ...
    def deactivate(self, partition: int) -> None: ...
    def close(self) -> None: ...


class FabricHung(FabricError):
    """Fabric Manager did not answer in time; `call` ends when the library returns."""

    def __init__(self, text: str, call: asyncio.Future[Any]) -> None:
        super().__init__("", TIMEOUT, text)
        self.call = call


class Fabric:
    """One node's Fabric Manager.

    modules_path  keeps the module ids of GPUs: NVML tells none of a GPU that a virtual machine has
    has_fabric    whether the node has NVSwitches; asked until it says yes or no. Raises OSError
    on_change     called when the partitions become known, or others
    """

    def __init__(
        self,
        manager: Manager,
        host: Host,
        clock: Clock,
        modules_path: str,
        has_fabric: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._manager = manager
        self._host = host
        self._clock = clock
        self._modules_path = modules_path
        self._has_fabric = has_fabric
        self._on_change = on_change
        self._is_there: bool | None = None
        self._turn = asyncio.Lock()
        self._hung: asyncio.Future[Any] | None = None
        self._saved = _read_modules(host, modules_path)
        self._topology = FabricTopology(modules=self._saved, unread=_UNSEEN)
        self._merged: tuple[Inventory, Inventory] | None = None
        self._said = ""

    def of(self, inventory: Inventory) -> Inventory:
        """The inventory with what is known of the fabric."""
        with contextlib.suppress(OSError):  # `look` tells of it
            if not self._find():
                return inventory
        known = dict(self._topology.modules)
        # A GPU that left its driver keeps the module id that it was seen with.
        known |= {address: gpu.module_id for address, gpu in inventory.gpus.items() if gpu.module_id}
        if known != self._topology.modules:
            self._topology = replace(self._topology, modules=known)
            self._merged = None
        if self._merged is None or self._merged[0] is not inventory:
            self._merged = inventory, replace(inventory, fabric=self._topology)
        return self._merged[1]

    async def run(self) -> None:
        """Read the partitions as soon as Fabric Manager answers. It may start after this program."""
        while not await self.look():
            await self._clock.sleep(LOOK_S)

    async def look(self) -> bool:
        """Whether the partitions are known, or the node has no fabric."""
        try:
            if self._find():
                await self.partitions()
        except (FabricError, OddTopology, OSError) as error:
            self._set(replace(self._topology, unread=str(error)))
            if str(error) != self._said:
                telemetry.warning("Fabric Manager is not ready; claims of GPUs wait for it", cause=str(error))
                self._said = str(error)
            return False
        return True

    def _find(self) -> bool:
        """Whether the node has a fabric. Raises OSError."""
        if self._is_there is None:
            self._is_there = self._has_fabric()
            if not self._is_there:
                telemetry.info(0, "This node has no NVSwitch fabric: no fabric partitions are used")
        return self._is_there

    async def partitions(self) -> tuple[FabricPartition, ...]:
        """All partitions as they are now. Raises FabricError, OddTopology and OSError.

        The module ids that are known are durable before: whatever is activated next can be found again.
        """
        await self._save()
        listed = await self.call(self._manager.partitions)
        found = checked([FabricPartition(one.id, one.modules, one.is_active) for one in listed])
        known = tuple(replace(one, is_active=False) for one in found)
        if (known, "") != (self._topology.partitions, self._topology.unread):
            telemetry.info(1, "Read the fabric partitions", partitions=len(known))
            self._said = ""
            self._set(replace(self._topology, partitions=known, unread=""))
            self._on_change()
        return found

    async def activate(self, partition: int) -> None:
        """Raises FabricError."""
        await self.call(lambda: self._manager.activate(partition))

    async def deactivate(self, partition: int) -> None:
        """Raises FabricError."""
        await self.call(lambda: self._manager.deactivate(partition))

    async def call(self, work: Callable[[], T]) -> T:
        """What a call into the library says. Raises FabricHung after TIMEOUT_S; the call itself goes on."""
        async with self._turn:
            if self._hung is not None:
                if not self._hung.done():
                    raise FabricHung("Fabric Manager has not returned from an earlier call", self._hung)
                self._hung = None
            call = asyncio.get_running_loop().run_in_executor(None, work)
            try:
                async with self._clock.deadline(TIMEOUT_S):
                    return await asyncio.shield(call)
            except TimeoutError:
                self._hung = call
                call.add_done_callback(_consume)
                raise FabricHung(f"Fabric Manager did not answer within {TIMEOUT_S:.0f} s", call) from None

    async def _save(self) -> None:
        modules = self._topology.modules
        if modules != self._saved:
            content = orjson.dumps(dict(modules), option=orjson.OPT_SORT_KEYS)
            await self._host.replace(self._modules_path, content, mode=0o644, durable=True)
            self._saved = modules

    async def close(self) -> None:
        if self._hung is None or self._hung.done():
            await asyncio.get_running_loop().run_in_executor(None, self._manager.close)

    def _set(self, topology: FabricTopology) -> None:
        if topology != self._topology:
            self._topology = topology
            self._merged = None


def _read_modules(host: Host, path: str) -> Mapping[str, int]:
    """Module ids by PCI address, as kept by an earlier run; empty if there is no such file."""
    try:
        found = orjson.loads(host.read(path))
    except (OSError, orjson.JSONDecodeError):
        return {}
    known = found.items() if isinstance(found, dict) else ()
    return {address: module for address, module in known if isinstance(module, int)}


def _consume(call: asyncio.Future[Any]) -> None:
    if not call.cancelled():
        call.exception()
