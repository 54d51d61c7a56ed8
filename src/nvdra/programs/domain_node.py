"""compute-domain.nvidia.com on the chassis: the node's view, actors, upkeep, and when each of them runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from nvdra import telemetry
from nvdra.api.compute_domain import DRIVER
from nvdra.api.gates import (
    COMPUTE_DOMAIN_CLIQUES,
    CRASH_ON_NVLINK_FABRIC_ERRORS,
    FABRIC_MANAGER_PARTITIONING,
    IMEX_DAEMONS_WITH_DNS_NAMES,
    Gates,
)
from nvdra.api.imex import HOST_MANAGED
from nvdra.checkpoint import Checkpoint
from nvdra.domains.devices import published
from nvdra.domains.driver import DomainDriver
from nvdra.domains.imex import template
from nvdra.domains.steps import AskHost, JoinDomain, LayFolder
from nvdra.host import Hints, driver_root, find_library, install_hook
from nvdra.node.checkpoint_writer import Change, CheckpointError
from nvdra.node.domains.actors.folder import FolderActor
from nvdra.node.domains.actors.host_imex import HostImexActor
from nvdra.node.domains.actors.label import JoinActor, Place
from nvdra.node.domains.api import Domains
from nvdra.node.domains.base_spec import BaseSpec
from nvdra.node.domains.edits_provider import DomainEditsProvider
from nvdra.node.domains.folders import DomainFolders
from nvdra.node.domains.node_label import NodeLabel
from nvdra.node.domains.single_node import is_single_node_fabric
from nvdra.node.domains.upkeep import Upkeep, domains_in_use
from nvdra.node.domains.view import NodeView
from nvdra.node.parts import ClaimParts, claim_context
from nvdra.node.publication import Publication
from nvdra.nvml import DriverChanged, Nvml
from nvdra.programs.chassis import Chassis
from nvdra.programs.domain_flags import Options
from nvdra.slices import Pool


async def domain_node(chassis: Chassis, options: Options, gates: Gates) -> DomainNodeHardware:
    """ComputeDomains on this chassis. Raises HookMissing."""
    hook = await install_hook(chassis.host, chassis.paths.plugin_dir, given=options.nvidia_cdi_hook_path)
    return DomainNodeHardware(chassis, options, gates, hook)


class DomainNodeHardware:
    """One node's IMEX channels and daemons, as a `Hardware` of the chassis."""

    def __init__(self, chassis: Chassis, options: Options, gates: Gates, hook: str) -> None:
        host, clock, kube = chassis.host, chassis.clock, chassis.api.kube
        self._chassis = chassis
        self._is_host_managed = options.imex_mode == HOST_MANAGED
        root = driver_root(host, options.container_driver_root)
        nvml = Nvml(lambda: find_library(host, root), clock)
        chassis.stack.push_async_callback(_close, nvml)
        hints = Hints(host, root)
        folder = f"{chassis.paths.plugin_dir}/domains"
        self._folders = DomainFolders(host, folder)
        self._folders.read()
        self._view = NodeView(
            nvml,
            host,
            clock,
            root,
            lambda: (driver_root(host, options.container_driver_root), hints.look()),
            lambda: self._folders.known,
            self._looked,
            is_strict=gates.enabled(CRASH_ON_NVLINK_FABRIC_ERRORS),
            needs_names=gates.enabled(IMEX_DAEMONS_WITH_DNS_NAMES) and not self._is_host_managed,
            single_node=lambda: gates.enabled(FABRIC_MANAGER_PARTITIONING) and is_single_node_fabric(host, root),
        )
        domains = Domains(kube)
        label = NodeLabel(kube, options.node_name, self._channels_in_use)
        place = Place(options.node_name, options.namespace, gates.enabled(COMPUTE_DOMAIN_CLIQUES))
        self.context, self.checkpoint_file = claim_context(
            DomainDriver(options.daemon_namespaces, folder, self._is_host_managed),
            options.node_name,
            chassis.paths,
            host,
            DomainEditsProvider(root, options.nvidia_driver_root),
            {
                JoinDomain.kind: JoinActor(kube, clock, domains, label, place, self._view.node),
                AskHost.kind: HostImexActor(host, clock, domains, root, options.imex_host_socket_path),
                LayFolder.kind: FolderActor(clock, domains, self._folders, lambda: template(options.imex_settings)),
            },
            self._view.node,
            clock=clock,
            rescan=self._rescan,
            on_checkpoint=chassis.on_checkpoint,
        )
        self.publication = Publication(
            chassis.api, clock, Pool(DRIVER, options.node_name), has_counters=False, on_notice=chassis.on_notice
        )
        restore = None if options.nvidia_cdi_hook_path else partial(install_hook, host, chassis.paths.plugin_dir)
        self._upkeep = Upkeep(
            kube,
            clock,
            options.node_name,
            self.context,
            domains,
            self._folders,
            None if self._is_host_managed else label,
            BaseSpec(
                host,
                root,
                chassis.paths.cdi_root,
                hook=hook,
                host_root=options.nvidia_driver_root,
                restore_hook=restore,
            ),
            (lambda: self._view.node().clique) if options.gpu_clique_label_enabled else None,
            lambda: self.checkpoint_file.is_quarantined,
        )

    async def look(self, parts: ClaimParts) -> None:
        """Read the node for the first time."""
        await self._guarded(self._view.look())

    def checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        self._view.checkpoint_changed(checkpoint)

    async def serve(self, first_look: asyncio.Task[None]) -> None:
        """Look for changes, keep label, folders and files in order."""
        await self._chassis.unless_stopped(first_look)
        tasks = self._chassis.tasks
        tasks.start("discovery", self._guarded(self._view.run()), may_end=True)
        tasks.start("base document", self._upkeep.run_base_spec())
        tasks.start("node label", self._upkeep.run_label(), may_end=self._is_host_managed)
        tasks.start("folders", self._upkeep.run_folders())
        tasks.start("clique label", self._upkeep.run_clique_label(), may_end=True)
        tasks.start("domains", self._look_up_domains(), may_end=True)

    def _looked(self) -> None:
        """Called after each look: publish what the node can serve."""
        ready = published(with_daemon=not self._is_host_managed) if self._view.is_ready else []
        self.publication.publish(ready)

    def _channels_in_use(self) -> frozenset[str] | None:
        checkpoint = self.context.checkpoint_writer.last_seen
        if checkpoint is None or self.checkpoint_file.is_quarantined:
            return None
        return domains_in_use(checkpoint, "channel")

    async def _rescan(self) -> None:
        await self._guarded(self._view.look())
        await self._look_up_domains()

    async def _look_up_domains(self) -> None:
        try:
            checkpoint = await self.context.checkpoint_writer.submit(Change)
        except CheckpointError as error:
            telemetry.info(2, "ComputeDomains cannot be looked up now", cause=str(error))
            return
        await self._upkeep.look_up_domains(checkpoint, self._view.node().clique)

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
