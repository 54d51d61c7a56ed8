"""Parts for passthrough, for the plugin and for people: what can be passed through, and the actor that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nvdra.gpu import Inventory, Passthrough, PciFacts
from nvdra.host import DriverRoot, PciNames, VfioModules, find_nvidia_smi, look_at_passthrough
from nvdra.node.context import ClaimContext
from nvdra.node.gpu.actors.vfio import ClosedNvml, VfioActor, VfioNode
from nvdra.node.gpu.holders import Look, SharedLook, look_on_host
from nvdra.node.gpu.vfio_upkeep import VfioUpkeep
from nvdra.ports import Clock, Host


class VfioParts:
    """What the gate PassthroughSupport adds to a node.

    host_root   the host's root as this program sees it
    changed     called after a GPU got another driver
    look        who holds device nodes; None: as the host's processes show
    """

    def __init__(
        self,
        host: Host,
        clock: Clock,
        root: DriverRoot,
        host_root: str,
        nvml: ClosedNvml,
        changed: Callable[[], object],
        look: Look | None = None,
    ) -> None:
        self._host = host
        self._clock = clock
        self._root = root
        self._host_root = host_root
        self._names = PciNames(host, host_root)
        self.actor = VfioActor(
            host,
            clock,
            VfioNode(root, host_root),
            nvml,
            SharedLook(look or look_on_host(host, host_root)),
            lambda: find_nvidia_smi(host, root),
            VfioModules(host, root, host_root).look,
            changed,
        )

    def upkeep(
        self, context: ClaimContext, inventory: Callable[[], Inventory], is_checkpoint_lost: Callable[[], bool]
    ) -> VfioUpkeep:
        """What is done for GPUs beside serving claims."""
        return VfioUpkeep(
            self._host, self._clock, self._root, context, self.actor, inventory, is_checkpoint_lost=is_checkpoint_lost
        )

    def look(self, pci: Mapping[str, PciFacts]) -> Passthrough:
        """What virtual machines can get of these PCI functions now. Raises OSError."""
        return look_at_passthrough(self._host, self._root, self._host_root, self._names, pci)
