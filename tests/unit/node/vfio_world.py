"""A node that passes GPUs through: functions on a PCI bus with a kernel behind it, processes that hold devices."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nvdra.gpu import from_scan, with_twins
from nvdra.host import look_at_bus
from nvdra.node.gpu.actors.vfio import VfioActor
from nvdra.node.gpu.holders import Seen
from nvdra.node.gpu.vfio_parts import VfioParts
from nvdra.node.locks import FOLDER
from nvdra.ports import Device
from nvdra.testing.nvidia_smi import FakeNvidiaSmi
from nvdra.testing.pci_kernel import FakePciKernel
from tests.unit.gpu.scans import gpu_scan, node_scan, uuid_of
from tests.unit.node.world import GPUS, LIBRARIES, ROOT, VERSION, World

HOST_ROOT = "/host-root"
PERSISTENCED = "process 812 (nvidia-persistenced)"


def gpu_address(minor: int) -> str:
    return f"0000:{minor + 1:02x}:00.0"


def audio_address(minor: int) -> str:
    return f"0000:{minor + 1:02x}:00.1"


def vfio(**iommu: Any) -> list[dict[str, Any]]:
    """A config for virtual machines."""
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "VfioDeviceConfig", "iommu": iommu}
    return [{"source": "FromClaim", "opaque": {"driver": "gpu.nvidia.com", "parameters": parameters}}]


class ClosedNvml:
    """NVML that closes whenever it is asked to; `is_closed` says whether it is."""

    def __init__(self) -> None:
        self.is_closed = False
        self.refusals: list[Exception] = []

    @asynccontextmanager
    async def kept_closed(self) -> AsyncIterator[None]:
        if self.refusals:
            raise self.refusals.pop(0)
        self.is_closed = True
        try:
            yield
        finally:
            self.is_closed = False


def lay(world: Any, gpus: int) -> None:
    """What a node has that passes GPUs through: each GPU with an audio function in an IOMMU group of its own."""
    world.gates = "PassthroughSupport=true"
    world.gpu_count = gpus
    world.nvml = ClosedNvml()
    world.holding = {}
    world.looks = []
    world.kernel = FakePciKernel(world.folder, world.host, drivers=("nvidia", "snd_hda_intel", "vfio-pci", "mlx5_core"))
    for minor in range(gpus):
        world.kernel.add(gpu_address(minor), group=10 + minor, minor=minor)
        world.kernel.add(audio_address(minor), kind=0x040300, device=0x22BA, driver="snd_hda_intel", group=10 + minor)
        world.host.put_device(f"/driver/dev/nvidia{minor}", 195, minor)
    world.host.write("/driver/usr/bin/nvidia-smi", b"")
    smi = world.host.programs["nvidia-smi"] = FakeNvidiaSmi([uuid_of(minor) for minor in range(gpus)])
    smi.persistence = {gpu_address(minor): True for minor in range(gpus)}
    (world.folder / f"{LIBRARIES}/libnvidia-ml.so.1".strip("/")).symlink_to(f"libnvidia-ml.so.{VERSION}")
    (world.folder / f"plugins/gpu.nvidia.com/{FOLDER}").mkdir(parents=True, exist_ok=True)
    world.kernel.is_held = lambda address: bool(_holders(world, address))
    world.on_rescan = lambda: look(world)
    look(world)


def actor(world: Any) -> VfioActor:
    """The actor of the program that starts now."""

    async def seen(numbers: frozenset[Device]) -> Seen:
        world.looks.append(numbers)
        held = [
            (pair, words)
            for minor in range(world.gpu_count)
            for pair, words in _holders(world, gpu_address(minor))
            if pair in numbers
        ]
        return Seen(tuple(held))

    world.parts = VfioParts(world.host, world.clock, ROOT, HOST_ROOT, world.nvml, lambda: look(world), seen)
    return world.parts.actor


def look(world: Any) -> None:
    """A scan: NVML shows the GPUs that the NVIDIA driver has."""
    bus = look_at_bus(world.host, ROOT)
    shown = [gpu_scan(m) for m in range(world.gpu_count) if world.kernel.driver(gpu_address(m)) == "nvidia"]
    found = from_scan(node_scan(*shown), bus.facts, before=world.inventory)
    parts = VfioParts(world.host, world.clock, ROOT, HOST_ROOT, world.nvml, lambda: None)
    world.inventory = with_twins(found, bus.facts, parts.look(bus.facts))


def _holders(world: Any, address: str) -> list[tuple[Device, str]]:
    bus = int(address[5:7], 16)
    numbers = [(195, bus - 1), (240, 9 + bus)]
    held = [(pair, words) for pair in numbers for words in world.holding.get(pair, ())]
    smi = world.host.programs["nvidia-smi"]
    if smi.persistence.get(address) and world.kernel.driver(address) == "nvidia":
        held.append(((195, bus - 1), PERSISTENCED))
    return held


class VfioWorld(World):
    """`holding` has the words for processes that hold devices, by number."""

    gpu_count: int
    nvml: ClosedNvml
    kernel: FakePciKernel
    holding: dict[Device, list[str]]
    looks: list[frozenset[Device]]
    parts: VfioParts

    def __init__(self, folder: Path, gpus: int = GPUS) -> None:
        super().__init__(folder)
        lay(self, gpus)

    def make_vfio(self) -> VfioActor:
        return actor(self)

    def beside(self) -> VfioWorld:
        """Another program on the same node, as in an update."""
        other = copy.copy(self)
        other.host = self.host.revive()
        other.start()
        return other

    @property
    def smi(self) -> FakeNvidiaSmi:
        program = self.host.programs["nvidia-smi"]
        assert isinstance(program, FakeNvidiaSmi)
        return program

    def is_as_before(self) -> bool:
        """Whether every function has the driver that it had, reserved for none, and every GPU its persistence mode."""
        is_bound = all(
            driver == ("nvidia" if address.endswith(".0") else "snd_hda_intel")
            for address, driver in self.kernel.drivers().items()
        )
        return is_bound and not self.kernel.overrides() and all(self.smi.persistence.values())
