"""A node with NVSwitches: a Fabric Manager that activates partitions of its GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvdra_mock_nvml.fabric import halves

from nvdra.gpu import Inventory, from_scan
from nvdra.node.gpu.actors.fabric import FabricActor
from nvdra.node.gpu.fabric import MODULES, Fabric
from nvdra.node.locks import FOLDER
from nvdra.testing.fabric import FakeFabric
from tests.unit.gpu.scans import gpu_scan, node_scan
from tests.unit.node.world import P, World, lay_driver


def inventory_of(gpus: int, **changes: Any) -> Inventory:
    """GPUs whose module ids are their minor numbers plus one."""
    return from_scan(node_scan(*(gpu_scan(minor, module_id=minor + 1, **changes) for minor in range(gpus))), {})


def lay(world: Any, gpus: int) -> None:
    """What a node with a fabric has."""
    world.gates = "FabricManagerPartitioning=true"
    world.inventory = inventory_of(gpus)
    world.changes = 0
    (world.folder / f"{P}/{FOLDER}".strip("/")).mkdir(exist_ok=True)
    lay_driver(world.host, gpus)
    world.manager = FakeFabric(enumerate(halves(list(range(1, gpus + 1)))))


def fabric(world: Any, manager: Any) -> Fabric:
    """Fabric Manager as the program that starts now has it."""

    def changed() -> None:
        world.changes += 1

    return Fabric(manager, world.host, world.clock, f"{P}/{MODULES}", lambda: True, changed)


class FabricWorld(World):
    """A node with `gpus` GPUs; partition 0 has all of them."""

    manager: FakeFabric
    changes: int

    def __init__(self, folder: Path, gpus: int = 8) -> None:
        super().__init__(folder)
        lay(self, gpus)

    def make_fabric(self) -> FabricActor:
        self.fabric = fabric(self, self.manager)
        return FabricActor(self.fabric, self.clock)

    def seen(self) -> Inventory:
        return self.fabric.of(self.inventory)
