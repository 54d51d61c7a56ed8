"""A full GPU and its twin for virtual machines: never both allocatable, whatever the API server keeps count of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nvdra.api import gates
from nvdra.checkpoint import Checkpoint
from nvdra.gpu.shares import NOT_SHARED, Shares
from nvdra.kube import ResourceApi
from nvdra.node.gpu.desired_pool import DesiredPool
from nvdra.node.publication import Publication
from nvdra.ports import Resource
from nvdra.slices import Pool
from nvdra.testing.kube import FakeKube
from tests.unit.node.vfio_world import VfioWorld, gpu_address, look
from tests.unit.node.world import POOL

NODES = Resource("", "v1", "nodes", namespaced=False)
DROPS = ("sharedCounters", "consumesCounters")


class Published:
    """What the node of a world has published, on an API server of its own."""

    def __init__(self, world: VfioWorld, *, shares: Shares = NOT_SHARED, **server: Any) -> None:
        self._world = world
        self.kube = FakeKube(clock=world.clock, **server)
        self.publication = Publication(
            ResourceApi(self.kube), world.clock, Pool("gpu.nvidia.com", POOL), has_counters=True, jitter=lambda: 1.0
        )
        self.pool = DesiredPool(
            self.publication,
            gates.parse("PassthroughSupport=true"),
            lambda: world.inventory,
            lambda: True,
            shares=shares,
        )

    async def start(self) -> None:
        await self.kube.create(NODES, b'{"metadata":{"name":"node-a"}}')
        self._running = asyncio.create_task(self.publication.run())
        await self.seen()

    async def stop(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def seen(self) -> None:
        """The plugin sees the checkpoint as it is."""
        try:
            checkpoint = self._world.checkpoint()
        except FileNotFoundError:
            checkpoint = Checkpoint("boot")
        self.pool.checkpoint_changed(checkpoint)
        self.pool.renew()
        for _ in range(3):
            await self._world.clock.settle()

    def devices(self) -> dict[str, Any]:
        slices = self.kube.objects("resourceslices")
        return {device["name"]: device for each in slices for device in each["spec"].get("devices", ())}

    def counter_sets(self) -> dict[str, Any]:
        slices = self.kube.objects("resourceslices")
        return {made["name"]: made["counters"] for each in slices for made in each["spec"].get("sharedCounters", ())}


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    made = VfioWorld(tmp_path)
    made.start()
    yield made
    await made.stop()


async def serve(world: VfioWorld, look_at: Callable[[Published], Awaitable[None]], **server: Any) -> None:
    published = Published(world, **server)
    await published.start()
    try:
        await look_at(published)
    finally:
        await published.stop()


@pytest.mark.parametrize("version", ["v1.34.1", "v1.36.0"])
async def test_twins_consume_one_counter_so_that_the_scheduler_allocates_one_of_them(
    world: VfioWorld, version: str
) -> None:
    async def look_at(published: Published) -> None:
        devices = published.devices()
        assert set(devices) == {f"gpu-{n}" for n in range(4)} | {f"gpu-vfio-{n}" for n in range(4)}
        for number in range(4):
            consumed = devices[f"gpu-{number}"]["consumesCounters"]
            assert consumed == devices[f"gpu-vfio-{number}"]["consumesCounters"]
            assert consumed == [
                {"counterSet": f"gpu-vfio-{number}-counter-set", "counters": {"gpu": {"value": "1"}}},
            ]
            assert published.counter_sets()[consumed[0]["counterSet"]] == {"gpu": {"value": "1"}}
        ref = await world.claim("vm", "gpu-vfio-1")
        await world.prepared(ref)
        await published.seen()
        assert set(published.devices()) == set(devices) - {"gpu-1"}, "which NVML does not show any more"
        await world.released(ref)
        await published.seen()
        assert published.devices() == devices

    await serve(world, look_at, server_version=version)


@pytest.mark.parametrize("device", ["gpu-1", "gpu-vfio-1"])
async def test_without_counters_the_twin_of_a_claimed_device_is_withdrawn_after_a_restart_too(
    world: VfioWorld, device: str
) -> None:
    other = {"gpu-1": "gpu-vfio-1", "gpu-vfio-1": "gpu-1"}[device]
    everything = {f"gpu-{n}" for n in range(4)} | {f"gpu-vfio-{n}" for n in range(4)}
    ref = await world.claim("one", device)

    async def before(published: Published) -> None:
        devices = published.devices()
        assert set(devices) == everything
        assert not any(DROPS[1] in each for each in devices.values())
        await world.prepared(ref)
        await published.seen()
        assert set(published.devices()) == everything - {other}

    async def after(published: Published) -> None:
        assert set(published.devices()) == everything - {other}
        await world.released(ref)
        await published.seen()
        assert set(published.devices()) == everything

    await serve(world, before, server_version="v1.34.1", drops=DROPS)
    await world.restart()
    look(world)
    await serve(world, after, server_version="v1.34.1", drops=DROPS)


async def test_a_claim_that_was_begun_withdraws_the_twin_too(world: VfioWorld) -> None:
    world.holding[195, 0] = ["process 99 (python3)"]
    ref = await world.claim("vm", "gpu-vfio-0")
    await world.refused(ref)
    assert world.state(ref) == "PrepareStarted"

    async def look_at(published: Published) -> None:
        assert "gpu-0" not in published.devices()

    await serve(world, look_at, server_version="v1.34.1", drops=DROPS)
    world.holding.clear()
    await world.prepared(ref)


async def test_where_gpus_are_shared_the_twin_is_withdrawn_whatever_is_counted(world: VfioWorld) -> None:
    await world.prepared(await world.claim("pod", "gpu-2"))

    async def look_at(published: Published) -> None:
        devices = published.devices()
        assert ("gpu-2" in devices, "gpu-vfio-2" in devices) == (True, False)
        assert devices["gpu-3"]["allowMultipleAllocations"] is True
        assert "allowMultipleAllocations" not in devices["gpu-vfio-3"]

    await serve(world, look_at, server_version="v1.36.0", shares=Shares("unlimited"))


async def test_attributes_and_capacity_are_the_go_drivers(world: VfioWorld) -> None:
    world.host.write(
        "/usr/share/misc/pci.ids",
        "10dd  Other\n\t2330  Not this one\n10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n"
        "\t\t10de 16c1  A subsystem\n\t2331  GH100 [H100 PCIe]\n10df  Emulex\n",
    )
    world.host.put_device("/host-root/dev/iommu", 10, 127)
    look(world)

    async def look_at(published: Published) -> None:
        device = published.devices()["gpu-vfio-2"]
        attributes = {name: next(iter(value.values())) for name, value in device["attributes"].items()}
        assert attributes == {
            "deviceID": "0x2330",
            "iommuFDEnabled": True,
            "productName": "GH100 [H100 SXM5 80GB]",
            "resource.kubernetes.io/numaNode": 0,
            "resource.kubernetes.io/pciBusID": gpu_address(2),
            "type": "vfio",
            "uuid": "403f902d-fd43-5185-a4bb-21b64c0f5e36",
            "vendorID": "0x10de",
        }
        # 16 MiB, 128 GiB and 32 MiB, rounded up to a power of two.
        assert device["capacity"] == {"addressableMemory": {"value": "256Gi"}}

    await serve(world, look_at, server_version="v1.36.0")


async def test_mig_devices_on_a_gpu_keep_its_twin_from_being_offered(world: VfioWorld) -> None:
    from dataclasses import replace

    from nvdra.gpu import Partitions, with_twins
    from nvdra.host import look_at_bus
    from tests.unit.gpu.scans import instance
    from tests.unit.node.world import ROOT

    partitioned = replace(
        world.inventory, partitions={gpu_address(0): Partitions(is_on=True, instances=(instance(19, 0, 1),))}
    )
    facts = look_at_bus(world.host, ROOT).facts
    found = with_twins(partitioned, facts, world.parts.look(facts))
    assert [twin.name for twin in found.twins] == ["gpu-vfio-1", "gpu-vfio-2", "gpu-vfio-3"]
    assert "MIG devices are on its GPU" in found.why_absent("gpu-vfio-0")


async def test_names_count_all_gpus_of_the_bus_in_the_order_of_their_addresses(world: VfioWorld) -> None:
    world.kernel.add("10000:e1:00.0", group=90, driver="")
    world.kernel.add("0000:00:06.0", group=91, driver="")
    look(world)
    assert [(twin.name, twin.pci_bus_id) for twin in world.inventory.twins] == [
        ("gpu-vfio-0", "0000:00:06.0"),
        *((f"gpu-vfio-{minor + 1}", gpu_address(minor)) for minor in range(4)),
        ("gpu-vfio-5", "10000:e1:00.0"),
    ]
