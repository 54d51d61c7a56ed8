"""The plugin as a process, and `nvdra vfio give-back`, on a mock node with a kernel behind its PCI bus."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra.testing.pci_bus import lay_bus
from tests.contract.plugin_node import PluginNode, plugin_node
from tests.waiting import until

GATES: dict[str, Any] = {"feature_gates": "PassthroughSupport=true"}
NVDRA = str(Path(sys.executable).with_name("nvdra"))
CONFIG = {
    "apiVersion": "resource.nvidia.com/v1beta1",
    "kind": "VfioDeviceConfig",
    "iommu": {"backendPolicy": "LegacyOnly", "enableAPIDevice": True},
}


class VfioNode:
    """A node, and its kernel. NVML shows the GPUs that the NVIDIA driver has."""

    def __init__(self, node: PluginNode) -> None:
        self.node = node
        self._minors = {gpu.pci_bus_id: gpu.minor for gpu in node.root.portrait.gpus}
        self.kernel = lay_bus(node.root.sysfs, self._minors, self._has_driver)

    def _has_driver(self, address: str, driver: str) -> None:
        if (minor := self._minors.get(address)) is not None:
            (self.node.root.show_gpu if driver == "nvidia" else self.node.root.hide_gpu)(minor)

    async def start(self, **flags: Any) -> None:
        await self.node.start(**GATES, host_root=str(self.node.root.sysfs.parent), **flags)

    def devices(self) -> dict[str, Any]:
        slices = self.node.kube.objects("resourceslices")
        return {device["name"]: device for each in slices for device in each["spec"].get("devices", ())}

    def gpus(self) -> dict[str, str]:
        """Drivers of GPUs, by address."""
        return {address: self.kernel.driver(address) for address in self._minors}


@pytest.fixture
async def made() -> AsyncIterator[VfioNode]:
    async with plugin_node("h100x8") as node:
        vfio = await asyncio.to_thread(VfioNode, node)
        try:
            yield vfio
        finally:
            await node.stop(signal.SIGKILL)
            await asyncio.to_thread(vfio.kernel.close)


async def test_a_gpu_is_bound_for_a_claim_and_given_back_after_a_death(made: VfioNode) -> None:
    node, before = made.node, made.gpus()
    await made.start()
    everything = {f"gpu-{number}" for number in range(8)} | {f"gpu-vfio-{number}" for number in range(8)}
    await until(lambda: made.devices().keys() == everything, "all GPUs and their twins")
    ref = await node.claim("gpu-vfio-2", parameters=CONFIG)
    assert await node.prepared(ref) == ["gpu-vfio-2"]
    address = sorted(before)[2]
    assert made.gpus() == before | {address: "vfio-pci"}
    assert made.kernel.driver(f"{address[:-1]}1") == "vfio-pci"
    (device,) = yaml.safe_load(node.cdi_path(ref).read_text())["devices"]
    group = os.readlink(made.node.root.sysfs / "bus/pci/devices" / address / "iommu_group").rpartition("/")[2]
    given = [each["path"] for each in device["containerEdits"]["deviceNodes"]]
    assert sorted(given) == sorted(["/dev/vfio/vfio", f"/dev/vfio/{group}"])
    await until(lambda: "gpu-2" not in made.devices(), "the full GPU to be unpublished")
    pod = await node.claim("gpu-1")
    await node.prepared(pod)
    await node.stop(signal.SIGKILL)
    await made.start()
    assert await node.prepared(ref) == ["gpu-vfio-2"]
    await node.released(ref, pod)
    assert made.gpus() == before
    assert made.kernel.overrides() == {}
    await until(lambda: "gpu-2" in made.devices(), "the full GPU to be published again")


async def test_a_gpu_that_a_death_left_without_driver_is_recovered_at_the_start(made: VfioNode) -> None:
    before = made.gpus()
    address = sorted(before)[0]
    made.kernel.give(address, "")
    await made.start()
    await until(lambda: made.gpus() == before, "the GPU's driver")
    await until(lambda: "gpu-0" in made.devices(), "the full GPU to be published")


async def test_uninstalling_gives_bound_gpus_back(made: VfioNode) -> None:
    node, before = made.node, made.gpus()
    first, second, last = sorted(before)[0], sorted(before)[1], sorted(before)[7]
    made.kernel.give(last, "vfio-pci")  # an administrator's
    await made.start()
    await node.prepared(await node.claim("gpu-vfio-0", parameters=CONFIG))
    await node.stop()
    made.kernel.give(second, "")
    command = [NVDRA, "vfio", "give-back", "--yes", f"--container-driver-root={node.root.root}"]
    command += [f"--kubelet-plugins-directory-path={node.plugin_dir.parent}"]
    environ = os.environ | {"NVDRA_SYSFS": str(node.root.sysfs), "NVDRA_PROCFS": str(node.root.procfs)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)

    ended = await asyncio.to_thread(run)
    assert (ended.returncode, made.gpus()) == (0, before | {last: "vfio-pci"}), ended
    assert ended.stdout.splitlines() == [
        f"GPUs to give back: {first}, {second}",
        f"{first}: given back",
        f"{second}: given back",
    ]
    again = await asyncio.to_thread(run)
    assert (again.returncode, again.stdout) == (
        0,
        "no GPU of this node is bound to vfio-pci by a claim, and none is without driver\n",
    )
