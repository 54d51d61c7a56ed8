"""The builder of gpu.nvidia.com's claim parts, for the plugin, `nvdra doctor` and the tests."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from nvdra.api.gates import DEVICE_METADATA, Gates
from nvdra.checkpoint import Checkpoint
from nvdra.gpu import Inventory
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.fabric import ActivateFabricPartition
from nvdra.gpu.mps import StartMpsDaemon
from nvdra.gpu.sharing import UNSHARED, Sharing
from nvdra.gpu.steps import CreatePartition, LeaveMigMode, SetTimeSlice
from nvdra.gpu.vfio import BindVfio
from nvdra.node.checkpoint_file import CheckpointFile
from nvdra.node.checkpoint_writer import LOCK_TIMEOUT_S
from nvdra.node.context import ClaimContext
from nvdra.node.edits import EditsProvider
from nvdra.node.gpu.actors.fabric import FabricActor
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.gpu.actors.mps import MpsActor
from nvdra.node.gpu.actors.timeslice import TimeSliceActor
from nvdra.node.gpu.actors.vfio import VfioActor
from nvdra.node.hooks import NO_HOOKS, Hooks
from nvdra.node.parts import NodePaths, claim_context
from nvdra.node.steps import Actor
from nvdra.ports import Clock, Host


def gpu_context(
    gates: Gates,
    pool: str,
    paths: NodePaths,
    host: Host,
    edits: EditsProvider,
    mig: MigActor,
    time_slices: TimeSliceActor,
    inventory: Callable[[], Inventory],
    *,
    clock: Clock,
    mps: MpsActor | None = None,
    fabric: FabricActor | None = None,
    vfio: VfioActor | None = None,
    sharing: Sharing = UNSHARED,
    rescan: Callable[[], Coroutine[Any, Any, None]],
    on_checkpoint: Callable[[Checkpoint], None] = lambda _checkpoint: None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    hooks: Hooks = NO_HOOKS,
) -> tuple[ClaimContext, CheckpointFile]:
    """gpu.nvidia.com on this node.

    fabric   needed with gate FabricManagerPartitioning
    mps      needed with gate MPSSupport
    vfio     needed with gate PassthroughSupport
    """
    actors: dict[str, Actor] = {
        CreatePartition.kind: mig,
        LeaveMigMode.kind: mig,
        SetTimeSlice.kind: time_slices,
        **({} if mps is None else {StartMpsDaemon.kind: mps}),
        **({} if fabric is None else {ActivateFabricPartition.kind: fabric}),
        **({} if vfio is None else {BindVfio.kind: vfio}),
    }

    def former_locks(address: str) -> Iterable[str]:
        # Earlier releases named a GPU's lock by its UUID.
        uuid = inventory().uuid_of(address)
        return () if uuid is None else (uuid,)

    return claim_context(
        GpuDriver(gates, sharing),
        pool,
        paths,
        host,
        edits,
        actors,
        inventory,
        clock=clock,
        rescan=rescan,
        on_checkpoint=on_checkpoint,
        former_locks=former_locks,
        former_kind=CreatePartition.kind,  # the one kind of step that they knew, by "<profile id>@<start>"
        lock_timeout_s=lock_timeout_s,
        hooks=hooks,
        has_metadata=gates.enabled(DEVICE_METADATA),
    )
