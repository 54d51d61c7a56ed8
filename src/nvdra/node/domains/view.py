"""The driver's view of this node, and its renewal: fabric from NVML, majors and capabilities from /proc.

While nothing can be prepared (the fabric registers, the driver is missing), the node is read every few seconds;
afterwards every ten minutes, and when the driver changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping

from nvdra import telemetry
from nvdra.checkpoint import Checkpoint
from nvdra.domains.claim_configs import domains_of
from nvdra.domains.devices import CapabilityNode, DomainNode, DomainRef
from nvdra.domains.fabric import MINIMUM_DRIVER, Fabric, GpuFabric, driver_too_old, fabric
from nvdra.host import CapabilityUnknown, DriverRoot, device_major, fabric_node
from nvdra.nvml import DriverAbsent, Nvml, NvmlHung
from nvdra.ports import Clock, Host

LOOK_S = 10.0
UNREADY_S = 3.0
REFRESH_S = 600.0

_CHANNELS = "nvidia-caps-imex-channels"


class NodeView:
    """What the driver's rules know of this node.

    hints         a value that differs once the driver changed; reads files only
    domains       domains with a folder here
    needs_names   daemons have DNS names, which old drivers cannot do
    changed       called after each look
    """

    def __init__(
        self,
        nvml: Nvml,
        host: Host,
        clock: Clock,
        root: DriverRoot,
        hints: Callable[[], Hashable],
        domains: Callable[[], Mapping[str, DomainRef]],
        changed: Callable[[], None],
        *,
        is_strict: bool,
        needs_names: bool,
        single_node: Callable[[], bool] = lambda: False,
    ) -> None:
        self._nvml = nvml
        self._host = host
        self._clock = clock
        self._root = root
        self._hints = hints
        self._domains = domains
        self._changed = changed
        self._is_strict = is_strict
        self._needs_names = needs_names
        self._validated = ""  # the driver version that the log told of last
        self._single_node = single_node
        self._seen: Hashable = None
        self._looked_s = 0.0
        self._notes: tuple[str, ...] = ()
        self._pending: str | None = None
        self._has_daemons = False
        self._was_ready = False
        self._looking: asyncio.Task[None] | None = None
        self._node = DomainNode(unready="the first look at the node is under way")

    def node(self) -> DomainNode:
        """The node as last seen."""
        node = self._node
        return DomainNode(node.clique, node.unready, node.channel_major, node.fabric_node, self._domains())

    @property
    def is_ready(self) -> bool:
        return not self._node.unready

    async def look(self) -> None:
        """Look now; calls during a look share it. Raises DriverChanged."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look")
        await asyncio.shield(self._looking)

    async def run(self) -> None:
        """Look again for ever. Raises DriverChanged."""
        while True:
            await self._clock.sleep(LOOK_S if self.is_ready else UNREADY_S)
            age_s = self._clock.now() - self._looked_s
            if not self.is_ready or age_s >= REFRESH_S or await self._hint() != self._seen:
                await self.look()

    def checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        """A new clique counts once no daemon here runs with the old one."""
        self._has_daemons = any(
            domains_of(entry, "daemon") for entry in checkpoint.entries.values() if entry.state != "PrepareAborted"
        )
        if self._pending is not None and not self._has_daemons:
            self._take(self._pending)
            self._changed()

    async def _hint(self) -> Hashable:
        try:
            return await asyncio.to_thread(self._hints)
        except OSError as error:
            return str(error)

    async def _look(self) -> None:
        self._looked_s = self._clock.now()
        self._seen = await self._hint()
        found = await self._read_fabric()
        major = device_major(self._host, self._root, _CHANNELS) or 0
        unready, capability = found.unready, None
        try:
            capability = _capability(self._host, self._root)
        except CapabilityUnknown as error:
            unready = unready or str(error)
        if not major:
            # DROP-IN: the Go driver's text, and the way out.
            unready = unready or (
                f"error getting nvcap for IMEX channel '0': error getting device major: error parsing "
                f"'{self._root.devices_file}': {_CHANNELS} is not among its character devices (is the driver loaded, "
                "and new enough for IMEX?)"
            )
        self._note(found, unready)
        if unready:
            self._node = DomainNode(self._node.clique, unready, major or self._node.channel_major, capability)
        else:
            self._node = DomainNode(self._node.clique, "", major, capability)
            self._offer(found.clique)
        self._changed()

    async def _read_fabric(self) -> Fabric:
        try:
            version, gpus = await self._nvml.fabric()
        except (DriverAbsent, NvmlHung) as error:
            return Fabric(unready=f"the GPUs cannot be read: {error}")
        if self._needs_names:
            too_old = driver_too_old(version)
            if version != self._validated:
                self._validated = version
                # DROP-IN: texts of the Go driver.
                telemetry.info(0, "Starting driver version validation for IMEXDaemonsWithDNSNames feature...")
                if not too_old:
                    telemetry.info(0, f"Driver version validation passed: {version} >= {MINIMUM_DRIVER}")
            if too_old:
                return Fabric(unready=too_old)
        rows = [GpuFabric(*gpu) for gpu in gpus]
        return fabric(rows, is_strict=self._is_strict, single_node=self._single_node())

    def _offer(self, clique: str) -> None:
        """Take a clique over, unless daemons here run with the former one. A fabric that is gone is ignored."""
        is_first, self._was_ready = not self._was_ready, True
        if clique == self._node.clique:
            self._pending = None
        elif is_first or (clique and not self._has_daemons):
            self._take(clique)
        elif not clique:
            telemetry.warning("The node's fabric is gone; its clique is kept", clique=self._node.clique)
        elif self._pending != clique:
            self._pending = clique
            telemetry.warning(
                "The node's clique changed while a daemon runs in the former one; it counts once that daemon is gone",
                clique=self._node.clique,
                new=clique,
            )

    def _take(self, clique: str) -> None:
        self._pending = None
        node = self._node
        if node.clique != clique:
            telemetry.info(0, "The node is in a clique", clique=clique, former=node.clique)
        self._node = DomainNode(clique, node.unready, node.channel_major, node.fabric_node)

    def _note(self, found: Fabric, unready: str) -> None:
        if unready != self._node.unready:
            if unready:
                telemetry.warning("Nothing is published: the node cannot serve ComputeDomains yet", cause=unready)
            else:
                telemetry.info(0, "The node can serve ComputeDomains", clique=found.clique)
        if found.notes != self._notes:
            self._notes = found.notes
            for note in found.notes:
                telemetry.info(0, note)


def _capability(host: Host, root: DriverRoot) -> CapabilityNode | None:
    found = fabric_node(host, root)
    return None if found is None else CapabilityNode(found.major, found.minor, found.mode)
