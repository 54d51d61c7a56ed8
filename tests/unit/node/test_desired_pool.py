"""The offer: what is published of an inventory, given what the checkpoint holds; and what the log says of it, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import pytest

from nvdra import telemetry
from nvdra.api import gates
from nvdra.checkpoint import Checkpoint
from nvdra.gpu import Inventory
from nvdra.node.gpu.desired_pool import DesiredPool
from tests.unit.claims.world import claim, h200s, mig_prepared
from tests.unit.gpu.scans import h200_scan, instance, inventory
from tests.unit.node.mig_world import half, small

NONE = Checkpoint("boot")


class Node:
    """An offer, what it published and what it logged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inventory: Inventory = h200s(h200_scan(0), h200_scan(1))
        self.has_gpus = True
        self.published: list[tuple[set[str], Set[str], int]] = []
        self.logged: list[str] = []
        self.desired_pool = DesiredPool(
            self, gates.parse("DynamicMIG=true"), lambda: self.inventory, lambda: self.has_gpus
        )  # type: ignore[arg-type]
        monkeypatch.setattr(telemetry, "warning", self._log)
        monkeypatch.setattr(telemetry, "info", lambda level, text, **more: level or self._log(text, **more))

    def publish(
        self,
        devices: Sequence[Any],
        *,
        withdrawn: Set[str],
        counter_sets: Sequence[Mapping[str, Any]],
        uncounted_withdrawn: Set[str],
    ) -> None:
        self.published.append(({device["name"] for device in devices}, withdrawn, len(counter_sets)))

    def _log(self, text: str, **more: object) -> None:
        self.logged.append(f"{text}: {', '.join(map(str, more.values()))}")

    def partitioned(self, *instances: Any) -> None:
        self.inventory = h200s(h200_scan(0, *instances), h200_scan(1))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


def test_a_device_is_announced_once_and_not_with_every_scan(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[str] = []
    monkeypatch.setattr(telemetry, "info", lambda level, text, **_: announced.append(text) if level == 4 else None)
    node.desired_pool.checkpoint_changed(NONE)
    assert sorted(announced) == sorted(f"About to announce device {name}" for name in node.inventory.devices)
    announced.clear()
    node.desired_pool.renew()
    assert announced == []
    node.inventory, whole = h200s(h200_scan(0)), node.inventory
    node.desired_pool.renew()
    node.inventory = whole
    node.desired_pool.renew()
    assert announced
    assert all("gpu-1" in text for text in announced)


def test_nothing_is_published_before_the_checkpoint_is_known(node: Node) -> None:
    node.desired_pool.renew()
    assert node.published == []
    node.desired_pool.checkpoint_changed(NONE)
    ((names, withdrawn, counters),) = node.published
    assert names == set(node.inventory.devices)
    assert (withdrawn, counters) == (frozenset(), 2)


def test_a_checkpoint_that_unpublishes_nothing_causes_no_publication(node: Node) -> None:
    node.desired_pool.checkpoint_changed(NONE)
    node.desired_pool.checkpoint_changed(mig_prepared(claim("c1", small(0))))
    assert len(node.published) == 1
    node.desired_pool.renew()
    assert len(node.published) == 2


def test_devices_that_overlap_an_unmanaged_partition_are_unpublished_and_logged_once(node: Node) -> None:
    node.desired_pool.checkpoint_changed(NONE)
    node.partitioned(instance(19, 3, 1))
    for _ in range(2):
        node.desired_pool.renew()
    assert {"gpu-0", small(3)} <= node.published[-1][1]
    assert half(4) not in node.published[-1][1]
    partition = f"GPU instance 4 (profile 19, memory slice 3) of gpu-0 ({h200_scan().uuid})"
    assert [line for line in node.logged if partition in line] == [
        "A partition that this driver did not make keeps what overlaps it from being offered: destroy it "
        f"(nvidia-smi mig -dci, -dgi), or leave that to who made it: {partition}"
    ]
    (line,) = (line for line in node.logged if line.startswith("Devices are not offered"))
    assert line.endswith(f": {sorted(node.published[-1][1])}")
    node.partitioned()
    node.desired_pool.renew()
    assert node.logged[-1] == f"A partition that this driver did not make is gone: {partition}"
    assert node.published[-1][1] == frozenset()


def test_a_claim_that_leaves_its_partition_behind_makes_it_somebody_else_s(node: Node) -> None:
    checkpoint = mig_prepared(claim("c1", small(3)))
    node.partitioned(instance(19, 3, 1))
    node.desired_pool.checkpoint_changed(checkpoint)
    assert node.published[-1][1] == frozenset()
    node.desired_pool.checkpoint_changed(NONE)
    assert small(3) in node.published[-1][1]


def test_what_cannot_be_read_now_stays_as_it_is(node: Node) -> None:
    node.desired_pool.checkpoint_changed(NONE)
    node.inventory = Inventory(unread="no driver is loaded")
    node.desired_pool.renew()
    node.inventory = Inventory()
    node.desired_pool.renew()  # GPUs are on the bus, and none of them is an NVML's
    assert len(node.published) == 1
    node.has_gpus = False
    node.desired_pool.renew()
    assert node.published[-1] == (set(), frozenset(), 0)


def test_what_could_be_read_before_is_offered_while_the_driver_is_away(node: Node) -> None:
    node.inventory = replace(inventory(), unread="no driver is loaded")
    node.desired_pool.checkpoint_changed(NONE)
    assert len(node.published[-1][0]) == 8
