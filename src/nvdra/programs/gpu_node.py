"""gpu.nvidia.com on the chassis: discovery, driver files, actors, upkeep, and when each of them runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from functools import partial
from typing import Any

from nvdra import telemetry
from nvdra.api.gates import DYNAMIC_MIG, FABRIC_MANAGER_PARTITIONING, MPS_SUPPORT, PASSTHROUGH_SUPPORT, Gates
from nvdra.checkpoint import Checkpoint
from nvdra.gpu import Inventory, MigDevice, StuckMode
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.mps_deployment import MpsPods
from nvdra.gpu.shares import shares
from nvdra.gpu.sharing import Sharing
from nvdra.host import (
    DriverRoot,
    Hints,
    MpsControl,
    PciBus,
    driver_root,
    fabric_manager,
    find_library,
    find_nvidia_smi,
    install_hook,
    look_at_bus,
)
from nvdra.node.checkpoint_writer import CheckpointError
from nvdra.node.edits import EditsMissing
from nvdra.node.gpu.actors.fabric import FabricActor
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.gpu.actors.mps import MpsActor, MpsPlace
from nvdra.node.gpu.actors.timeslice import TimeSliceActor
from nvdra.node.gpu.desired_pool import DesiredPool
from nvdra.node.gpu.discovery import Discovery
from nvdra.node.gpu.edits_provider import GpuEditsProvider
from nvdra.node.gpu.fabric import MODULES, Fabric
from nvdra.node.gpu.mig_upkeep import MigUpkeep
from nvdra.node.gpu.mps_pods import Pods
from nvdra.node.gpu.mps_upkeep import MpsUpkeep
from nvdra.node.gpu.parts import gpu_context
from nvdra.node.gpu.stuck_modes import StuckModes
from nvdra.node.gpu.vfio_parts import VfioParts
from nvdra.node.gpu.vfio_upkeep import VfioUpkeep
from nvdra.node.journals import trim_journals
from nvdra.node.parts import ClaimParts
from nvdra.node.publication import Publication
from nvdra.node.sweep import Sweep
from nvdra.nvml import DriverAbsent, DriverChanged, Nvml, NvmlHung, NvmlInUse
from nvdra.programs.chassis import Chassis
from nvdra.programs.gpu_flags import Options, never_toggles
from nvdra.slices import Pool


async def gpu_node(chassis: Chassis, options: Options, gates: Gates) -> GpuNode:
    """The node's GPUs on this chassis. Raises HookMissing."""
    hook = await install_hook(chassis.host, chassis.paths.plugin_dir, given=options.nvidia_cdi_hook_path)
    return GpuNode(chassis, options, gates, hook)


