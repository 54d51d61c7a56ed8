"""The seam's proof: a driver that `claims` and `node` never heard of is served by them whole."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from nvdra import cdi
from nvdra.api import ClaimRef
from nvdra.checkpoint import Entry
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.kube import ResourceApi
from nvdra.kubelet import time_left_s
from nvdra.node.checkpoint_writer import Change
from nvdra.node.claim_service import ClaimService, Failure
from nvdra.node.parts import NodePaths, claim_context, claim_parts
from nvdra.node.publication import Publication
from nvdra.ports import Resource
from nvdra.slices import Pool
from nvdra.telemetry.metrics import DriverMetrics
from nvdra.testing.clock import VirtualClock
from nvdra.testing.host import FakeHost
from nvdra.testing.kube import FakeKube
from tests.unit.node.tiny_driver import (
    KIND,
    NAME,
    AbortingLampDriver,
    LampActor,
    LampDriver,
    LampEdits,
    Room,
    SwitchOn,
    published,
)

T = TypeVar("T")

POOL, P, C = "node-a", f"/plugins/{NAME}", "/cdi"
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
NODES = Resource("", "v1", "nodes", namespaced=False)
SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)


class LampNode:
    """The neutral parts with the tiny driver in them; `start` is a fresh program on the same disk and lamps."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.room, self.edits, self.driver = folder, Room(), LampEdits(), LampDriver()
        self.clock = VirtualClock()
        self.kube = FakeKube(clock=self.clock)
        self.host = FakeHost(folder)
        for path in (P, C):
            (folder / path.strip("/")).mkdir(parents=True)

    async def start(self) -> None:
        self.registry = CollectorRegistry()
        metrics = DriverMetrics(self.registry, driver=NAME, node=POOL, device_types=self.driver.device_types)
        self.context, checkpoint_file = claim_context(
            self.driver,
            POOL,
            NodePaths(P, C),
            self.host,
            self.edits,
            {SwitchOn.kind: LampActor(self.room)},
            self.room.seen,
            clock=self.clock,
            rescan=_nothing,
        )
        await self.context.locks.make_folder()
        parts = claim_parts(self.context, checkpoint_file, self.host, self.clock, ResourceApi(self.kube), metrics)
        self.service: ClaimService = parts.service
        self.sweep = parts.sweep
        self.context.checkpoint_writer.start()
        await self.context.checkpoint_writer.submit(Change)

    async def stop(self) -> None:
        await self.context.checkpoint_writer.stop()
        self.host.close()

    async def restart(self) -> None:
        await self.stop()
        self.host = self.host.revive()
        await self.start()

    async def claim(self, name: str, *lamps: str, configs: Mapping[str, object] | None = None) -> ClaimRef:
        """An allocated claim. Each lamp has a request of its name; `configs` by request."""
        body: dict[str, Any] = {"metadata": {"name": name, "namespace": "ns"}, "spec": {}}
        made = json.loads(await self.kube.create(CLAIMS, json.dumps(body).encode(), "ns"))
        made["status"] = {
            "allocation": {
                "devices": {
                    "results": [{"request": lamp, "driver": NAME, "pool": POOL, "device": lamp} for lamp in lamps],
                    "config": [
                        {
                            "source": "FromClaim",
                            "requests": [lamp],
                            "opaque": {"driver": NAME, "parameters": parameters},
                        }
                        for lamp, parameters in (configs or {}).items()
                    ],
                }
            }
        }
        await self.kube.update(CLAIMS, name, json.dumps(made).encode(), "ns", subresource="status")
        return ClaimRef("ns", name, made["metadata"]["uid"])

    async def reserve(self, name: str, pod: str) -> None:
        """The claim's status names another pod."""
        claim = json.loads(await self.kube.get(CLAIMS, name, "ns"))
        claim["status"]["reservedFor"] = [{"resource": "pods", "name": pod, "uid": f"uid-of-{pod}"}]
        await self.kube.update(CLAIMS, name, json.dumps(claim).encode(), "ns", subresource="status")

    async def call(self, work: Any) -> Any:
        """The call's outcome; virtual time passes while it waits for nothing else."""
        task = asyncio.ensure_future(work)
        async with asyncio.timeout(60):
            while not task.done():
                done, _ = await asyncio.wait([task], timeout=0.02)
                if not done:
                    await self.clock.advance(1.0)
        return task.result()

    async def at_once(self, work: Awaitable[T]) -> T:
        """The call's outcome, without any time passing."""
        async with asyncio.timeout(60):
            return await work

    async def prepare(self, ref: ClaimRef) -> Any:
        return (await self.call(self.service.prepare([ref])))[ref.uid]

    async def unprepare(self, ref: ClaimRef) -> Failure | None:
        answer: Failure | None = (await self.call(self.service.unprepare([ref])))[ref.uid]
        return answer

    def state(self, ref: ClaimRef) -> str:
        entry = self.entry(ref)
        return "" if entry is None else entry.state

    def entry(self, ref: ClaimRef) -> Entry | None:
        content = self.host.read(f"{P}/checkpoint.json")
        return decode_checkpoint(content, self.driver.schema).entries.get(ref.uid)

    def counted(self, metric: str, operation: str) -> float | None:
        return self.registry.get_sample_value(metric, {"driver": NAME, "operation": operation})

    def lose_checkpoint(self) -> None:
        (self.folder / f"{P}/checkpoint.json".strip("/")).write_bytes(b"{")

    def document(self, ref: ClaimRef) -> cdi.Document:
        return cdi.parse(self.path(ref).read_bytes())

    def path(self, ref: ClaimRef) -> Path:
        return self.folder / f"{C}/{KIND.file_name(ref.uid)}".strip("/")


