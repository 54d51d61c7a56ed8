"""The program dies after every single effect of passthrough: on files, drivers of PCI functions, persistence modes.

Whatever is asked next, a fresh program comes to the end of the same story told without a death: the same files, the
same drivers. Told on nodes with one, four and eight GPUs.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from nvdra.checkpoint import Entry
from nvdra.gpu.extents import held_extents
from nvdra.node.checkpoint_writer import Change
from nvdra.node.gpu.actors.vfio import VfioActor
from tests.crash.sample import Sample
from tests.crash.story import Act, Node, Story, prepare, then, told, unprepare, wake
from tests.unit.node.vfio_world import VfioWorld, actor, audio_address, gpu_address, lay, vfio
from tests.unit.node.world import C


class VfioNode(Node):
    """A node whose claims have GPUs for virtual machines."""

    smi = VfioWorld.smi
    gpu_count: int
    kernel: Any
    parts: Any

    def __init__(self, folder: Path, gpus: int) -> None:
        super().__init__(folder)
        lay(self, gpus)

    def make_vfio(self) -> VfioActor:
        return actor(self)

    async def add(self, name: str, *devices: Any, **iommu: Any) -> Any:
        self.refs[name] = await self.claim(name, *devices, config=vfio(**iommu) if iommu else None)
        return self.refs[name]

    async def wakes(self) -> None:
        self.on_rescan()
        await self.warm()
        await self.timely(self.sweep.settle())
        await self.timely(self.sweep.half_prepared())
        await self.timely(self.sweep.leftovers())
        upkeep = self.parts.upkeep(self.context, lambda: self.inventory, lambda: self.file.is_quarantined)
        await self.timely(upkeep.clean_up())

    # ── what must hold ─────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """A completed claim of a virtual machine has all functions of its GPUs' slots; a pod's GPU is never bound."""
        super().check()
        for minor in range(self.gpu_count):
            if gpu_address(minor) in self._passed_through():
                assert self._drivers(minor) == ("vfio-pci", "vfio-pci")
            elif gpu_address(minor) in self._held():
                assert self._drivers(minor) == ("nvidia", "snd_hda_intel")

    def check_settled(self) -> None:
        """Nothing is half done: every other GPU is as it was, reserved for no driver, with its persistence mode."""
        taken = self._passed_through()
        for minor in range(self.gpu_count):
            is_taken = gpu_address(minor) in taken
            assert self._drivers(minor) == (("vfio-pci", "vfio-pci") if is_taken else ("nvidia", "snd_hda_intel"))
            assert self.smi.persistence[gpu_address(minor)] != is_taken
            for address in (gpu_address(minor), audio_address(minor)):
                assert self.kernel.overrides().get(address) == ("vfio-pci" if is_taken else None)

    def _drivers(self, minor: int) -> tuple[str, str]:
        return self.kernel.driver(gpu_address(minor)), self.kernel.driver(audio_address(minor))

    def _held(self) -> set[str]:
        return {extent.gpu for e in self.completed().values() for extent in held_extents(e, self.inventory)}

    def _passed_through(self) -> set[str]:
        return {
            device.info.pci_bus_id
            for entry in self.completed().values()
            for group in entry.prepared
            for device in group.devices
            if device.type == "vfio"
        }

    def end(self) -> object:
        return self.files(), self.kernel.drivers(), self.kernel.overrides(), self.smi.persistence


# ── beginnings ─────────────────────────────────────────────────────────────────────────────────────────────────


async def fresh(node: VfioNode) -> None:
    await node.warm()
    last = node.gpu_count - 1
    await node.add("vm", "gpu-vfio-0", backendPolicy="LegacyOnly", enableAPIDevice=True)
    await node.add("all", *(f"gpu-vfio-{minor}" for minor in range(node.gpu_count)))
    if last:
        await node.prepared(await node.add("pod", f"gpu-{last}"))
        await node.add("pair", "gpu-vfio-0", f"gpu-{last - 1}" if last > 1 else "gpu-vfio-0")


def prepared(*names: str) -> Act:
    return then(fresh, prepare(*names))


async def bound_before(node: VfioNode) -> None:
    """An administrator bound the GPU at the start of the node, and keeps it so."""
    await fresh(node)
    node.kernel.writes.clear()


async def begun_by_the_go_driver(node: VfioNode) -> None:
    """It died between unbind and bind: the GPU has no driver, its audio function neither, and there is no journal."""
    await fresh(node)
    ref = node.refs["vm"]
    claim = next(each for each in node.kube.objects("resourceclaims") if each["metadata"]["uid"] == ref.uid)
    entry = Entry("PrepareStarted", json.dumps(claim["status"]).encode(), (), ref.name, ref.namespace)
    await node.checkpoint_writer.submit(lambda _checkpoint: Change(None, entries={ref.uid: entry}))
    node.smi.persistence[gpu_address(0)] = False
    for address in (gpu_address(0), audio_address(0)):
        node.kernel(f"/sys/bus/pci/devices/{address}/driver_override", b"vfio-pci")
    node.kernel(f"/sys/bus/pci/devices/{gpu_address(0)}/driver/unbind", gpu_address(0).encode())


async def deserted(node: VfioNode) -> None:
    """The entry is gone and the GPU is still bound."""
    await prepared("vm")(node)
    ref = node.refs["vm"]
    await node.checkpoint_writer.submit(lambda _checkpoint: Change(None, entries={ref.uid: None}))
    await node.host.remove(f"{C}/k8s.gpu.nvidia.com-claim_{ref.uid}.yaml")


def refuse(name: str) -> Act:
    return lambda node: node.refused(node.refs[name])


def refused_binding(act: Act) -> Act:
    async def forbid(node: VfioNode) -> None:
        await act(node)
        node.kernel.refuse("drivers/vfio-pci/bind")

    return forbid


async def relent(node: VfioNode) -> None:
    node.kernel.relent()


STORIES = {
    "prepare": Story(fresh, prepare("vm"), prepare("vm")),
    "prepare, then released": Story(fresh, prepare("vm"), unprepare("vm")),
    "unprepare": Story(prepared("vm"), unprepare("vm"), unprepare("vm")),
    "unprepare, then prepared": Story(prepared("vm"), unprepare("vm"), prepare("vm")),
    "binding is refused": Story(refused_binding(fresh), refuse("vm"), then(relent, prepare("vm"))),
    "binding is refused, then released": Story(refused_binding(fresh), refuse("vm"), then(relent, unprepare("vm"))),
    "begun by the Go driver": Story(begun_by_the_go_driver, prepare("vm"), prepare("vm")),
    "begun by the Go driver, then released": Story(begun_by_the_go_driver, unprepare("vm"), unprepare("vm")),
    "begun by the Go driver, rolled back": Story(begun_by_the_go_driver, wake, wake),
    "deserted": Story(deserted, wake, wake),
}
MANY = {
    "prepare beside a pod's GPU": Story(fresh, prepare("pair"), prepare("pair")),
    "unprepare beside a pod's GPU": Story(prepared("pair"), unprepare("pair"), unprepare("pair")),
}
CASES = [
    *(pytest.param(1, name, id=f"one GPU: {name}") for name in STORIES),
    *(pytest.param(4, name, id=f"four GPUs: {name}") for name in (*STORIES, *MANY)),
    *(pytest.param(8, name, id=f"eight GPUs: {name}") for name in ("prepare", "unprepare", *MANY)),
]


@pytest.mark.parametrize(("gpus", "name"), CASES)
async def test_every_death_comes_to_the_same_end(memory: Path, sample: Sample, gpus: int, name: str) -> None:
    story = {**STORIES, **MANY}[name]
    end, _ = await told(VfioNode(memory / "whole", gpus), story, None)
    case = [param.values for param in CASES].index((gpus, name))
    has_died, deaths, died = True, sample.first(case) if gpus > 1 else 0, 0
    while has_died:
        node = VfioNode(memory / f"after-{deaths}", gpus)
        reached, has_died = await told(node, story, deaths, asks_first=deaths % 2 == 1)
        assert reached == end, f"after {deaths} effects"
        deaths += sample.step if gpus > 1 else 1
        died += has_died
    assert died, "the act has no effects"


async def all_of(node: VfioNode) -> None:
    """A virtual machine with every GPU of the node."""
    await node.warm()
    await node.add("all", *(f"gpu-vfio-{minor}" for minor in range(node.gpu_count)))


ALL = {
    "prepare": Story(all_of, prepare("all"), prepare("all")),
    "unprepare": Story(then(all_of, prepare("all")), unprepare("all"), unprepare("all")),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("gpus", [4, 8])
async def test_every_death_of_a_claim_with_all_gpus_comes_to_the_same_end(
    memory: Path, sample: Sample, gpus: int, name: str
) -> None:
    """The GPUs' effects come in turn, so that of eight GPUs every fifth death meets each kind of effect."""
    end, _ = await told(VfioNode(memory / "whole", gpus), ALL[name], None)
    has_died, deaths = True, sample.first(list(ALL).index(name))
    while has_died:
        node = VfioNode(memory / f"after-{deaths}", gpus)
        reached, has_died = await told(node, ALL[name], deaths, asks_first=deaths % 2 == 1)
        assert reached == end, f"after {deaths} effects"
        deaths += sample.step if gpus == 4 else 5 * sample.step


async def test_dying_again_and_again_changes_nothing(memory: Path) -> None:
    """Each fresh program gets one effect further than the one before it."""
    story = Story(fresh, prepare("vm"), prepare("vm"))
    end, _ = await told(VfioNode(memory / "whole", 4), story, None)
    node = VfioNode(memory / "node", 4)
    await node.boot()
    await story.begin(node)
    for effects in range(80):
        node.host.kill_after(effects)
        if not await node.dies(asyncio.ensure_future(story.act(node))):
            break
        await node.restart()
    else:
        pytest.fail("it never gets through")
    await node.restart()
    await node.wakes()
    await story.again(node)
    node.check_settled()
    assert node.end() == end
    await node.stop()