class GpuNode:
    """One node's GPUs, as a `Hardware` of the chassis."""

    def __init__(self, chassis: Chassis, options: Options, gates: Gates, hook: str) -> None:
        host = chassis.host
        self._chassis = chassis
        self._options = options
        self._gates = gates
        self._sharing = Sharing(
            shares(options.consumable_shares, gates), options.mps_under_shares, f"{chassis.paths.plugin_dir}/mps"
        )
        self._root = root = self._current_root()
        self._was_unread = False
        self._sweep: Sweep | None = None
        nvml = Nvml(lambda: find_library(host, root), chassis.clock)
        chassis.stack.push_async_callback(_close, nvml)
        self._stuck = StuckModes(host, chassis.paths.plugin_dir)
        self._vfio = self._vfio_parts(nvml) if gates.enabled(PASSTHROUGH_SUPPORT) else None
        self._discovery = self._discovery_of(nvml)
        restore = None if options.nvidia_cdi_hook_path else partial(install_hook, host, chassis.paths.plugin_dir)
        self._fabric = self._fabric_manager() if gates.enabled(FABRIC_MANAGER_PARTITIONING) else None
        self._edits_provider = GpuEditsProvider(
            host, root, hook_path=hook, host_root=options.nvidia_driver_root, restore_hook=restore
        )
        mig = MigActor(nvml, self._discovery.note, self._note_stuck)
        self._mps = self._mps_actor(self._sharing.mps_folder) if gates.enabled(MPS_SUPPORT) else None
        self._time_slices = TimeSliceActor(lambda: find_nvidia_smi(host, root), self._inventory)
        self.context, self.checkpoint_file = gpu_context(
            gates,
            options.node_name,
            chassis.paths,
            host,
            self._edits_provider,
            mig,
            self._time_slices,
            self._inventory,
            clock=chassis.clock,
            mps=self._mps,
            fabric=None if self._fabric is None else FabricActor(self._fabric, chassis.clock),
            vfio=None if self._vfio is None else self._vfio.actor,
            sharing=self._sharing,
            rescan=lambda: self._guarded(self._discovery.scan()),
            on_checkpoint=chassis.on_checkpoint,
        )
        self._upkeep = MigUpkeep(
            nvml,
            chassis.clock,
            self.context,
            mig,
            self._inventory,
            is_checkpoint_lost=lambda: self.checkpoint_file.is_quarantined,
            destroy_unmanaged=options.destroy_unknown_mig,
        )
        self.publication = Publication(
            chassis.api,
            chassis.clock,
            Pool(DRIVER, options.node_name),
            has_counters=gates.enabled(DYNAMIC_MIG) or gates.enabled(PASSTHROUGH_SUPPORT),
            on_notice=chassis.on_notice,
        )
        self._desired_pool = DesiredPool(
            self.publication, gates, self._inventory, lambda: bool(self._bus().gpus), shares=self._sharing.shares
        )

    def _discovery_of(self, nvml: Nvml) -> Discovery:
        hints = Hints(self._chassis.host, self._root)
        return Discovery(
            nvml,
            self._chassis.clock,
            lambda: (self._current_root(), hints.look()),
            lambda: self._bus().facts,
            self._scanned,
            dynamic_mig=self._gates.enabled(DYNAMIC_MIG),
            never_toggles=never_toggles(os.environ),
            stuck=self._stuck.known,
            passthrough=None if self._vfio is None else self._vfio.look,
        )

    def _vfio_parts(self, nvml: Nvml) -> VfioParts:
        return VfioParts(
            self._chassis.host,
            self._chassis.clock,
            self._root,
            self._options.host_root,
            nvml,
            lambda: self._chassis.tasks.start("passthrough", self._guarded(self._scan_anew(nvml)), may_end=True),
        )

    async def _scan_anew(self, nvml: Nvml) -> None:
        """Scan in a new session: one that is open does not learn of a GPU that got the NVIDIA driver since."""
        with contextlib.suppress(NvmlInUse, NvmlHung, DriverAbsent):
            async with nvml.kept_closed():
                pass
        await self._discovery.scan()

    def _mps_actor(self, folder: str) -> MpsActor:
        host, kube, options = self._chassis.host, self._chassis.api.kube, self._options
        known = MpsPods(
            options.node_name,
            options.namespace,
            options.image_name,
            folder,
            driver_root=options.nvidia_driver_root,
            pull_secrets=options.image_pull_secrets,
            pull_policy=options.image_pull_policy,
            service_account=options.service_account_name,
            feature_gates=self._gates.values,
        )
        return MpsActor(
            host,
            self._chassis.clock,
            kube,
            lambda: find_nvidia_smi(host, self._root),
            MpsControl(host, self._root),
            MpsPlace(folder, self._root.path),
            Pods(kube, known, options.pod_uid),
            self._inventory,
            sets_compute_mode=options.mps_compute_mode == "exclusive",
        )

    def _fabric_manager(self) -> Fabric:
        host, root = self._chassis.host, self._root
        manager = fabric_manager.FabricManager(
            lambda: find_library(host, root, fabric_manager.LIBRARY), fabric_manager.fabric_address(root, os.environ)
        )
        fabric = Fabric(
            manager,
            host,
            self._chassis.clock,
            f"{self._chassis.paths.plugin_dir}/{MODULES}",
            lambda: fabric_manager.has_fabric(host, root, self._options.host_root, os.environ),
            self._fabric_changed,
        )
        self._chassis.stack.push_async_callback(fabric.close)
        return fabric

    def _fabric_changed(self) -> None:
        self._desired_pool.renew()

    async def look(self, parts: ClaimParts) -> None:
        """Scan the GPUs for the first time."""
        self._sweep = parts.sweep
        await self._guarded(self._discovery.scan())

    def checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        self._desired_pool.checkpoint_changed(checkpoint)

    async def serve(self, first_look: asyncio.Task[None]) -> None:
        """Publish, keep partitions in order, look for changes."""
        await self._chassis.unless_stopped(first_look)
        if self._gates.enabled(DYNAMIC_MIG):
            self._chassis.tasks.start("lease", self._upkeep.hold())
            await self._chassis.unless_stopped(self._upkeep.clean_up())
            self._desired_pool.renew()  # devices that overlapped a destroyed partition are free
            self._chassis.tasks.start("upkeep", self._upkeep.run())
        elif self.context.driver.has_steps:
            if self._vfio is not None:
                await self._chassis.unless_stopped(self._vfio_upkeep().clean_up())
                self._chassis.tasks.start("passthrough upkeep", self._vfio_upkeep().run())
            await self._chassis.unless_stopped(trim_journals(self.context, self._lockable()))
        if self._mps is not None:
            upkeep = MpsUpkeep(
                self._chassis.clock,
                self.context,
                GpuDriver(self._gates, self._sharing),
                self._mps,
                self._inventory,
                is_checkpoint_lost=lambda: self.checkpoint_file.is_quarantined,
            )
            self._chassis.tasks.start("MPS upkeep", upkeep.run())
        if self._fabric is not None:
            self._chassis.tasks.start("fabric", self._fabric.run(), may_end=True)
        self._chassis.tasks.start("discovery", self._guarded(self._discovery.run()), may_end=True)

    def _vfio_upkeep(self) -> VfioUpkeep:
        assert self._vfio is not None
        return self._vfio.upkeep(self.context, self._inventory, lambda: self.checkpoint_file.is_quarantined)

    async def _note_stuck(self, address: str, stuck: StuckMode) -> None:
        """Note that a GPU refuses a change of its MIG mode, and unpublish the devices that would need it."""
        await self._stuck.note(address, stuck)
        self._chassis.tasks.start("stuck mode", self._guarded(self._discovery.scan()), may_end=True)

    def _lockable(self) -> list[str]:
        """Resources that steps of this node may have locked."""
        inventory = self._inventory()
        return [
            *inventory.addresses,
            *(each.uuid for each in inventory.devices.values() if isinstance(each, MigDevice)),
        ]

    def _bus(self) -> PciBus:
        return look_at_bus(self._chassis.host, self._root)

    def _inventory(self) -> Inventory:
        inventory = self._discovery.inventory
        return inventory if self._fabric is None else self._fabric.of(inventory)

    def _current_root(self) -> DriverRoot:
        return driver_root(self._chassis.host, self._options.container_driver_root)

    def _scanned(self, inventory: Inventory) -> None:
        """Called after each scan: renew the container edits and the desired pool."""
        if self._current_root() != self._root:
            telemetry.warning("The driver root got or lost its device nodes, starting anew", path=self._root.path)
            self._chassis.restart()
            return
        self._edits_provider.forget()
        if self._was_unread and not inventory.unread:
            self._time_slices.forget()
        self._was_unread = bool(inventory.unread)
        self._chassis.tasks.start("supply", self._warm_edits_provider(), may_end=True)
        self._desired_pool.renew()

    async def _warm_edits_provider(self) -> None:
        try:
            await self._edits_provider.refresh(self._inventory().gpus.values())
            if self._sweep is not None:
                # Containers may restart with the CDI files of their claims, and kubelet does not call the plugin then.
                await self._sweep.files()
        except CheckpointError as error:
            telemetry.info(2, "Postponed the check of CDI files of prepared claims", cause=str(error))
        except EditsMissing as error:
            telemetry.warning(
                "The driver's files are incomplete; claims are refused until they are complete", cause=str(error)
            )

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except DriverChanged as changed:
            telemetry.warning("The driver was replaced, starting anew with the new one", cause=str(changed))
            self._chassis.restart()


async def _close(nvml: Nvml) -> None:
    try:
        await nvml.close(timeout_s=2.0)
    except Exception as error:
        telemetry.warning("Could not close NVML", cause=str(error))
