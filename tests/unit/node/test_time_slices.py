"""Time slices of claims, from kubelet's call to `nvidia-smi` and back: set on change, reset with the last claim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nvdra.checkpoint import Entry
from nvdra.gpu import Inventory
from nvdra.node.checkpoint_writer import Change
from nvdra.node.journals import trim_journals
from nvdra.node.locks import FOLDER
from nvdra.testing.nvidia_smi import FakeNvidiaSmi
from tests.unit.node.world import LIBRARIES, VERSION, P, World

Config = list[dict[str, Any]]


def slicing(interval: str = "", *requests: str) -> Config:
    sharing: dict[str, Any] = {"strategy": "TimeSlicing"}
    if interval:
        sharing["timeSlicingConfig"] = {"interval": interval}
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing}
    return [
        {
            "source": "FromClaim",
            "requests": list(requests),
            "opaque": {"driver": "gpu.nvidia.com", "parameters": parameters},
        }
    ]


SHORT, MEDIUM, DEFAULT = slicing("Short"), slicing("Medium"), slicing()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[World]:
    world = sliced(tmp_path)
    world.start()
    await world.warm()
    yield world
    await world.stop()


def sliced(folder: Path) -> World:
    """A node whose GPUs have time slices."""
    world = World(folder)
    world.gates = "TimeSlicingSettings=true"
    world.host.write("/driver/usr/bin/nvidia-smi", b"")
    world.host.programs["nvidia-smi"] = FakeNvidiaSmi([gpu.uuid for gpu in world.inventory.gpus.values()])
    (folder / f"{LIBRARIES}/libnvidia-ml.so.1".strip("/")).symlink_to(f"libnvidia-ml.so.{VERSION}")
    (folder / f"{P}/{FOLDER}".strip("/")).mkdir()
    return world


def smi(node: World) -> FakeNvidiaSmi:
    program = node.host.programs["nvidia-smi"]
    assert isinstance(program, FakeNvidiaSmi)
    return program


def slices(node: World) -> list[int]:
    return list(smi(node).time_slices.values())


def sets(node: World) -> list[str]:
    """Runs that changed something since the last call."""
    runs, smi(node).runs = smi(node).runs, []
    return [" ".join(run) for run in runs if "-l" not in run]


async def test_a_slice_is_set_with_the_claim_and_reset_after_it(node: World) -> None:
    ref = await node.claim("a", "gpu-1", config=SHORT)
    assert await node.prepared(ref) == ["gpu-1"]
    assert slices(node) == [0, 1, 0, 0]
    (group,) = _groups(node.checkpoint().entries[ref.uid])
    assert group.time_slice_applied is True
    await node.released(ref)
    assert slices(node) == [0, 0, 0, 0]
    assert not node.state(ref)
    assert not node.has_file(ref)


async def test_the_compute_mode_is_set_first_as_the_go_driver_does(node: World) -> None:
    uuid = next(iter(smi(node).time_slices))
    await node.prepared(await node.claim("a", "gpu-0", config=SHORT))
    assert sets(node) == [f"-i {uuid} -c DEFAULT", f"compute-policy -i {uuid} --set-timeslice 1"]


async def test_nothing_is_run_where_nothing_changes_and_slices_are_read_once(node: World) -> None:
    ref = await node.claim("a", "gpu-0", config=DEFAULT)
    await node.prepared(ref)
    await node.released(ref)
    plain = await node.claim("b", "gpu-1")
    await node.prepared(plain)
    await node.released(plain)
    assert list(smi(node).runs) == [("compute-policy", "-l")]


async def test_a_config_without_an_interval_asks_for_the_default(node: World) -> None:
    config = slicing("Short")
    config[0]["opaque"]["parameters"]["sharing"]["timeSlicingConfig"] = {}
    ref = await node.claim("a", "gpu-0", config=config)
    await node.prepared(ref)
    assert (slices(node), sets(node)) == ([0, 0, 0, 0], [])
    assert [group.time_slice_applied for group in _groups(node.checkpoint().entries[ref.uid])] == [True]


async def test_a_plain_gpu_says_that_no_slice_was_set(node: World) -> None:
    ref = await node.claim("a", "gpu-0")
    await node.prepared(ref)
    assert [group.time_slice_applied for group in _groups(node.checkpoint().entries[ref.uid])] == [False]
    assert not smi(node).runs


async def test_a_node_without_the_gate_never_writes_the_key(node: World) -> None:
    node.gates = ""
    await node.restart()
    ref = await node.claim("a", "gpu-0")
    await node.prepared(ref)
    assert b"timeSliceApplied" not in node.files()["/plugins/gpu.nvidia.com/checkpoint.json"]


async def test_gpus_are_set_side_by_side(node: World) -> None:
    refs = [await node.claim(f"c{n}", f"gpu-{n}", config=MEDIUM) for n in range(3)]
    await node.prepared(*refs)
    assert slices(node) == [2, 2, 2, 0]
    await node.released(*refs)
    assert slices(node) == [0, 0, 0, 0]


async def test_a_slice_that_an_administrator_set_comes_back(node: World) -> None:
    uuid = list(smi(node).time_slices)[2]
    smi(node).time_slices[uuid] = 3
    ref = await node.claim("a", "gpu-2", config=SHORT)
    await node.prepared(ref)
    await node.restart()
    assert slices(node)[2] == 1
    await node.released(ref)
    assert slices(node)[2] == 3


async def test_a_slice_that_is_wanted_and_there_already_stays_after_the_claim(node: World) -> None:
    uuid = list(smi(node).time_slices)[2]
    smi(node).time_slices[uuid] = 1
    ref = await node.claim("a", "gpu-2", config=SHORT)
    await node.prepared(ref)
    await node.released(ref)
    assert (slices(node)[2], sets(node)) == (1, [])


async def test_a_slice_on_a_gpu_that_cannot_be_read_keeps_the_claim(node: World) -> None:
    ref = await node.claim("a", "gpu-0", config=SHORT)
    await node.prepared(ref)
    known, node.inventory = node.inventory, Inventory(unread="the driver is being replaced")
    failure = (await node.unprepare(ref))[ref.uid]
    assert failure is not None
    assert "gpu-0 cannot be read now, so its time slice cannot be reset: the driver is being replaced" in failure.error
    node.inventory = known
    await node.released(ref)
    assert slices(node)[0] == 0


async def test_a_line_that_a_death_left_goes_at_the_next_start(node: World) -> None:
    address = node.inventory.devices["gpu-0"].pci_bus_id  # type: ignore[union-attr]
    path = node.folder / f"{P}/{FOLDER}/{address}".strip("/")
    path.write_text('gone timeslice interval {"interval":2}\n')
    await trim_journals(node.context, node.inventory.gpus)
    assert path.read_text() == ""


async def test_a_gpu_without_time_slices_fails_only_claims_that_ask_for_one(node: World) -> None:
    uuid = next(iter(smi(node).time_slices))
    smi(node).fail("time slice", uuid)
    ref, plain = await node.claim("a", "gpu-0", "gpu-1", config=SHORT), await node.claim("b", "gpu-2")
    why = await node.refused(ref)
    assert (
        f"error setting timeslice config for requests '[r0 r1]' in claim '{ref.uid}': error setting time slice" in why
    )
    assert slices(node) == [0, 0, 0, 0], "the other GPU of the claim is as it was"
    assert not node.state(ref)
    assert await node.prepared(plain) == ["gpu-2"]


async def test_a_gpu_that_does_not_support_them_any_more_can_be_unprepared(node: World) -> None:
    ref = await node.claim("a", "gpu-0", config=SHORT)
    await node.prepared(ref)
    smi(node).fail("time slice")
    await node.released(ref)
    assert not node.state(ref)


async def test_a_reset_that_fails_is_tried_again(node: World) -> None:
    ref = await node.claim("a", "gpu-0", config=SHORT)
    await node.prepared(ref)
    smi(node).fail("time slice", exit_code=15, said="GPU is lost")
    failure = (await node.unprepare(ref))[ref.uid]
    assert failure is not None
    assert "error resetting the time slice of gpu-0" in failure.error
    assert node.state(ref) == "PrepareStarted"
    smi(node).forgive()
    await node.released(ref)
    assert slices(node)[0] == 0


async def test_mps_limits_beside_the_strategy_are_refused_for_good(node: World) -> None:
    config = slicing("Short")
    config[0]["opaque"]["parameters"]["sharing"]["mpsConfig"] = {}
    ref = await node.claim("a", "gpu-0", config=config)
    answer = (await node.prepare(ref))[ref.uid]
    assert not isinstance(answer, tuple)
    assert answer.permanent
    assert "cannot use MpsConfig with the 'TimeSlicing' strategy" in answer.error
    assert not sets(node)


async def test_an_entry_of_the_go_driver_is_reset_to_the_default(node: World) -> None:
    """v0.4.0 does not say whether it set a slice: the claim's own config does."""
    ref, plain = await node.claim("a", "gpu-0", config=SHORT), await node.claim("b", "gpu-1")
    await node.prepared(ref, plain)
    uuids = list(smi(node).time_slices)
    smi(node).time_slices[uuids[1]] = 2  # somebody's; not this driver's to reset

    def forget(checkpoint: Any) -> Change[None]:
        entries: dict[str, Entry | None] = {}
        for uid, entry in checkpoint.entries.items():
            groups = tuple(replace(group, time_slice_applied=None, verbatim=b"") for group in entry.prepared)
            entries[uid] = replace(entry, prepared=groups)
        return Change(None, entries=entries)

    await node.checkpoint_writer.submit(forget)
    await node.released(ref, plain)
    assert slices(node)[:2] == [0, 2]


