"""The plugin as a process of its own on mock GPUs that are partitioned: by an administrator, or by claims."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from nvdra import cdi, claims
from tests.contract.plugin_node import PluginNode, plugin_node, until
from tests.folders import contents

DYNAMIC = {"feature_gates": "DynamicMIG=true"}
ONE_A, ONE_B, THREE, SEVEN = (
    "gpu-0-mig-1g10gb-19-0",
    "gpu-0-mig-1g10gb-19-1",
    "gpu-0-mig-3g40gb-9-4",
    "gpu-0-mig-7g80gb-0-0",
)


@pytest.fixture
async def node() -> AsyncIterator[PluginNode]:
    """One H100 to see to, and the others beside it."""
    async with plugin_node("h100x8", gpus=(0, 1)) as made:
        yield made


def devices(node: PluginNode) -> dict[str, dict[str, Any]]:
    """What is published, by name."""
    return {
        device["name"]: device
        for stored in node.kube.objects("resourceslices")
        for device in stored["spec"].get("devices", ())
    }


def uuids(node: PluginNode, minor: int = 0) -> list[str]:
    """The MIG devices of a GPU, as whoever looks at it sees them."""
    return sorted(device.uuid for device in node.root.mig_devices(minor))


def is_bare(node: PluginNode) -> bool:
    """Nothing is on the GPUs, not even MIG mode, and nothing of any claim on the node."""
    checkpoint = node.checkpoint()
    return (
        all(not node.root.gpu_instances(minor) and node.root.mig_mode(minor) == (False, False) for minor in (0, 1))
        and not checkpoint.entries
        and not contents(node.cdi)
        and not any(contents(node.plugin_dir / ".locks").values())
    )


def nodes_of(document: cdi.Document) -> list[str]:
    return [node.path for device in document.devices for node in device.edits.device_nodes]


# ── made by an administrator ───────────────────────────────────────────────────────────────────────────────────────


async def test_an_administrators_partitions_are_announced_prepared_and_left(node: PluginNode) -> None:
    node.root.set_mig_mode(0, True)
    first = node.root.create_mig(0, "1g.10gb", 0)
    second = node.root.create_mig(0, "3g.40gb", 4)
    await node.start()
    await until(lambda: set(devices(node)) == {ONE_A, THREE, "gpu-1"}, "MIG devices and the other GPU")
    assert devices(node)[ONE_A]["attributes"]["uuid"] == {"string": first.uuid}
    ref = await node.claim(ONE_A, THREE)
    assert await node.prepared(ref) == [ONE_A, THREE]
    (entry,) = node.checkpoint().entries.values()
    assert [device.uuid for device in claims.answers(entry)] == [first.uuid, second.uuid]
    document = cdi.parse(node.cdi_path(ref).read_bytes())
    for device in (first, second):
        for ids in ((device.gi,), (device.gi, device.ci)):
            minor = node.root.capability_minor(0, *ids)
            assert f"/dev/nvidia-caps/nvidia-cap{minor}" in nodes_of(document)
    await node.released(ref)
    assert uuids(node) == sorted((first.uuid, second.uuid))


async def test_partitions_made_while_the_plugin_runs_are_found(node: PluginNode) -> None:
    node.root.set_mig_mode(0, True)
    first = node.root.create_mig(0, "1g.10gb", 0)
    await node.start()
    await until(lambda: set(devices(node)) == {ONE_A, "gpu-1"}, "the first")
    ref = await node.claim(ONE_A)
    await node.prepared(ref)
    node.root.create_mig(0, "1g.10gb", 1)
    await until(lambda: set(devices(node)) == {ONE_A, ONE_B, "gpu-1"}, "the second")
    node.root.destroy_mig(first)
    await until(lambda: set(devices(node)) == {ONE_B, "gpu-1"}, "the first to be gone")
    assert "is gone: somebody destroyed the partition" in await node.refused(ref)
    await node.released(ref)


# ── made by claims ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_could_be_made_is_announced_with_counters(node: PluginNode) -> None:
    await node.start(**DYNAMIC)
    await until(lambda: len(devices(node)) == 52, "what could be made")
    slices = node.kube.objects("resourceslices")
    sets = [made["name"] for each in slices for made in each["spec"].get("sharedCounters", ())]
    assert sorted(sets) == ["gpu-0-counter-set", "gpu-1-counter-set"]
    for name, device in devices(node).items():
        (used,) = device["consumesCounters"]
        assert used["counterSet"] == f"{'-'.join(name.split('-')[:2])}-counter-set"
    # One of counters, then one for each GPU.
    assert sorted(len(each["spec"].get("devices", ())) for each in slices) == [0, 26, 26]


async def test_a_partition_is_made_for_a_claim_and_goes_with_it(node: PluginNode) -> None:
    await node.start(**DYNAMIC)
    await until(lambda: {ONE_A, THREE, SEVEN, "gpu-0", "gpu-1"} <= set(devices(node)), "what could be made")
    assert node.root.mig_mode(0) == (False, False)
    ref = await node.claim(ONE_A)
    told = (await node.prepare(ref))[ref.uid]
    assert (told.error, [device.device for device in told.devices]) == ("", [ONE_A])
    (made,) = node.root.mig_devices(0)
    (entry,) = node.checkpoint().entries.values()
    (answer,) = claims.answers(entry)
    assert (answer.uuid, answer.mig.gi_id, answer.mig.ci_id) == (made.uuid, made.gi, made.ci)
    assert f"/dev/nvidia-caps/nvidia-cap{node.root.capability_minor(0, made.gi)}" in nodes_of(
        cdi.parse(node.cdi_path(ref).read_bytes())
    )
    assert (await node.prepare(ref))[ref.uid] == told  # asked again
    await node.stop()
    await node.start(**DYNAMIC)
    assert (await node.prepare(ref))[ref.uid] == told
    assert uuids(node) == [made.uuid]
    await node.released(ref)
    assert is_bare(node)


async def test_claims_share_a_gpu_and_a_claim_has_several_partitions(node: PluginNode) -> None:
    await node.start(**DYNAMIC)
    pair, third, whole = await node.claim(ONE_A, ONE_B), await node.claim(THREE), await node.claim("gpu-1")
    await node.prepared(pair, third, whole)
    assert len(uuids(node)) == 3
    assert node.root.mig_mode(1) == (False, False)
    await node.released(pair)
    assert len(uuids(node)) == 1
    assert node.root.mig_mode(0) == (True, True)
    await node.released(third, whole)
    assert is_bare(node)


async def test_what_lies_on_the_same_slices_is_refused_meanwhile(node: PluginNode) -> None:
    await node.start(**DYNAMIC)
    first = await node.claim(ONE_A)
    await node.prepared(first)
    for other in ("gpu-0", SEVEN, "gpu-0-mig-4g40gb-5-0"):
        ref = await node.claim(other)
        assert f"already allocated to different claim {first.uid}" in await node.refused(ref)
    await node.released(first)
    whole = await node.claim("gpu-0")
    await node.prepared(whole)
    again = await node.claim(ONE_A)
    assert f"already allocated to different claim {whole.uid}" in await node.refused(again)
    await node.released(whole)
    assert is_bare(node)


async def test_an_administrators_claim_looks_and_changes_nothing(node: PluginNode) -> None:
    await node.start(**DYNAMIC)
    monitor = await node.claim({"device": "gpu-0", "adminAccess": True})
    user = await node.claim(ONE_A)
    await node.prepared(user)
    made = uuids(node)
    await node.prepared(monitor)
    assert uuids(node) == made
    refused = await node.claim({"device": ONE_A, "adminAccess": True})
    assert "adminAccess: true, which never changes a GPU" in await node.refused(refused)
    assert uuids(node) == made
    await node.released(user)
    assert not node.root.gpu_instances(0)
    assert node.root.mig_mode(0) == (False, False)
    await node.prepared(await node.claim("gpu-0"))
    await node.released(monitor)


async def test_one_write_begins_all_claims_of_a_call(node: PluginNode) -> None:
    await node.start(**DYNAMIC)
    refs = [await node.claim(f"gpu-{gpu}-mig-1g10gb-19-{start}") for gpu in (0, 1) for start in range(4)]
    async with node.traced("-e", "trace=fsync") as trace:
        await node.prepared(*refs)
    fsyncs = trace.read_text().count("fsync(")
    assert 2 <= fsyncs <= 1 + len(refs)
    await node.released(*refs)
    assert is_bare(node)


# ── what goes wrong ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("nvmlDeviceSetMigMode", "IN_USE", "error enabling MIG mode for device gpu-0-"),
        ("nvmlDeviceCreateGpuInstanceWithPlacement", "INSUFFICIENT_RESOURCES", "error creating GPU instance for"),
        ("nvmlGpuInstanceCreateComputeInstance", "INSUFFICIENT_RESOURCES", "error creating Compute instance for"),
        ("nvmlGpuInstanceCreateComputeInstance", "GPU_IS_LOST", "error creating Compute instance for"),
    ],
)
async def test_a_step_that_is_refused_leaves_nothing(node: PluginNode, function: str, code: str, words: str) -> None:
    await node.start(**DYNAMIC)
    node.root.set_faults([{"function": function, "minor": 0, "code": code, "times": 1}])
    ref, other = await node.claim(ONE_A), await node.claim("gpu-1-mig-1g10gb-19-0")
    told = await node.prepare(ref, other)
    assert words in told[ref.uid].error
    assert told[other.uid].error == ""
    assert list(node.checkpoint().entries) == [other.uid]
    assert node.root.gpu_instances(0) == {}
    assert node.root.mig_mode(0) == (False, False)
    assert await node.prepared(ref) == [ONE_A]
    await node.released(ref, other)
    assert is_bare(node)


async def test_a_partition_in_use_is_kept_until_it_is_free(node: PluginNode) -> None:
    await node.start(**DYNAMIC)
    ref = await node.claim(ONE_A)
    await node.prepared(ref)
    (made,) = node.root.mig_devices(0)
    node.root.set_processes([{"minor": 0, "gi": made.gi, "ci": made.ci, "pid": 4711}])
    error = (await node.client.unprepare([ref]))[ref.uid]
    assert "error deleting MIG device" in error
    assert "In use by another client" in error
    assert "4711" in error
    assert node.checkpoint().entries[ref.uid].state == "PrepareStarted"
    node.root.stop_processes()
    await node.released(ref)
    assert is_bare(node)


async def test_a_partition_nobody_here_made_keeps_what_overlaps_it_back(node: PluginNode) -> None:
    node.root.set_mig_mode(0, True)
    theirs = node.root.create_mig(0, "3g.40gb", 4)
    await node.start(**DYNAMIC)
    await until(lambda: {"gpu-1", ONE_A, "gpu-0-mig-1g10gb-19-3"} <= set(devices(node)), "what does not overlap")
    assert not {"gpu-0", SEVEN, THREE} & set(devices(node))
    assert "overlaps a partition that this driver did not make: GPU instance" in await node.refused(
        await node.claim(THREE)
    )
    beside = await node.claim(ONE_A)
    await node.prepared(beside)
    await node.released(beside)
    assert uuids(node) == [theirs.uuid]
    node.root.destroy_mig(theirs)
    await until(lambda: THREE in devices(node) and "gpu-0" in devices(node), "all of the GPU")
    # MIG mode was left on by whoever partitioned it: a claim for all of the GPU turns it off.
    whole = await node.claim("gpu-0")
    await node.prepared(whole)
    assert node.root.mig_mode(0) == (False, False)
    await node.released(whole)


async def test_unmanaged_partitions_are_destroyed_where_the_node_is_told_so(node: PluginNode) -> None:
    node.root.set_mig_mode(0, True)
    node.root.create_mig(0, "3g.40gb", 4)
    await node.start(**DYNAMIC, destroy_unknown_mig="true")
    await until(lambda: node.root.mig_mode(0) == (False, False), "MIG mode off")
    await until(lambda: {"gpu-0", THREE} <= set(devices(node)), "all of the GPU")


async def test_mig_mode_with_nothing_to_show_for_it_is_turned_off(node: PluginNode) -> None:
    node.root.set_mig_mode(1, True)
    await node.start(**DYNAMIC)
    await until(lambda: node.root.mig_mode(1) == (False, False), "MIG mode off")
