"""Container edits of GPUs: driver files and device nodes, looked up once, kept while complete and unchanged.

Before each use a few stat calls make sure of that: every file and device node is there with its numbers, and nothing
came since into the folders that were searched.

The files are looked up before any lock is taken. An incomplete set is never kept: what is missing is made if it can be
(device nodes), and else named in the claim's error, and looked for again when the claim comes again.

A partition's capability nodes are never kept: they come and go with it, and their files are small. Nor are they made:
runtimes make them in the container from their numbers, and the host needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from nvdra import cdi
from nvdra.gpu import BoundVfio, Gpu, GpuDevice, MigDevice, VfioGpu, parent
from nvdra.gpu.edits import CapabilityNode, common_edits, gpu_edits, mig_edits, vfio_edits
from nvdra.host import (
    CapabilityUnknown,
    DriverRoot,
    DriverVersionUnknown,
    Footprint,
    HookMissing,
    capability_nodes,
    gone,
    is_unchanged,
    make_nodes,
    survey,
    survey_gpu,
    vfio_paths,
)
from nvdra.node.edits import EditsMissing
from nvdra.ports import Host

AnyDevice = GpuDevice | BoundVfio


class GpuEditsProvider:
    """Edits for containers from the driver root.

    hook_path      nvidia-cdi-hook, as the container runtime reaches it
    host_root      the driver root as the container runtime sees it
    restore_hook   puts the hook there if it is gone, raises HookMissing; None: it is the host's, and not looked at
    makes_nodes    missing device nodes are made; for a person who only looks they are not
    """

    def __init__(
        self,
        host: Host,
        root: DriverRoot,
        *,
        hook_path: str,
        host_root: str,
        restore_hook: Callable[[], Awaitable[object]] | None = None,
        makes_nodes: bool = True,
    ) -> None:
        self._host = host
        self._root = root
        self._hook_path = hook_path
        self._host_root = host_root
        self._restore_hook = restore_hook
        self._makes_nodes = makes_nodes
        self._retry = "kubelet will ask again, " if makes_nodes else ""
        self._common: cdi.Common | None = None
        self._bare = cdi.Common(cdi.Edits(), root.path, host_root)
        self._seen: Footprint | None = None
        self._is_checked = False  # in this turn of the event loop, which no file is waited for in
        self._gpus: dict[tuple[int, str], tuple[Footprint, cdi.Edits]] = {}  # by what their files are found by
        self._looking: asyncio.Task[None] | None = None
        self._times_forgotten = 0

    def forget(self) -> None:
        """The driver may have changed: look everything up again when it is next needed."""
        self._common = None
        self._gpus.clear()
        self._times_forgotten += 1

    async def refresh(self, devices: Iterable[AnyDevice], *, common: bool = True) -> None:
        """Make sure of the driver's files and of these devices' nodes. Raises EditsMissing with what is missing.

        Of a partition that is not made these are its GPU's.
        """
        if common and not self._has_common():
            # Who comes while a look-up is under way shares it, and its failure too: the tools it runs are slow.
            if self._looking is None:
                self._looking = asyncio.create_task(self._look_up(), name="driver files")
                self._looking.add_done_callback(self._looked)
            await asyncio.shield(self._looking)
        devices = tuple(devices)
        for gpu in _parents(devices):
            if not self._has_gpu(gpu):
                await self._look_up_gpu(gpu)
        for device in devices:
            if isinstance(device, MigDevice):
                self._capabilities(device)
            elif isinstance(device, BoundVfio):
                self._vfio(device)

    def is_available(self, devices: Iterable[AnyDevice], *, common: bool = True) -> bool:
        """Whether a CDI file for these devices could be written now: `refresh` would find nothing missing."""
        devices = tuple(devices)
        if (common and not self._has_common()) or not all(map(self._has_gpu, _parents(devices))):
            return False
        try:
            for device in devices:
                if isinstance(device, MigDevice):
                    self._capabilities(device)
                elif isinstance(device, BoundVfio):
                    self._vfio(device)
        except EditsMissing:
            return False
        return True

    @property
    def common(self) -> cdi.Common:
        """What containers get with any device of the driver; it must be at hand."""
        assert self._common is not None
        return self._common

    @property
    def bare(self) -> cdi.Common:
        return self._bare

    def edits(self, device: Gpu | MigDevice | BoundVfio) -> cdi.Edits:
        """The device's own edits; it must be at hand. Raises EditsMissing if the partition went since."""
        if isinstance(device, BoundVfio):
            return self._vfio(device)
        _, gpu = self._gpus[_key(parent(device))]
        return mig_edits(gpu, self._capabilities(device)) if isinstance(device, MigDevice) else gpu

    def gone(self, document: cdi.Document) -> list[str]:
        """Paths that a claim's document names and that are not there, device nodes with another number among them."""
        return gone(self._host, self._root, self._host_root, document)

    def _capabilities(self, device: MigDevice) -> tuple[CapabilityNode, ...]:
        try:
            return capability_nodes(self._host, self._root, device.parent.minor, device.gi_id, device.ci_id)
        except CapabilityUnknown as error:
            raise EditsMissing(
                f"failed to construct MIG device DeviceNode edits: {error} (did another program destroy {device.name}, "
                f"{device.uuid}? {self._retry}nvdra devices shows what is there)"
            ) from None

    def _vfio(self, device: BoundVfio) -> cdi.Edits:
        """Edits for a passed-through GPU; its nodes come and go with its driver, so they are never kept."""
        address = device.device.pci_bus_id
        group, own = vfio_paths(self._host, self._root, address)
        path = own if device.uses_iommufd else group
        if not path:
            # DROP-IN: the Go driver's text for iommufd.
            what = "iommufd cdev" if device.uses_iommufd else "IOMMU group"
            raise EditsMissing(f'missing {what} for GPU "{address}": {self._retry}nvdra doctor tells more')
        return vfio_edits(device, path)

    def _has_common(self) -> bool:
        if self._common is None or self._seen is None:
            return False
        if not self._is_checked:
            # Claims of one batch are decided in one turn: for all of them the files are looked at once.
            has_hook = self._restore_hook is None or self._host.exists(self._hook_path)
            self._is_checked = has_hook and is_unchanged(self._host, self._root, self._seen)
            asyncio.get_running_loop().call_soon(self._uncheck)
        return self._is_checked

    def _uncheck(self) -> None:
        self._is_checked = False

    def _has_gpu(self, gpu: Gpu) -> bool:
        known = self._gpus.get(_key(gpu))
        return known is not None and is_unchanged(self._host, self._root, known[0])

    def _looked(self, _task: asyncio.Task[None]) -> None:
        self._looking = None

    async def _look_up(self) -> None:
        self._common = None
        times_forgotten = self._times_forgotten
        try:
            if self._restore_hook is not None:
                await self._restore_hook()
            files, seen = await asyncio.to_thread(survey, self._host, self._root)
            if files.missing:
                reasons = await self._make_nodes(files.missing)
                files, seen = await asyncio.to_thread(survey, self._host, self._root)
                if files.missing:
                    raise EditsMissing(self._missing(files.missing, reasons))
        except (DriverVersionUnknown, HookMissing, OSError) as error:
            raise EditsMissing(f"failed to get common CDI spec edits: {error}") from None
        try:
            common = cdi.Common(common_edits(files, self._hook_path), self._root.path, self._host_root)
        except cdi.InvalidDocument as error:
            raise EditsMissing(f"failed to get common CDI spec edits: {error}") from None
        if times_forgotten == self._times_forgotten:  # else it may be the old driver's
            self._common, self._seen, self._is_checked = common, seen, False

    async def _look_up_gpu(self, gpu: Gpu) -> None:
        self._gpus.pop(_key(gpu), None)
        files, seen = survey_gpu(self._host, self._root, gpu.minor, gpu.pci_bus_id)
        if files.missing:
            reasons = await self._make_nodes(files.missing)
            files, seen = survey_gpu(self._host, self._root, gpu.minor, gpu.pci_bus_id)
            if files.missing:
                raise EditsMissing(self._missing(files.missing, reasons))
        self._gpus[_key(gpu)] = seen, gpu_edits(files, self._hook_path)

    async def _make_nodes(self, missing: Iterable[str]) -> Mapping[str, str]:
        """Why device nodes could not be made, by path."""
        if not self._makes_nodes:
            return {}
        return await make_nodes(self._host, self._root, [path for path in missing if path.startswith("/dev/")])

    def _missing(self, missing: Iterable[str], told: Mapping[str, str]) -> str:
        parts = [f"{path} ({told[path]})" if told.get(path) else path for path in missing]
        return (
            f"the driver's {', '.join(parts)} is missing below {self._root.dev if told else self._root.path}; "
            f"{self._retry}nvdra doctor tells more"
        )


def _key(gpu: Gpu) -> tuple[int, str]:
    return gpu.minor, gpu.pci_bus_id


def _parents(devices: Iterable[AnyDevice]) -> Iterable[Gpu]:
    """The GPUs that these devices are or lie on, each once: partitions are many. None for virtual machines."""
    of_nvml = (parent(device) for device in devices if not isinstance(device, VfioGpu | BoundVfio))
    return {_key(gpu): gpu for gpu in of_nvml}.values()