async def _nothing() -> None:
    return


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[LampNode]:
    made = LampNode(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def test_prepare_runs_the_step_and_its_fact_reaches_answer_and_container(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0")
    (device,) = await node.prepare(ref)
    assert (device.uuid, device.cdi_ids) == ("colour-of-lamp-0", (f"{KIND}={ref.uid}-lamp-0",))
    assert node.room.lamps == {"lamp-0": True, "lamp-1": False}
    document = node.document(ref)
    assert document.kind == "k8s.lamps.example.com/claim"
    assert document.devices[0].edits.env == ("COLOUR=colour-of-lamp-0", "BRIGHTNESS=1")
    assert node.state(ref) == "PrepareCompleted"


async def test_asked_again_nothing_is_switched_and_a_lost_file_is_written_again(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0")
    first, before = await node.prepare(ref), node.path(ref).read_bytes()
    node.path(ref).unlink()
    assert await node.prepare(ref) == first
    assert node.path(ref).read_bytes() == before
    assert node.room.switched == ["lamp-0 on"]


@pytest.fixture
async def aborting(tmp_path: Path) -> AsyncIterator[LampNode]:
    made = LampNode(tmp_path)
    made.driver = AbortingLampDriver()
    await made.start()
    yield made
    await made.stop()


async def half_prepared(node: LampNode) -> ClaimRef:
    """A claim whose first lamp is on, whose second one failed, and whose rollback failed too."""
    ref = await node.claim("a", "lamp-0", "lamp-1")
    node.room.broken.add("lamp-1")
    node.room.stuck.add("lamp-0")
    assert "the rollback failed" in (await node.prepare(ref)).error
    assert (node.state(ref), node.room.lamps["lamp-0"]) == ("PrepareStarted", True)
    node.room.broken.clear()
    node.room.stuck.clear()
    return ref


async def test_an_abandoned_claim_is_aborted_and_a_late_prepare_refused(aborting: LampNode) -> None:
    ref = await half_prepared(aborting)
    assert (await aborting.at_once(aborting.service.unprepare([ref])))[ref.uid] is None
    entry = aborting.entry(ref)
    assert entry is not None
    assert (entry.state, entry.prepared, entry.name, entry.namespace) == ("PrepareAborted", (), "a", "ns")
    assert entry.aborted_at == int(aborting.clock.wall())
    assert (aborting.room.lamps["lamp-0"], aborting.path(ref).exists()) == (False, False)
    late = (await aborting.at_once(aborting.service.prepare([ref])))[ref.uid]
    assert isinstance(late, Failure)
    assert late.permanent
    assert late.error == (
        f"error preparing devices for claim {ref}: stale prepare for claim {ref}: claim prepare was already aborted"
    )
    assert await aborting.unprepare(ref) is None, "kubelet asks more often than once"
    assert aborting.entry(ref) == entry


@pytest.fixture
async def resuming(tmp_path: Path) -> AsyncIterator[LampNode]:
    made = LampNode(tmp_path)
    made.driver = AbortingLampDriver(resumes=True)
    await made.start()
    yield made
    await made.stop()


async def test_a_resuming_driver_prepares_on_without_a_rollback(resuming: LampNode) -> None:
    ref = await half_prepared(resuming)
    resuming.room.switched.clear()
    await resuming.restart()
    await resuming.sweep.half_prepared()
    assert (resuming.state(ref), resuming.room.switched) == ("PrepareStarted", [])
    assert len(await resuming.prepare(ref)) == 2
    assert resuming.room.switched == ["lamp-0 on", "lamp-1 on"]


async def test_a_resuming_driver_rolls_back_a_claim_with_another_allocation(resuming: LampNode) -> None:
    ref = await half_prepared(resuming)
    resuming.room.switched.clear()
    claim = json.loads(await resuming.kube.get(CLAIMS, "a", "ns"))
    del claim["status"]["allocation"]["devices"]["results"][0]
    await resuming.kube.update(CLAIMS, "a", json.dumps(claim).encode(), "ns", subresource="status")
    assert len(await resuming.prepare(ref)) == 1
    assert "lamp-0 off" in resuming.room.switched
    assert resuming.room.lamps == {"lamp-0": False, "lamp-1": True}


async def test_an_aborted_claim_keeps_nobody_away(aborting: LampNode) -> None:
    ref = await half_prepared(aborting)
    await aborting.unprepare(ref)
    other = await aborting.claim("b", "lamp-0")
    assert len(await aborting.prepare(other)) == 1
    assert await aborting.unprepare(other) is None
    assert aborting.room.lamps["lamp-0"] is False


async def test_an_aborted_claim_is_prepared_again_after_ninety_seconds(aborting: LampNode) -> None:
    ref = await half_prepared(aborting)
    await aborting.at_once(aborting.service.unprepare([ref]))
    await aborting.clock.advance(89.0)
    late = (await aborting.at_once(aborting.service.prepare([ref])))[ref.uid]
    assert isinstance(late, Failure)
    await aborting.clock.advance(2.0)
    assert len(await aborting.prepare(ref)) == 2
    assert aborting.state(ref) == "PrepareCompleted"


async def test_an_aborted_claim_with_another_status_is_wanted_again(aborting: LampNode) -> None:
    ref = await half_prepared(aborting)
    await aborting.unprepare(ref)
    await aborting.reserve("a", "another-pod")
    assert len(await aborting.prepare(ref)) == 2


async def test_the_sweep_drops_aborted_claims_in_time(aborting: LampNode) -> None:
    ref = await half_prepared(aborting)
    await aborting.at_once(aborting.service.unprepare([ref]))
    await aborting.sweep.aborted()
    assert aborting.state(ref) == "PrepareAborted"
    await aborting.clock.advance(91.0)
    assert await aborting.sweep.aborted() <= 60.0
    assert aborting.state(ref) == ""


async def test_the_sweep_drops_an_aborted_claim_without_a_time(aborting: LampNode) -> None:
    ref = await half_prepared(aborting)
    await aborting.unprepare(ref)
    entry = aborting.entry(ref)
    assert entry is not None
    await aborting.context.checkpoint_writer.submit(
        lambda _checkpoint: Change(None, entries={ref.uid: replace(entry, aborted_at=None)})
    )
    await aborting.sweep.aborted()
    assert aborting.state(ref) == ""


async def test_the_sweep_aborts_a_half_prepared_claim_that_is_gone(aborting: LampNode) -> None:
    ref = await half_prepared(aborting)
    await aborting.kube.delete(CLAIMS, "a", "ns")
    await aborting.call(aborting.sweep.stale_claims())
    assert (aborting.state(ref), aborting.room.lamps["lamp-0"]) == ("PrepareAborted", False)
    await aborting.call(aborting.sweep.stale_claims())
    assert aborting.state(ref) == "PrepareAborted", "no GET is spent on it, and it stays until its time"


async def test_what_may_still_be_wanted_is_rolled_back_and_not_aborted(aborting: LampNode) -> None:
    """After a crash kubelet asks again."""
    ref = await half_prepared(aborting)
    await aborting.sweep.half_prepared()
    assert (aborting.state(ref), aborting.room.lamps["lamp-0"]) == ("", False)
    assert len(await aborting.prepare(ref)) == 2


async def test_a_half_prepared_claim_that_makes_room_for_another_is_not_aborted(aborting: LampNode) -> None:
    ref = await half_prepared(aborting)
    other = await aborting.claim("b", "lamp-0")
    assert len(await aborting.prepare(other)) == 1
    assert (aborting.state(ref), aborting.state(other)) == ("", "PrepareCompleted")


async def test_an_interrupted_teardown_is_continued_and_not_aborted(aborting: LampNode) -> None:
    ref = await aborting.claim("a", "lamp-0")
    await aborting.prepare(ref)
    aborting.room.broken.add("lamp-0")
    assert await aborting.unprepare(ref) is not None
    assert aborting.state(ref) == "PrepareStarted"
    aborting.room.broken.clear()
    assert await aborting.unprepare(ref) is None
    assert (aborting.state(ref), aborting.room.lamps["lamp-0"]) == ("", False)


async def test_a_driver_that_forgets_leaves_nothing_of_an_abandoned_claim(node: LampNode) -> None:
    ref = await half_prepared(node)
    assert await node.unprepare(ref) is None
    assert node.state(ref) == ""
    assert len(await node.prepare(ref)) == 2


BRIGHT = {"lamp-0": {"brightness": 7}, "lamp-1": {"brightness": 3}}


@pytest.mark.parametrize("is_dark", [False, True])
async def test_edits_by_config_and_fact_survive_the_loss_of_the_cdi_file(node: LampNode, is_dark: bool) -> None:
    """Also where a later release, or another gate, would not take the config any more."""
    ref = await node.claim("a", "lamp-1", "lamp-0", configs=BRIGHT)
    await node.prepare(ref)
    before = node.path(ref).read_bytes()
    assert [device.edits.env for device in node.document(ref).devices] == [
        ("COLOUR=colour-of-lamp-0", "BRIGHTNESS=7"),
        ("COLOUR=colour-of-lamp-1", "BRIGHTNESS=3"),
    ]
    node.driver = LampDriver(is_dark=is_dark)
    node.room.tint = "tone"  # the fact is the entry's, not what the node would say of a new claim
    await node.restart()
    node.path(ref).unlink()
    await node.sweep.files()
    assert node.path(ref).read_bytes() == before
    node.path(ref).write_bytes(b"something else")
    assert len(await node.prepare(ref)) == 2
    assert node.path(ref).read_bytes() == before


async def test_edits_by_config_and_fact_survive_the_loss_of_the_checkpoint(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-1", "lamp-0", configs=BRIGHT)
    first, before = await node.prepare(ref), node.path(ref).read_bytes()
    node.lose_checkpoint()
    await node.restart()
    await node.call(node.sweep.settle())
    node.path(ref).unlink()
    await node.sweep.files()
    assert node.path(ref).read_bytes() == before
    assert await node.prepare(ref) == first
    assert node.room.switched == ["lamp-1 on", "lamp-0 on"]


async def test_a_claim_without_common_edits_needs_none(node: LampNode) -> None:
    node.edits.has_common = False
    ref = await node.claim("a", "lamp-0", configs={"lamp-0": {"common": False}})
    assert len(await node.prepare(ref)) == 1
    document = node.document(ref)
    assert document.edits == cdi.Edits()
    assert document.devices[0].edits.env == ("COLOUR=colour-of-lamp-0", "BRIGHTNESS=1")
    other = await node.claim("b", "lamp-1")
    assert "what lamps have in common is missing" in (await node.prepare(other)).error


async def test_of_a_mixed_claim_each_device_has_the_common_edits_or_not(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0", "lamp-1", configs={"lamp-0": {"common": False}})
    await node.prepare(ref)
    document = node.document(ref)
    assert document.edits == cdi.Edits()
    assert ["LAMPS=1" in device.edits.env for device in document.devices] == [False, True]


async def test_a_claim_without_cdi_devices_has_no_file(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0", configs={"lamp-0": {"cdi": False}})
    (device,) = await node.prepare(ref)
    assert (device.cdi_ids, node.path(ref).exists(), node.room.lamps["lamp-0"]) == ((), False, True)
    assert await node.prepare(ref) == (device,)
    await node.sweep.files()
    assert not node.path(ref).exists()
    assert await node.unprepare(ref) is None
    assert (node.state(ref), node.room.lamps["lamp-0"]) == ("", False)


async def test_unprepare_rolls_the_step_back(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-1")
    await node.prepare(ref)
    assert await node.unprepare(ref) is None
    assert node.room.lamps["lamp-1"] is False
    assert (node.state(ref), node.path(ref).exists()) == ("", False)


async def test_a_step_that_fails_rolls_the_others_back(node: LampNode) -> None:
    node.room.broken.add("lamp-1")
    ref = await node.claim("a", "lamp-0", "lamp-1")
    answer = await node.prepare(ref)
    assert "prepare devices failed: lamp-1 cannot be switched" in answer.error
    assert node.room.lamps == {"lamp-0": False, "lamp-1": False}
    assert node.state(ref) == ""


async def test_a_withdrawal_that_cannot_be_written_keeps_entry_and_journal(node: LampNode) -> None:
    """Without its lines the entry alone would say what to roll back, whoever switched the lamp on."""
    node.room.broken.add("lamp-1")
    node.room.held = asyncio.Event()
    ref = await node.claim("a", "lamp-0", "lamp-1")
    assert "still being prepared" in (await node.prepare(ref)).error
    node.host.refuse("write", f"{P}/checkpoint.json", errno.ENOSPC)
    node.room.held.set()
    assert "No space left on device" in (await node.prepare(ref)).error
    assert node.state(ref) == "PrepareStarted"
    for lamp in ("lamp-0", "lamp-1"):
        assert ref.uid in (node.folder / f"{P}/.locks/{lamp}".strip("/")).read_text()
    node.host.forgive()
    assert await node.unprepare(ref) is None
    assert (node.state(ref), node.room.lamps["lamp-0"]) == ("", False)


async def test_at_the_deadline_the_answer_is_the_reason_and_the_retry_joins(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0")
    node.room.held = asyncio.Event()
    answer = await node.prepare(ref)
    assert answer.error.endswith(
        "still being prepared after 40 s: lamp-0 is slow; the work goes on, and kubelet's retry joins it"
    )
    assert node.state(ref) == "PrepareStarted"
    retry = asyncio.ensure_future(node.prepare(ref))
    await asyncio.sleep(0)
    node.room.held.set()
    (device,) = await retry
    assert device.device == "lamp-0"
    assert node.room.switched == ["lamp-0 on"]


@pytest.mark.parametrize("operation", ["prepare", "unprepare"])
async def test_a_claim_answered_at_the_deadline_is_counted_as_unfinished_then_once(
    node: LampNode, operation: str
) -> None:
    ref = await node.claim("a", "lamp-0")
    node.room.held = asyncio.Event()
    await node.prepare(ref)
    if operation == "unprepare":
        assert await node.unprepare(ref) is not None
    assert node.counted("nvidia_dra_requests_unfinished_total", operation) == 1
    assert node.counted("nvidia_dra_requests_total", operation) == 0
    assert node.counted("nvidia_dra_requests_inflight", "prepare") == 1
    node.room.held.set()
    await node.call(node.service.finish(30.0))
    assert node.counted("nvidia_dra_requests_unfinished_total", operation) == 1
    assert node.counted("nvidia_dra_requests_total", "prepare") == 1
    assert node.counted("nvidia_dra_requests_inflight", "prepare") == 0
    errors = {"driver": NAME, "error_type": "prepare_devices"}
    # kubelet got an error at the prepare's deadline in both cases.
    assert node.registry.get_sample_value("nvidia_dra_node_prepare_errors_total", errors) == 1


async def test_a_call_that_gives_less_time_is_answered_before_its_own_deadline(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0")
    node.room.held = asyncio.Event()
    time_left_s.set(20.0)
    assert "still being prepared after 15 s" in (await node.prepare(ref)).error
    time_left_s.set(6.0)
    assert "still being prepared after 3 s" in (await node.prepare(ref)).error
    node.room.held.set()


async def test_one_slow_claim_of_a_call_does_not_hold_the_others_back(node: LampNode) -> None:
    slow, quick = await node.claim("slow", "lamp-0"), await node.claim("quick", "lamp-1")
    await node.prepare(quick)
    node.room.held = asyncio.Event()
    answers = await node.call(node.service.prepare([slow, quick]))
    assert "still being prepared" in answers[slow.uid].error
    assert answers[quick.uid][0].device == "lamp-1"
    node.room.held.set()


async def test_an_unprepare_waits_for_a_slow_prepare_and_is_answered_at_its_deadline(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0")
    node.room.held = asyncio.Event()
    await node.prepare(ref)
    failure = await node.unprepare(ref)
    assert failure is not None
    assert "still being unprepared" in failure.error
    assert node.room.switched == [], "nothing is rolled back while the step runs"
    node.room.held.set()
    assert await node.unprepare(ref) is None
    assert node.room.lamps["lamp-0"] is False


@pytest.mark.parametrize("operation", ["prepare", "unprepare"])
async def test_a_death_at_any_effect_is_recovered_by_the_next_program(tmp_path: Path, operation: str) -> None:
    for after in range(1, 30):
        folder = tmp_path / f"{operation}-{after}"
        folder.mkdir()
        node = LampNode(folder)
        await node.start()
        ref = await node.claim("a", "lamp-0")
        if operation == "unprepare":
            await node.prepare(ref)
        node.host.kill_after(after)
        call = node.service.prepare([ref]) if operation == "prepare" else node.service.unprepare([ref])
        task = asyncio.ensure_future(call)
        async with asyncio.timeout(30):
            while not task.done() and not node.host.is_dead:
                await asyncio.wait([task], timeout=0.001)
        is_dead = node.host.is_dead
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await node.restart()
        await node.sweep.half_prepared()
        (device,) = await node.prepare(ref)
        assert (device.device, node.room.lamps["lamp-0"]) == ("lamp-0", True)
        assert await node.unprepare(ref) is None
        assert (node.room.lamps["lamp-0"], node.state(ref)) == (False, "")
        await node.stop()
        if not is_dead:
            assert after > 3
            return
    raise AssertionError("the work never came to its end")


async def test_the_sweep_unprepares_a_claim_that_is_gone(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0")
    await node.prepare(ref)
    await node.kube.delete(CLAIMS, "a", "ns")
    await node.call(node.sweep.stale_claims())
    await node.call(node.sweep.stale_claims())
    assert (node.state(ref), node.room.lamps["lamp-0"]) == ("", False)


async def test_a_lost_checkpoint_is_restored_from_files_and_claims(node: LampNode) -> None:
    ref = await node.claim("a", "lamp-0")
    await node.prepare(ref)
    node.lose_checkpoint()
    await node.restart()
    await node.call(node.sweep.settle())
    assert node.state(ref) == "PrepareCompleted"
    assert await node.unprepare(ref) is None
    assert node.room.lamps["lamp-0"] is False


async def test_its_devices_are_published(node: LampNode) -> None:
    publication = Publication(ResourceApi(node.kube), node.clock, Pool(NAME, POOL), on_notice=lambda _notice: None)
    await node.kube.create(NODES, json.dumps({"metadata": {"name": POOL}}).encode())
    publication.publish(published(node.room))
    publication.resume()
    task = asyncio.create_task(publication.run())
    await node.call(publication.published.wait())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (stored,) = (await node.kube.list(SLICES)).items
    spec = json.loads(stored)["spec"]
    assert (spec["driver"], [device["name"] for device in spec["devices"]]) == (NAME, ["lamp-0", "lamp-1"])
