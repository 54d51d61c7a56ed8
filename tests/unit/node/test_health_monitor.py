"""The health monitor on virtual time, with an event session that does what a test says."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nvdra.gpu import Inventory, from_scan
from nvdra.gpu.health import XID_EVENT
from nvdra.node.gpu.fault_store import SETTLE_S, FaultStore
from nvdra.node.gpu.health_file import HealthFile
from nvdra.node.gpu.health_monitor import LOOK_S, REOPEN_S, HealthMonitor
from nvdra.nvml import DriverAbsent, EventsClosed, NvmlError, NvmlHung, Watched
from nvdra.testing.clock import VirtualClock
from nvdra.testing.host import FakeHost
from tests.unit.gpu import scans

FOLDER = "/plugins"
ONE, TWO = "0000:00:06.0", "0000:01:06.0"
XID, LOST, UNMONITORED = (f"gpu.nvidia.com/{kind}" for kind in ("xid", "gpu-lost", "unmonitored"))
WELL = Watched(kinds=XID_EVENT, action=0, links=18)


class Session:
    """An event session whose GPUs answer as the test says."""

    def __init__(self) -> None:
        self.gpus: dict[str, Watched] = {ONE: WELL, TWO: WELL}
        self.opened: list[frozenset[str]] = []
        self.error: Exception | None = None
        self.is_open = False
        self._events: list[tuple[str, int, int, int, int]] = []
        self._woken = asyncio.Event()

    async def open(self, addresses: Iterable[str], wanted: int) -> Mapping[str, Watched]:
        if isinstance(self.error, DriverAbsent):
            raise self.error
        self.opened.append(frozenset(addresses))
        self.is_open = True
        return {address: self.gpus.get(address, Watched(error="not found")) for address in addresses}

    async def look(self, addresses: Iterable[str]) -> Mapping[str, Watched]:
        if not self.is_open:
            raise EventsClosed
        return {address: self.gpus[address] for address in addresses}

    async def next(self) -> list[tuple[str, int, int, int, int]]:
        if not self.is_open:
            raise EventsClosed
        if not self._events and self.error is None:
            self._woken.clear()
            await self._woken.wait()
        if self.error is not None:
            raise self.error
        events, self._events = self._events, []
        return events

    @asynccontextmanager
    async def released(self) -> AsyncIterator[None]:
        self.is_open = False
        self.wake()
        yield

    def wake(self) -> None:
        self._woken.set()

    def fire(self, address: str, *xids: int, gi_id: int = 0xFFFFFFFF) -> None:
        self._events += [(address, XID_EVENT, xid, gi_id, 0xFFFFFFFF) for xid in xids]
        self.wake()

    def fail(self, error: Exception | None) -> None:
        self.error = error
        self.wake()


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    (tmp_path / FOLDER.strip("/")).mkdir()
    return FakeHost(tmp_path)


class Counts:
    def __init__(self) -> None:
        self.events: Counter[tuple[str, str]] = Counter()
        self.taints: Mapping[tuple[str, str], int] = {}

    def event(self, kind: str, effect: str) -> None:
        self.events[kind, effect] += 1

    def tainted(self, counts: Mapping[tuple[str, str], int]) -> None:
        self.taints = dict(counts)


class World:
    """A monitor on a node with two GPUs."""

    def __init__(self, host: FakeHost, clock: VirtualClock) -> None:
        self.clock, self.host = clock, host
        self.session = Session()
        self.inventory = from_scan(scans.node_scan(scans.h200_scan(0), scans.h200_scan(1)), {})
        self.counts = Counts()
        self.published: list[dict[str, list[tuple[str, str, str]]]] = []
        self.reread_error: Exception | None = None
        self.rereads = self.rescans = 0
        self.after_reread: Inventory | None = None
        self.store = FaultStore(
            self.clock,
            HealthFile(self.host, FOLDER),
            lambda: self.inventory,
            self.counts,
            lambda: self.published.append(self.taints),
        )
        self.monitor = HealthMonitor(
            self.session,
            self.clock,
            self.store,
            lambda: self.inventory,
            reread=self._reread,
            rescan=self._rescan,
            metrics=self.counts,
        )
        self.task = asyncio.create_task(self.monitor.run())

    @property
    def taints(self) -> dict[str, list[tuple[str, str, str]]]:
        return {
            name: [(fault.key, fault.value, fault.effect) for fault in faults]
            for name, device in self.inventory.devices.items()
            if (faults := self.store.faults_of(device))
        }

    async def passed(self, seconds: float) -> None:
        """Let time pass; the session waits for events in short turns, as NVML does."""
        for _ in range(round(seconds)):
            self.session.wake()
            await self.clock.advance(1.0)
        await self.clock.settle()

    async def _reread(self, _address: str) -> None:
        self.rereads += 1
        if self.reread_error is not None:
            raise self.reread_error
        if self.after_reread is not None:
            self.inventory = self.after_reread

    async def _rescan(self) -> None:
        self.rescans += 1


@asynccontextmanager
async def running(host: FakeHost, clock: VirtualClock | None = None) -> AsyncIterator[World]:
    world = World(host, clock or VirtualClock())
    await world.clock.settle()
    try:
        yield world
    finally:
        world.task.cancel()
        await asyncio.gather(world.task, return_exceptions=True)


async def test_a_burst_is_stored_and_published_at_once_and_once_more(host):
    async with running(host) as world:
        for xid in range(48, 148):
            world.session.fire(ONE, xid)
            await world.clock.settle()
        await world.passed(SETTLE_S + 1)
        assert [taints["gpu-0"][0][2] for taints in world.published] == ["NoSchedule"] * 2
        assert world.published[-1] == {"gpu-0": [(XID, "147", "NoSchedule")]}


async def test_ten_thousand_events_are_two_publications(host):
    async with running(host) as world:
        world.session.fire(ONE, *range(1, 5_001))
        world.session.fire(TWO, *range(1, 5_001))
        await world.passed(SETTLE_S + 1)
        assert len(world.published) <= 2
        assert world.taints.keys() == {"gpu-0", "gpu-1"}
        assert sum(world.counts.events.values()) == 10_000


async def test_a_fault_ends_a_minute_later_and_a_program_s_within_a_quarter(host):
    async with running(host) as world:
        world.session.fire(ONE, 48)
        world.session.fire(TWO, 31)
        await world.passed(9)
        assert world.taints == {"gpu-0": [(XID, "48", "NoSchedule")], "gpu-1": [(XID, "31", "None")]}
        await world.passed(10)
        assert world.taints == {"gpu-0": [(XID, "48", "NoSchedule")]}
        await world.passed(40)
        assert world.taints
        await world.passed(1 + LOOK_S + 1)
        assert world.taints == {}
        await world.passed(SETTLE_S + 1)
        assert world.published[-1] == {}


async def test_taints_survive_a_restart_and_recover_in_the_next_process(host):
    clock = VirtualClock()
    async with running(host, clock) as world:
        world.session.fire(ONE, 48)
        await world.passed(5)
    async with running(host, clock) as world:
        assert world.taints == {"gpu-0": [(XID, "48", "NoSchedule")]}
        await world.passed(50)
        assert world.taints
        await world.passed(LOOK_S + 2)
        assert world.taints == {}


async def test_a_reboot_voids_the_faults(host):
    async with running(host) as world:
        world.session.fire(ONE, 48)
        await world.passed(2)
    kept = json.loads(host.read(f"{FOLDER}/device-health.json"))
    await host.replace(
        f"{FOLDER}/device-health.json", json.dumps({**kept, "bootID": "another"}).encode(), mode=0o600, durable=False
    )
    async with running(host) as world:
        assert world.taints == {}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"bootID": 1}', b"\xff"])
async def test_a_file_that_cannot_be_read_costs_nothing_else(host, content):
    await host.replace(f"{FOLDER}/device-health.json", content, mode=0o600, durable=False)
    async with running(host) as world:
        world.session.fire(ONE, 48)
        await world.passed(2)
        assert world.taints == {"gpu-0": [(XID, "48", "NoSchedule")]}
        assert json.loads(host.read(f"{FOLDER}/device-health.json"))["faults"]


async def test_only_the_lost_gpu_is_tainted_and_it_comes_back(host):
    async with running(host) as world:
        world.session.gpus[TWO] = Watched(error="GPU is lost", is_lost=True, is_held=False)
        world.session.fail(NvmlError(15, "nvmlEventSetWait_v2", "GPU is lost"))
        await world.clock.settle()
        world.session.error = None
        await world.passed(5)
        assert world.taints == {"gpu-1": [(LOST, "", "NoSchedule")]}
        world.session.fire(ONE, 48)
        await world.clock.settle()
        assert world.taints["gpu-0"] == [(XID, "48", "NoSchedule")]
        lost_for = world.session.opened
        await world.passed(2 * REOPEN_S)
        assert len(lost_for) >= 3, "it is looked at again and again"
        assert world.taints["gpu-1"] == [(LOST, "", "NoSchedule")]
        world.session.gpus[TWO] = WELL
        await world.passed(REOPEN_S + 60 + LOOK_S + 2)
        assert world.taints == {}


async def test_a_lost_gpu_that_the_inventory_dropped_is_scanned_for_when_it_answers(host):
    async with running(host) as world:
        world.session.gpus[TWO] = Watched(error="GPU is lost", is_lost=True, is_held=False)
        world.session.fail(NvmlError(15, "nvmlEventSetWait_v2", "GPU is lost"))
        await world.clock.settle()
        world.session.error = None
        world.inventory = from_scan(scans.node_scan(scans.h200_scan(0)), {})
        await world.passed(5)
        verdicts = {each.device: each.verdict for each in world.store.verdicts()}
        assert verdicts == {"gpu-0": "healthy"}
        assert world.rescans == 0
        world.session.gpus[TWO] = WELL
        await world.passed(REOPEN_S + 2)
        assert world.rescans >= 1


async def test_an_error_of_nvml_while_waiting_is_no_fault_of_a_gpu(host):
    async with running(host) as world:
        world.session.fail(NvmlError(999, "nvmlEventSetWait_v2", "Unknown Error"))
        await world.passed(20)
        assert world.taints == {}
        world.session.error = None
        await world.passed(31)
        world.session.fire(ONE, 48)
        await world.clock.settle()
        assert world.taints.keys() == {"gpu-0"}
        assert world.counts.events["nvml-error", ""] < 10, "it pauses between tries"


@pytest.mark.parametrize("error", [DriverAbsent("the kernel module is not loaded"), None])
async def test_gpus_are_unmonitored_while_nvml_is_gone(host, error):
    async with running(host) as world:
        hung: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        world.session.fail(error or NvmlHung("nvmlEventSetWait_v2", 10, "GPUs are not monitored until it does", hung))
        await world.passed(3)
        assert world.taints == {name: [(UNMONITORED, "", "None")] for name in ("gpu-0", "gpu-1")}
        world.session.error = None
        await world.passed(31)
        assert world.taints == {}


async def test_a_gpu_without_xid_events_is_unmonitored_and_the_other_is_watched(host):
    async with running(host) as world:
        world.session.gpus[TWO] = Watched(kinds=0, action=0)
        world.inventory = from_scan(scans.node_scan(scans.h200_scan(0), scans.h200_scan(1), scans.h200_scan(2)), {})
        world.session.gpus["0000:02:06.0"] = Watched(error="nvmlDeviceRegisterEvents: Unknown Error")
        await world.passed(2)
        world.session.fire(ONE, 48)
        await world.passed(2)
        assert world.taints == {
            "gpu-0": [(XID, "48", "NoSchedule")],
            "gpu-1": [(UNMONITORED, "", "None")],
            "gpu-2": [(UNMONITORED, "", "None")],
        }
        world.session.gpus["0000:02:06.0"] = WELL
        await world.passed(REOPEN_S + 1)
        assert "gpu-2" not in world.taints


async def test_a_gpu_that_waits_for_a_reset_is_tainted_until_it_was_reset(host):
    async with running(host) as world:
        world.session.fire(ONE, 79)
        world.session.gpus[ONE] = Watched(kinds=XID_EVENT, action=1, links=18, is_held=False)
        await world.passed(70)
        assert [key for key, _, _ in world.taints["gpu-0"]] == ["gpu.nvidia.com/recovery-action", XID]
        world.session.gpus[ONE] = WELL
        await world.passed(2 * REOPEN_S)
        assert world.taints == {}


async def test_the_partition_of_an_event_is_looked_up_again(host):
    async with running(host) as world:
        gpu = scans.h200_scan(0, scans.instance(19, 0, 1))
        more = scans.h200_scan(0, scans.instance(19, 0, 1), scans.instance(19, 1, 1))
        world.inventory = from_scan(scans.node_scan(gpu), {})
        world.after_reread = from_scan(scans.node_scan(more), {})
        world.session.fire(ONE, 48, gi_id=2)
        await world.passed(2)
        assert world.taints == {"gpu-0-mig-1g18gb-19-1": [(XID, "48", "NoSchedule")]}


async def test_a_partition_that_cannot_be_looked_up_is_not_unhealthy(host):
    async with running(host) as world:
        world.inventory = from_scan(scans.node_scan(scans.h200_scan(0, scans.instance(19, 0, 1))), {})
        world.reread_error = NvmlError(999, "nvmlDeviceGetGpuInstances", "Unknown Error")
        world.session.fire(ONE, 48, gi_id=2)
        await world.passed(30)
        assert world.taints == {}
        assert world.counts.events["unattributed", ""] == 1
        assert world.rereads == 3


async def test_an_administrator_clears_a_fault_that_keeps_coming_back(host):
    async with running(host) as world:
        for _ in range(3):
            world.session.fire(ONE, 48)
            await world.passed(70)
        await world.passed(4000)
        assert world.taints == {"gpu-0": [(XID, "48", "NoSchedule")]}
        assert "stays until it is cleared" in world.store.shown()[0]
        with pytest.raises(LookupError, match="device gpu-1 has no fault"):
            await world.monitor.clear("gpu-1")
        assert await world.monitor.clear("gpu-0") == [f"{XID}=48:NoSchedule of GPU {ONE}"]
        await world.passed(2)
        assert world.taints == {}


async def test_what_still_lasts_is_found_again_after_a_clearing(host):
    async with running(host) as world:
        world.session.fire(ONE, 79)
        world.session.gpus[ONE] = Watched(kinds=XID_EVENT, action=2)
        await world.passed(10)
        await world.monitor.clear()
        await world.passed(2)
        assert world.taints == {"gpu-0": [("gpu.nvidia.com/recovery-action", "node-reboot", "NoSchedule")]}


async def test_a_pause_lets_go_of_every_gpu_and_a_resume_watches_them_again(host):
    async with running(host) as world:
        await world.monitor.pause()
        assert not world.session.is_open
        assert world.taints == {name: [(UNMONITORED, "", "None")] for name in ("gpu-0", "gpu-1")}
        await world.monitor.resume()
        await world.passed(2)
        assert world.session.is_open
        assert world.taints == {}


async def test_events_of_gpus_that_nobody_knows_are_ignored(host):
    async with running(host) as world:
        world.session.fire("", 48)
        await world.passed(2)
        assert world.store.health.faults == {}
        world.session.fire(ONE, 48)
        await world.passed(2)
        assert world.taints.keys() == {"gpu-0"}


async def test_metrics_count_events_and_tainted_devices(host):
    async with running(host) as world:
        world.session.fire(ONE, 48, 48, 31)
        await world.passed(2)
        assert world.counts.events == {("xid", "NoSchedule"): 2, ("xid", "None"): 1}
        assert world.counts.taints == {(XID, "NoSchedule"): 1}
