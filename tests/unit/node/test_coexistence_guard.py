"""The coexistence guard on virtual time, with a kubelet that answers, is away, hangs or talks nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from nvdra.gpu import Inventory
from nvdra.kubelet.pod_resources import ContainerDevice, PodResourcesError
from nvdra.node.gpu.coexistence_guard import ASK_EVERY_S, FORGET_AFTER_S, CoexistenceGuard
from nvdra.node.hooks import Report
from nvdra.testing.clock import VirtualClock
from tests.unit.claims.world import claim, prepared
from tests.unit.gpu.scans import inventory, uuid_of


class Kubelet:
    """Answers with `given`, raises `error`, or hangs."""

    def __init__(self) -> None:
        self.given: tuple[ContainerDevice, ...] = ()
        self.error: Exception | None = None
        self.hangs = False
        self.calls = 0

    def give(self, *minors: int) -> None:
        self.given = tuple(
            ContainerDevice("ns", f"pod-{minor}", "main", "nvidia.com/gpu", uuid_of(minor)) for minor in minors
        )

    async def devices(self, *, timeout_s: float) -> tuple[ContainerDevice, ...]:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return self.given


class World:
    def __init__(self, *, enforces: bool = True) -> None:
        self.clock = VirtualClock()
        self.kubelet = Kubelet()
        self.inventory: Inventory = inventory(4)
        self.tainted: list[set[str]] = []
        self.reports: list[Report] = []
        self.guard = CoexistenceGuard(
            self.kubelet,
            self.clock,
            lambda: self.inventory,
            self._changed,
            self.reports.append,
            enforces=enforces,
        )
        self._running = asyncio.create_task(self.guard.run())

    def _changed(self, given: Mapping[str, Any]) -> None:
        self.tainted.append(set(given))

    @property
    def refused(self) -> set[str]:
        return set(self.guard.view(self.inventory).refused)

    async def passes(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.clock.settle()

    async def stop(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.clock.settle()
    yield world
    await world.stop()


async def test_what_is_given_out_is_refused_and_tainted_until_it_is_freed(world: World) -> None:
    world.kubelet.give(1)
    await world.passes(ASK_EVERY_S)
    assert world.refused == {"gpu-1"}
    assert "pod ns/pod-1" in world.guard.view(world.inventory).refused["gpu-1"]
    world.kubelet.give()
    await world.passes(ASK_EVERY_S)
    assert world.refused == set()
    assert world.tainted == [{"gpu-1"}, set()]


async def test_a_prepare_hears_of_it_at_once(world: World) -> None:
    world.kubelet.give(2)
    await world.guard.refresh()
    assert world.refused == {"gpu-2"}


async def test_prepares_of_one_moment_ask_once(world: World) -> None:
    asked = world.kubelet.calls
    await asyncio.gather(*(world.guard.refresh() for _ in range(8)))
    assert world.kubelet.calls == asked + 1


@pytest.mark.parametrize("error", [PodResourcesError("the socket is missing"), ValueError("odd")])
async def test_without_an_answer_no_prepare_asks_or_waits(world: World, error: Exception) -> None:
    world.kubelet.error = error
    await world.passes(ASK_EVERY_S)
    asked = world.kubelet.calls
    await world.guard.refresh()
    assert world.kubelet.calls == asked
    assert world.refused == set()
    # It is asked on in the background, and heard once it answers.
    world.kubelet.error = None
    world.kubelet.give(0)
    await world.passes(ASK_EVERY_S)
    assert world.refused == {"gpu-0"}


async def test_a_kubelet_that_hangs_delays_one_prepare_by_half_a_second_and_no_other(world: World) -> None:
    world.kubelet.hangs = True
    first = asyncio.create_task(world.guard.refresh())
    await world.clock.settle()
    assert not first.done()
    await world.passes(0.5)
    assert first.done()
    now = world.clock.now()
    await world.guard.refresh()
    assert world.clock.now() == now


async def test_a_restart_of_kubelet_frees_nothing_a_long_silence_does(world: World) -> None:
    world.kubelet.give(3)
    await world.passes(ASK_EVERY_S)
    world.kubelet.error = PodResourcesError("connection refused")
    await world.passes(2 * ASK_EVERY_S)
    assert world.refused == {"gpu-3"}
    for _ in range(int(FORGET_AFTER_S / ASK_EVERY_S) + 1):
        await world.passes(ASK_EVERY_S)
    assert world.refused == set()
    assert world.tainted[-1] == set()


async def test_another_inventory_is_looked_through_again(world: World) -> None:
    world.kubelet.give(5)
    await world.passes(ASK_EVERY_S)
    assert world.refused == set()
    world.inventory = inventory(6)
    assert world.refused == {"gpu-5"}


async def test_warning_refuses_and_taints_nothing_and_reports_double_use() -> None:
    world = World(enforces=False)
    try:
        world.guard.checkpoint_changed(prepared(claim("u1", "gpu-1")))
        world.kubelet.give(1)
        await world.passes(ASK_EVERY_S)
        assert (world.refused, world.tainted) == (set(), [])
        (report,) = world.reports
        assert report.reason == "DeviceInUseTwice"
        assert "gpu-1" in report.text
        assert "pod ns/pod-1" in report.text
        # Once, however often the checkpoint changes; again when another pod has it.
        world.guard.checkpoint_changed(prepared(claim("u1", "gpu-1"), claim("u2", "gpu-2")))
        assert len(world.reports) == 1
    finally:
        await world.stop()
