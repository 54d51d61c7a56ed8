"""A GPU that NVML does not show keeps its lock and its journal: both are named by its PCI address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvdra.api import gates
from nvdra.gpu import HiddenGpu, Inventory
from nvdra.node.context import ClaimContext
from nvdra.node.gpu.actors.mig import MigActor
from nvdra.node.gpu.actors.timeslice import TimeSliceActor
from nvdra.node.gpu.edits_provider import GpuEditsProvider
from nvdra.node.gpu.parts import gpu_context
from nvdra.node.locks import ResourceLocks
from nvdra.node.parts import NodePaths
from nvdra.nvml import Nvml
from nvdra.testing.clock import VirtualClock
from nvdra.testing.host import FakeHost
from tests.unit.node.world import ROOT

ADDRESS, UUID, P = "0000:08:00.0", "GPU-7", "/plugins/gpu.nvidia.com"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    made = FakeHost(tmp_path)
    yield made
    made.close()


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[ResourceLocks]:
    """Locks of another program."""
    made = FakeHost(tmp_path)
    yield ResourceLocks(made, P)
    made.close()


def context(host: FakeHost, uuid: str | None) -> ClaimContext:
    """The node while the GPU is bound to another driver."""
    hidden = HiddenGpu(ADDRESS, "vfio-pci", "bound to vfio-pci", uuid)
    inventory = Inventory(hidden={ADDRESS: hidden})
    nvml = Nvml(lambda: None, VirtualClock())
    made, _ = gpu_context(
        gates.defaults(),
        "node-a",
        NodePaths(P, "/cdi"),
        host,
        GpuEditsProvider(host, ROOT, hook_path="/hook", host_root="/"),
        MigActor(nvml, lambda _address, _partitions: None),
        TimeSliceActor(lambda: None, lambda: inventory),
        lambda: inventory,
        clock=VirtualClock(),
        rescan=_nothing,
    )
    return made


async def _nothing() -> None:
    return


async def test_its_lock_under_the_uuid_of_earlier_releases_is_taken_too(host: FakeHost, theirs: ResourceLocks) -> None:
    locks = context(host, UUID).locks
    await locks.make_folder()
    host.write(f"{P}/.locks/{UUID}", "c1\nc1 19@0\n")
    assert locks.try_take("c1", [ADDRESS])
    assert not theirs.try_take("c2", [UUID])
    assert not theirs.try_take("c2", [ADDRESS])


async def test_without_a_known_uuid_its_address_alone_is_locked(host: FakeHost, theirs: ResourceLocks) -> None:
    locks = context(host, None).locks
    await locks.make_folder()
    host.write(f"{P}/.locks/{UUID}")
    assert locks.try_take("c1", [ADDRESS])
    locks.begin("c1", [ADDRESS])
    assert host.read(f"{P}/.locks/{ADDRESS}") == b"c1\n"
    assert theirs.try_take("c2", [UUID])
    assert not theirs.try_take("c2", [ADDRESS])
