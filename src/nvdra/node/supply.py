"""The supply: what a driver puts into containers, looked up once, kept while it is whole and nothing changed.

The files are looked up before any lock is taken. An incomplete set is never kept: what is missing is made if it can be
(device nodes), and else named in the claim's error, and looked for again when the claim comes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from nvdra import cdi
from nvdra.devices import Gpu
from nvdra.host import DriverRoot, DriverVersionUnknown, gpu_files, look_up, make_nodes
from nvdra.ports import Host


class SupplyError(Exception):
    """Something the driver should have put on this node is missing; asking again later may help."""


class Supply:
    """Edits for containers from the driver root.

    hook_path   nvidia-cdi-hook, as the container runtime reaches it
    host_root   the driver root as the container runtime sees it
    """

    def __init__(self, host: Host, root: DriverRoot, *, hook_path: str, host_root: str) -> None:
        self._host = host
        self._root = root
        self._hook_path = hook_path
        self._host_root = host_root
        self._common: cdi.Common | None = None
        self._control_nodes: tuple[str, ...] = ()
        self._gpus: dict[Gpu, cdi.Edits] = {}
        self._looking = asyncio.Lock()

    def forget(self) -> None:
        """The driver may have changed: look everything up again when it is next needed."""
        self._common = None
        self._gpus.clear()

    async def refresh(self, gpus: Iterable[Gpu]) -> None:
        """Make sure of the driver's files and of these GPUs' device nodes. Raises SupplyError with what is missing."""
        if self._common is None or not all(map(self._is_node, self._control_nodes)):
            async with self._looking:
                if self._common is None or not all(map(self._is_node, self._control_nodes)):
                    await self._look_up()
        for gpu in gpus:
            if gpu not in self._gpus or not self._is_node(f"/dev/nvidia{gpu.minor}"):
                await self._look_up_gpu(gpu)

    @property
    def common(self) -> cdi.Common:
        if self._common is None:
            raise SupplyError("the driver's files changed just now and are being looked up again")
        return self._common

    def gpu(self, gpu: Gpu) -> cdi.Edits:
        """The GPU's own edits, as `refresh` found them. Raises SupplyError."""
        edits = self._gpus.get(gpu)
        if edits is None:
            raise SupplyError(f"the device nodes of {gpu.name} are not known yet")
        return edits

    async def _look_up(self) -> None:
        self._common = None
        try:
            files = await asyncio.to_thread(look_up, self._host, self._root)
            if files.missing:
                reasons = await make_nodes(self._host, self._root, _nodes(files.missing))
                files = await asyncio.to_thread(look_up, self._host, self._root)
                if files.missing:
                    raise SupplyError(self._missing(files.missing, reasons))
        except (DriverVersionUnknown, OSError) as error:
            raise SupplyError(f"failed to get common CDI spec edits: {error}") from None
        try:
            common = cdi.Common(cdi.common_edits(files, self._hook_path), self._root.path, self._host_root)
        except cdi.InvalidDocument as error:
            raise SupplyError(f"failed to get common CDI spec edits: {error}") from None
        self._control_nodes = tuple(node.container_path for node in files.control_nodes)
        self._common = common

    async def _look_up_gpu(self, gpu: Gpu) -> None:
        self._gpus.pop(gpu, None)
        files = gpu_files(self._host, self._root, gpu.minor, gpu.pci_bus_id)
        if files.missing:
            reasons = await make_nodes(self._host, self._root, _nodes(files.missing))
            files = gpu_files(self._host, self._root, gpu.minor, gpu.pci_bus_id)
            if files.missing:
                raise SupplyError(self._missing(files.missing, reasons))
        self._gpus[gpu] = cdi.gpu_edits(files, self._hook_path)

    def _missing(self, missing: Iterable[str], reasons: object) -> str:
        told = reasons if isinstance(reasons, dict) else {}
        parts = [f"{path} ({told[path]})" if told.get(path) else path for path in missing]
        return (
            f"the driver's {', '.join(parts)} is missing below {self._root.dev if told else self._root.path}; "
            "kubelet will ask again, nvdra doctor tells more"
        )

    def _is_node(self, path: str) -> bool:
        try:
            self._host.stat(path if self._root.dev == "/" else self._root.dev + path)
        except OSError:
            return False
        return True


def _nodes(missing: Iterable[str]) -> list[str]:
    return [path for path in missing if path.startswith("/dev/")]
