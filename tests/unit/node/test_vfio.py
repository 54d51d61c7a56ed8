"""GPUs for virtual machines: bound with all functions of their slot, and given back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvdra import cdi
from tests.unit.node.vfio_world import VfioWorld, audio_address, gpu_address
from tests.unit.node.world import cdi_path


@pytest.fixture
def world(tmp_path: Path) -> VfioWorld:
    return VfioWorld(tmp_path)


async def test_all_functions_of_the_slot_are_bound_and_given_back(world: VfioWorld) -> None:
    world.start()
    ref = await world.claim("vm", "gpu-vfio-1")
    assert await world.prepared(ref) == ["gpu-vfio-1"]
    assert world.kernel.driver(gpu_address(1)) == "vfio-pci"
    assert world.kernel.driver(audio_address(1)) == "vfio-pci"
    assert "gpu-1" not in world.inventory.devices
    document = cdi.parse((world.folder / cdi_path(ref).strip("/")).read_bytes())
    (device,) = document.devices
    assert [node.path for node in device.edits.device_nodes] == ["/dev/vfio/11"]
    assert device.edits.env == ("NVIDIA_VISIBLE_DEVICES=void",)
    await world.released(ref)
    assert world.is_as_before()
    assert "gpu-1" in world.inventory.devices
    await world.stop()