@pytest.mark.parametrize("operation", ["prepare", "unprepare"])
async def test_a_death_at_any_effect_leaves_a_slice_that_is_reset(tmp_path: Path, operation: str) -> None:
    """The program dies after each effect in turn; the next one unprepares, and every GPU is as before."""
    for after in range(1, 40):
        folder = tmp_path / f"{operation}-{after}"
        folder.mkdir()
        world = sliced(folder)
        program = smi(world)
        program.time_slices[list(program.time_slices)[1]] = 2
        world.start()
        await world.warm()
        ref = await world.claim("a", "gpu-0", "gpu-1", config=SHORT)
        if operation == "unprepare":
            await world.prepared(ref)
        world.host.kill_after(after)
        call = world.service.prepare if operation == "prepare" else world.service.unprepare
        is_dead = await world.dies(asyncio.ensure_future(call([ref])))
        await world.restart()
        await world.released(ref)
        assert list(program.time_slices.values()) == [0, 2, 0, 0], f"died after effect {after}"
        assert not world.state(ref)
        assert not world.has_file(ref)
        await world.stop()
        if not is_dead:
            assert after > 5, "no effect was ever the last"
            return
    raise AssertionError("the work never came to its end")


def _groups(entry: Entry) -> Any:
    return entry.prepared
