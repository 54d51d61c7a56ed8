"""The seam between a kubelet plugin's common skeleton and one driver's hardware."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from nvdra.checkpoint import Checkpoint
from nvdra.host import Node
from nvdra.kube import ResourceApi
from nvdra.kubelet import HealthFeed
from nvdra.node.checkpoint_file import CheckpointFile
from nvdra.node.context import ClaimContext
from nvdra.node.parts import ClaimParts, NodePaths
from nvdra.node.publication import Publication
from nvdra.node.slice_writes import Notice
from nvdra.ports import Clock
from nvdra.programs.tasks import Tasks


class PluginOptions(Protocol):
    """Options that every kubelet plugin has."""

    @property
    def node_name(self) -> str: ...
    @property
    def pod_uid(self) -> str: ...
    @property
    def cdi_root(self) -> str: ...
    @property
    def kubelet_registrar_directory_path(self) -> str: ...
    @property
    def kubelet_plugins_directory_path(self) -> str: ...
    @property
    def healthcheck_port(self) -> int: ...
    @property
    def http_endpoint(self) -> str: ...
    @property
    def metrics_path(self) -> str: ...
    @property
    def kubeconfig(self) -> str: ...
    @property
    def kube_api_qps(self) -> float: ...
    @property
    def kube_api_burst(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Chassis:
    """The common parts of a kubelet plugin that a driver's hardware is built on."""

    host: Node
    clock: Clock
    api: ResourceApi
    paths: NodePaths
    tasks: Tasks
    stack: AsyncExitStack
    on_checkpoint: Callable[[Checkpoint], None]
    on_notice: Callable[[Notice], None]
    restart: Callable[[], None]
    """Stop in order, then execute the program again in this process, because the driver's libraries changed."""
    registry: CollectorRegistry
    health: HealthFeed
    """Of the driver's devices; a driver that watches health sets `is_served` before the plugin registers."""
    unless_stopped: Callable[[Coroutine[Any, Any, None] | asyncio.Task[None]], Coroutine[Any, Any, None]]


class Hardware(Protocol):
    """The hardware of one driver, for the common skeleton of a kubelet plugin."""

    @property
    def context(self) -> ClaimContext: ...
    @property
    def checkpoint_file(self) -> CheckpointFile: ...
    @property
    def publication(self) -> Publication: ...

    async def look(self, parts: ClaimParts) -> None:
        """Scan the hardware for the first time; runs while the plugin registers."""
        ...

    def checkpoint_changed(self, checkpoint: Checkpoint) -> None:
        """Called after a change of the checkpoint: the set of unpublished devices may change."""
        ...

    async def serve(self, first_look: asyncio.Task[None]) -> None:
        """Start the driver's own tasks; called when kubelet can call the plugin."""
        ...


Build = Callable[[Chassis], Awaitable[Hardware]]
