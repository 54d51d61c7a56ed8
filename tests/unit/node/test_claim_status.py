"""`status.devices` of claims, written to an API server in memory on virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from nvdra import telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, PreparedDevice
from nvdra.kube import ResourceApi
from nvdra.node.claim_status import ClaimStatus
from nvdra.ports import Resource
from nvdra.testing.clock import VirtualClock
from nvdra.testing.kube import FakeKube
from tests.unit.claims.world import claim, prepared

CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
DRIVER = "gpu.nvidia.com"
APPLY = ("patch", "resourceclaims")


def describe(device: PreparedDevice) -> Mapping[str, Any]:
    return {"uuid": device.uuid, "minor": 3}


class World:
    def __init__(self, server: type[FakeKube] = FakeKube) -> None:
        self.clock = VirtualClock()
        self.kube = server(clock=self.clock)
        api = ResourceApi(self.kube)
        self.status = ClaimStatus(api, self.clock, DRIVER, describe, jitter=lambda: 1.0)
        self._running = asyncio.create_task(self.status.run())

    async def claim(self, device: str, name: str = "c") -> tuple[ClaimRef, Checkpoint]:
        """A claim with this device, and the checkpoint after it was prepared."""
        made = json.loads(await self.kube.create(CLAIMS, json.dumps({"metadata": {"name": name}}).encode(), "ns"))
        one = claim(made["metadata"]["uid"], device, name=name)
        made["status"] = json.loads(one.status)
        await self.kube.update(CLAIMS, name, json.dumps(made).encode(), "ns", subresource="status")
        return one.ref, prepared(one)

    async def told(self, checkpoint: Checkpoint) -> None:
        self.status.checkpoint_changed(checkpoint)
        await self.clock.settle()

    def devices(self, name: str = "c") -> list[dict[str, Any]]:
        (found,) = [each for each in self.kube.objects("resourceclaims") if each["metadata"]["name"] == name]
        devices: list[dict[str, Any]] = found["status"].get("devices", [])
        return devices

    @property
    def writes(self) -> int:
        return self.kube.calls[APPLY]

    async def stop(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


async def test_a_prepared_claim_says_which_hardware_it_has(world: World) -> None:
    _, checkpoint = await world.claim("gpu-3")
    await world.told(checkpoint)
    (device,) = world.devices()
    assert device["data"].pop("uuid").startswith("GPU-")
    assert device == {"driver": DRIVER, "pool": "node-a", "device": "gpu-3", "data": {"minor": 3}}


async def test_it_is_written_once_and_after_a_restart_once_more(world: World) -> None:
    _, checkpoint = await world.claim("gpu-3")
    for _ in range(3):
        await world.told(Checkpoint(checkpoint.boot_id, dict(checkpoint.entries)))
    assert world.writes == 1


async def test_entries_of_another_driver_stay_as_they_are(world: World) -> None:
    ref, checkpoint = await world.claim("gpu-3")
    other = {"driver": "nic.example.com", "pool": "p", "device": "eth0", "data": {"ip": "10.0.0.1"}}
    body = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": ref.name, "namespace": "ns"},
        "status": {"devices": [other]},
    }
    await world.kube.apply(CLAIMS, ref.name, json.dumps(body).encode(), "ns", manager="nic", subresource="status")
    await world.told(checkpoint)
    assert {device["driver"] for device in world.devices()} == {"nic.example.com", DRIVER}
    assert other in world.devices()


async def test_another_manager_of_our_entry_is_not_overruled(world: World) -> None:
    ref, checkpoint = await world.claim("gpu-3")
    theirs = {"driver": DRIVER, "pool": "node-a", "device": "gpu-3", "data": {"uuid": "mine"}}
    body = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": ref.name, "namespace": "ns"},
        "status": {"devices": [theirs]},
    }
    await world.kube.apply(CLAIMS, ref.name, json.dumps(body).encode(), "ns", manager="somebody", subresource="status")
    await world.told(checkpoint)
    await world.clock.advance(3600)
    assert world.devices() == [theirs]
    assert world.writes == 2  # theirs and one of ours: it is not tried again


@pytest.mark.parametrize("state", ["PrepareStarted", "PrepareAborted"])
async def test_a_claim_that_is_not_prepared_says_nothing(world: World, state: Any) -> None:
    ref, checkpoint = await world.claim("gpu-3")
    await world.told(Checkpoint("boot", {ref.uid: replace(checkpoint.entries[ref.uid], state=state)}))
    assert world.writes == 0


async def test_an_entry_without_a_name_cannot_be_told(world: World) -> None:
    ref, checkpoint = await world.claim("gpu-3")
    await world.told(Checkpoint("boot", {ref.uid: replace(checkpoint.entries[ref.uid], name="", namespace="")}))
    assert world.writes == 0


@pytest.mark.parametrize(("status", "within_s"), [(500, 60), (0, 60), (429, 60), (403, 600)])
async def test_a_failed_write_is_repeated(world: World, status: int, within_s: float) -> None:
    _, checkpoint = await world.claim("gpu-3")
    world.kube.fail(status, times=2, verb="patch")
    await world.told(checkpoint)
    assert world.devices() == []
    await world.clock.advance(within_s)
    await world.clock.settle()
    assert len(world.devices()) == 1


@pytest.mark.parametrize("status", [409, 422])
async def test_a_refusal_that_stays_is_not_repeated(world: World, status: int) -> None:
    _, checkpoint = await world.claim("gpu-3")
    world.kube.fail(status, verb="patch")
    await world.told(checkpoint)
    await world.clock.advance(3600)
    assert world.writes == 1


async def test_a_claim_that_is_gone_is_not_asked_for_again(world: World) -> None:
    ref, checkpoint = await world.claim("gpu-3")
    await world.kube.delete(CLAIMS, ref.name, "ns")
    await world.told(checkpoint)
    await world.clock.advance(3600)
    assert world.writes == 1
    assert world.kube.objects("resourceclaims") == []


async def test_one_claim_that_fails_keeps_no_other_waiting(world: World) -> None:
    _, first = await world.claim("gpu-3", "a")
    _, second = await world.claim("gpu-2", "b")
    world.kube.fail(500, verb="patch")
    await world.told(Checkpoint("boot", {**first.entries, **second.entries}))
    assert sorted(len(world.devices(name)) for name in ("a", "b")) == [0, 1]
    await world.clock.advance(60)
    assert [len(world.devices(name)) for name in ("a", "b")] == [1, 1]


async def test_a_claim_made_anew_under_the_same_name_is_not_told(world: World) -> None:
    ref, checkpoint = await world.claim("gpu-3")
    await world.kube.delete(CLAIMS, ref.name, "ns")
    await world.claim("gpu-2")
    await world.told(checkpoint)
    assert world.devices() == []


async def test_a_device_of_two_requests_is_listed_once(world: World) -> None:
    ref, checkpoint = await world.claim("gpu-3")
    entry = checkpoint.entries[ref.uid]
    (group,) = entry.prepared
    twice = replace(group, devices=(*group.devices, *group.devices))
    await world.told(Checkpoint("boot", {ref.uid: replace(entry, prepared=(twice,))}))
    assert len(world.devices()) == 1


class WithoutTheFeature(FakeKube):
    """Kubernetes 1.32 as it comes: `status.devices` is forgotten without a word."""

    async def apply(self, *args: Any, **more: Any) -> bytes:
        stored = json.loads(await super().apply(*args, **more))
        stored["status"].pop("devices", None)
        return json.dumps(stored).encode()


async def test_a_server_that_forgets_the_field_is_not_written_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(telemetry, "warning", lambda text, **_: told.append(text))
    world = World(WithoutTheFeature)
    try:
        _, first = await world.claim("gpu-3", "a")
        await world.told(first)
        _, second = await world.claim("gpu-2", "b")
        await world.told(second)
        assert world.writes == 1
        (line,) = told
        assert "DRAResourceClaimDeviceStatus" in line
    finally:
        await world.stop()
