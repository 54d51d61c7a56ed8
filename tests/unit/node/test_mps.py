"""MPS daemons of claims, from kubelet's call to the Deployment and back."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nvdra import cdi
from nvdra.api import gates
from nvdra.gpu.mps import daemon_id
from nvdra.gpu.shares import Shares
from nvdra.gpu.sharing import Sharing
from nvdra.kubelet import time_left_s
from nvdra.node.checkpoint_writer import Change
from nvdra.node.claim_service import Failure
from nvdra.node.gpu.mps_upkeep import MpsUpkeep
from nvdra.ports import Page, Resource
from tests.unit.node.mps_world import DAEMONS, NAMESPACE, MpsWorld, actor, mps
from tests.unit.node.world import cdi_path

DEPLOYMENTS = Resource("apps", "v1", "deployments", namespaced=True)
PODS = Resource("", "v1", "pods", namespaced=True)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MpsWorld]:
    world = MpsWorld(tmp_path)
    world.start()
    await world.warm()
    yield world
    await world.stop()


def uuid(node: MpsWorld, *minors: int) -> list[str]:
    return [gpu.uuid for gpu in node.inventory.gpus.values() if gpu.minor in minors]


async def waits(node: MpsWorld, uid: str, what: str) -> None:
    """Until the claim's steps wait for something that is told so."""
    for _ in range(400):
        if what in node.runner.waiting(uid):
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{node.runner.waiting(uid)!r}, not {what!r}")


# ── prepare and unprepare ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_daemon_runs_for_the_claim_and_ends_after_it(node: MpsWorld) -> None:
    ref = await node.claim("a", "gpu-1", "gpu-0", config=mps(defaultActiveThreadPercentage=100))
    assert await node.prepared(ref) == ["gpu-1", "gpu-0"]
    daemon = daemon_id(ref.uid, uuid(node, 0, 1))
    assert node.daemons() == {daemon: 1}
    assert node.modes() == ["EXCLUSIVE_PROCESS", "EXCLUSIVE_PROCESS", "DEFAULT", "DEFAULT"]
    (deployment,) = node.deployments()
    assert (deployment["metadata"]["name"], deployment["metadata"]["namespace"]) == (
        f"mps-control-daemon-{daemon}",
        NAMESPACE,
    )
    (group,) = node.checkpoint().entries[ref.uid].prepared  # type: ignore[misc]
    assert group.mps_daemon_id == daemon
    document = cdi.parse(node.host.read(cdi_path(ref)))
    for device in document.devices:
        assert device.edits.env == ("CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps",)
        assert {mount.container_path: mount.host_path for mount in device.edits.mounts} == {
            "/dev/shm": f"{DAEMONS}/{daemon}/shm",
            "/tmp/nvidia-mps": f"{DAEMONS}/{daemon}/pipe",
        }
    await node.released(ref)
    assert node.is_clean()
    assert not node.state(ref)


async def test_the_modes_from_before_are_restored(node: MpsWorld) -> None:
    (first,) = uuid(node, 0)
    node.smi.compute_modes[first] = "PROHIBITED"
    ref = await node.claim("a", "gpu-0", "gpu-1", config=mps())
    await node.prepared(ref)
    await node.restart()
    await node.released(ref)
    assert node.modes() == ["PROHIBITED", "DEFAULT", "DEFAULT", "DEFAULT"]


async def test_where_modes_cannot_be_read_the_default_is_restored(node: MpsWorld) -> None:
    node.smi.fail("query", exit_code=9, said="Driver not loaded")
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    assert node.modes()[0] == "EXCLUSIVE_PROCESS"
    await node.released(ref)
    assert node.is_clean()


async def test_a_file_of_modes_that_is_broken_means_the_default(node: MpsWorld) -> None:
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    (daemon,) = node.daemons()
    node.host.write(f"{DAEMONS}/{daemon}/compute-modes.json", b"{")
    await node.released(ref)
    assert node.is_clean()


async def test_a_mode_that_somebody_changed_meanwhile_stays(node: MpsWorld) -> None:
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    node.smi.compute_modes[uuid(node, 0)[0]] = "PROHIBITED"
    await node.released(ref)
    assert node.modes()[0] == "PROHIBITED"


async def test_modes_stay_where_they_are_not_to_be_changed(node: MpsWorld) -> None:
    node.sets_compute_mode = False
    await node.restart()
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    assert not node.smi.runs
    await node.released(ref)
    assert node.is_clean()


async def test_a_gpu_without_compute_modes_is_served_all_the_same(node: MpsWorld) -> None:
    node.smi.fail("compute mode", exit_code=0, said="Setting compute mode is not supported")
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    await node.released(ref)


async def test_the_tmpfs_has_half_of_the_memory(node: MpsWorld) -> None:
    await node.prepared(await node.claim("a", "gpu-0", config=mps()))
    assert b"size=16426676k" in node.host.read("/proc/self/mountinfo")


async def test_a_prepared_claim_is_answered_again_without_a_look(node: MpsWorld) -> None:
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    runs = node.control.runs
    node.kube.calls.clear()
    await node.prepared(ref)
    assert (node.control.runs, dict(node.kube.calls)) == (runs, {("get", "resourceclaims"): 1})


async def test_a_claim_without_mps_asks_for_nothing_more(node: MpsWorld) -> None:
    await node.prepared(await node.claim("first", "gpu-1"))
    ref = await node.claim("a", "gpu-0")
    await node.prepared(ref)
    assert dict(node.kube.calls) == {("get", "resourceclaims"): 1}
    assert not node.smi.runs
    assert not node.control.runs


# ── readiness ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_claim_is_prepared_as_soon_as_the_pod_is_ready(node: MpsWorld) -> None:
    node.kube.is_ready = False
    ref = await node.claim("a", "gpu-0", config=mps())
    preparing = asyncio.ensure_future(node.service.prepare([ref]))
    await waits(node, ref.uid, "control daemon not yet ready")
    began = node.clock.now()
    await node.kube.ready()
    assert isinstance((await node.timely(preparing))[ref.uid], tuple)
    assert node.clock.now() - began <= 0.2


async def test_the_answer_at_the_deadline_says_what_the_pod_waits_for(node: MpsWorld) -> None:
    node.kube.trouble = "ImagePullBackOff"
    ref = await node.claim("a", "gpu-0", config=mps())
    time_left_s.set(10.0)
    text = await node.refused(ref)
    assert text.endswith(
        "still being prepared after 5 s: MPS control daemon is not yet ready: control daemon not yet ready "
        "(ImagePullBackOff); the work goes on, and kubelet's retry joins it"
    )
    await node.kube.ready()
    assert await node.prepared(ref) == ["gpu-0"]


async def test_unprepare_does_not_wait_for_a_daemon_that_never_comes(node: MpsWorld) -> None:
    node.kube.is_ready = False
    ref = await node.claim("a", "gpu-0", config=mps())
    preparing = asyncio.ensure_future(node.service.prepare([ref]))
    await waits(node, ref.uid, "not yet ready")
    await node.released(ref)
    assert isinstance((await preparing)[ref.uid], Failure)
    assert node.is_clean()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "was not answered within 2 s"),
        (b"", "was answered with exit status 0: nothing"),
        (b"Cannot find MPS control daemon process\n", "exit status 0: Cannot find MPS control daemon process"),
        (b"100.0\n", "it gives 100 % of the threads to clients, not 50 %"),
    ],
)
async def test_a_ready_pod_is_not_enough(node: MpsWorld, answer: bytes | None, why: str) -> None:
    node.control.answer = answer
    ref = await node.claim("a", "gpu-0", config=mps(defaultActiveThreadPercentage=50))
    preparing = asyncio.ensure_future(node.service.prepare([ref]))
    await waits(node, ref.uid, why)
    assert node.runner.waiting(ref.uid).startswith("MPS control daemon is not yet ready: ")
    node.control.answer = b"50.0\n"
    assert isinstance((await node.timely(preparing))[ref.uid], tuple)


async def test_where_the_control_program_cannot_run_the_start_log_counts(node: MpsWorld) -> None:
    node.control.is_broken = True
    ref = await node.claim("a", "gpu-0", config=mps())
    preparing = asyncio.ensure_future(node.service.prepare([ref]))
    await waits(node, ref.uid, "nothing tells whether it has started")
    daemon = daemon_id(ref.uid, uuid(node, 0))
    node.host.write(f"{DAEMONS}/{daemon}/log/startup.log", b"startup complete\n")
    assert isinstance((await node.timely(preparing))[ref.uid], tuple)


async def test_a_deployment_that_is_deleted_by_hand_comes_again(node: MpsWorld) -> None:
    node.kube.is_ready = False
    ref = await node.claim("a", "gpu-0", config=mps())
    preparing = asyncio.ensure_future(node.service.prepare([ref]))
    await waits(node, ref.uid, "not yet ready")
    (deployment,) = node.deployments()
    node.kube.is_ready = True
    await node.kube.delete(DEPLOYMENTS, deployment["metadata"]["name"], NAMESPACE)
    assert isinstance((await node.timely(preparing))[ref.uid], tuple)


# ── settings that are there already ────────────────────────────────────────────────────────────────────────────


async def test_a_deployment_with_other_settings_is_replaced(node: MpsWorld) -> None:
    ref = await node.claim("a", "gpu-0", config=mps())
    name = f"mps-control-daemon-{daemon_id(ref.uid, uuid(node, 0))}"
    other = {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"template": {"metadata": {"labels": {"app": name}}, "spec": {}}},
    }
    made = json.loads(await node.kube.create(DEPLOYMENTS, json.dumps(other).encode(), NAMESPACE))
    await node.prepared(ref)
    (deployment,) = node.deployments()
    assert deployment["metadata"]["uid"] != made["metadata"]["uid"]
    assert len(node.kube.objects("pods")) == 1


async def test_daemons_tolerate_what_the_plugins_pod_tolerates(node: MpsWorld) -> None:
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    pod = {"metadata": {"name": "plugin"}, "spec": {"nodeName": "node-a", "tolerations": tolerations}}
    made = json.loads(await node.kube.create(PODS, json.dumps(pod).encode(), NAMESPACE))
    node.pod_uid = made["metadata"]["uid"]
    await node.restart()
    await node.prepared(await node.claim("a", "gpu-0", config=mps()))
    (deployment,) = node.deployments()
    assert deployment["spec"]["template"]["spec"]["tolerations"] == tolerations


async def test_an_odd_pod_beside_the_plugins_own_costs_no_daemon(node: MpsWorld) -> None:
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    pod = {"metadata": {"name": "plugin"}, "spec": {"nodeName": "node-a", "tolerations": tolerations}}
    made = json.loads(await node.kube.create(PODS, json.dumps(pod).encode(), NAMESPACE))
    node.pod_uid = made["metadata"]["uid"]
    odd = (b'{"metadata":{"uid":"x","annotations":{"a":"\\ud800"}}}', b"[]", b'{"metadata":null}')
    ask = node.kube.list

    async def listed(*which: Any, **more: Any) -> Page:
        page = await ask(*which, **more)
        return Page((*odd, *page.items), page.resource_version)

    node.kube.list = listed  # type: ignore[method-assign]
    await node.restart()
    await node.prepared(await node.claim("a", "gpu-0", config=mps()))
    (deployment,) = node.deployments()
    assert deployment["spec"]["template"]["spec"]["tolerations"] == tolerations


# ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_refused_deployment_leaves_nothing(node: MpsWorld) -> None:
    node.kube.fail(403, times=1, verb="create", plural="deployments", message="deployments.apps is forbidden")
    ref = await node.claim("a", "gpu-0", config=mps())
    assert (
        "prepare devices failed: error applying config: error starting MPS control daemon: "
        "failed to create deployment: deployments.apps is forbidden"
    ) in await node.refused(ref)
    assert node.is_clean()
    assert not node.state(ref)


async def test_a_full_or_forbidden_tmpfs_leaves_nothing(node: MpsWorld) -> None:
    node.host.refuse("mount", DAEMONS, errno.EPERM)
    ref = await node.claim("a", "gpu-0", config=mps())
    assert "error starting MPS control daemon: [Errno 1] Operation not permitted" in await node.refused(ref)
    assert node.is_clean()


async def test_a_mode_that_cannot_be_set_leaves_nothing(node: MpsWorld) -> None:
    second = uuid(node, 1)[0]
    node.smi.fail("compute mode", second, exit_code=4, said="Insufficient permissions")
    ref = await node.claim("a", "gpu-0", "gpu-1", config=mps())
    text = await node.refused(ref)
    assert "error starting MPS control daemon: error setting compute mode: error running nvidia-smi" in text
    assert node.is_clean()


async def test_while_the_api_server_is_silent_the_claim_stays_until_it_is_not(node: MpsWorld) -> None:
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    node.kube.go_away()
    answers = await node.unprepare(ref)
    assert isinstance(answers[ref.uid], Failure)
    assert "error stopping MPS control daemon: failed to delete deployment" in answers[ref.uid].error  # type: ignore[union-attr]
    assert node.state(ref) == "PrepareStarted"
    node.kube.heal()
    await node.released(ref)
    assert node.is_clean()


async def test_what_the_go_driver_left_mounted_twice_is_taken_off(node: MpsWorld) -> None:
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    (daemon,) = node.daemons()
    await node.host.mount_tmpfs(f"{DAEMONS}/{daemon}/shm", size="1k")
    await node.released(ref)
    assert node.is_clean()


# ── two programs ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_two_programs_of_an_update_share_one_daemon(node: MpsWorld) -> None:
    """Kubelet calls the new one while the old one still waits for the pod."""
    node.kube.is_ready = False
    ref = await node.claim("a", "gpu-0", config=mps())
    by_the_old_one = asyncio.ensure_future(node.service.prepare([ref]))
    await waits(node, ref.uid, "not yet ready")
    newer = node.beside()
    try:
        await newer.warm()
        by_the_new_one = asyncio.ensure_future(newer.service.prepare([ref]))
        await asyncio.sleep(0)
        await node.kube.ready()
        old = (await node.timely(by_the_old_one))[ref.uid]
        new = (await newer.timely(by_the_new_one))[ref.uid]
        assert isinstance(old, tuple)
        assert old == new
        assert node.kube.calls["create", "deployments"] == 1
        await newer.released(ref)
        assert node.is_clean()
    finally:
        await newer.stop()


# ── upkeep ─────────────────────────────────────────────────────────────────────────────────────────────────────


def upkeep(node: MpsWorld, *, is_checkpoint_lost: bool = False) -> MpsUpkeep:
    driver = node.context.driver
    return MpsUpkeep(
        node.clock,
        node.context,
        driver,
        actor(node, node.kube),
        lambda: node.inventory,
        is_checkpoint_lost=lambda: is_checkpoint_lost,
    )


async def test_a_daemon_that_no_claim_needs_is_ended(node: MpsWorld) -> None:
    """The Go driver leaves them behind when it fails, and after a reboot."""
    ref = await node.claim("a", "gpu-0", config=mps())
    await node.prepared(ref)
    await node.checkpoint_writer.submit(lambda _checkpoint: Change(None, entries={ref.uid: None}))
    await upkeep(node, is_checkpoint_lost=True).clean_up()
    assert not node.is_clean()
    await node.timely(upkeep(node).clean_up())
    assert node.is_clean()


async def test_a_daemon_that_a_prepared_claim_lost_comes_again(node: MpsWorld) -> None:
    ref = await node.claim("a", "gpu-0", config=mps(defaultActiveThreadPercentage=100))
    await node.prepared(ref)
    (before,) = node.deployments()
    await node.kube.delete(DEPLOYMENTS, before["metadata"]["name"], NAMESPACE)
    await node.timely(upkeep(node).clean_up())
    (after,) = node.deployments()
    assert after["spec"] == before["spec"]
    assert node.state(ref) == "PrepareCompleted"
    await node.released(ref)
    assert node.is_clean()


async def test_daemons_of_claims_are_left_alone(node: MpsWorld) -> None:
    await node.prepared(await node.claim("a", "gpu-0", config=mps()))
    node.since_now()
    await node.timely(upkeep(node).clean_up())
    assert not [each for each in node.host.effects[-1:] if each.kind in ("mount", "unmount", "remove tree")]
    assert len(node.deployments()) == len(node.daemons()) == 1


# ── shares ─────────────────────────────────────────────────────────────────────────────────────────────────────


def share(number: int, memory: str = "0") -> dict[str, Any]:
    capacity = {"memory": memory}
    return {"device": "gpu-0", "shareID": f"00000000-0000-4000-8000-{number:012d}", "consumedCapacity": capacity}


@pytest.fixture
async def sharing(tmp_path: Path) -> AsyncIterator[MpsWorld]:
    world = MpsWorld(tmp_path)
    world.gates = "MPSSupport=true,ConsumableShares=true"
    world.sharing = Sharing(Shares("unlimited"), mps_under_shares=True, mps_folder=DAEMONS)
    world.start()
    await world.warm()
    yield world
    await world.stop()


async def test_shares_of_a_gpu_have_one_daemon_until_the_last_one_leaves(sharing: MpsWorld) -> None:
    node = sharing
    one = await node.claim("a", share(1, "1Gi"), config=mps())
    two = await node.claim("b", share(2, "2Gi"), config=mps())
    answers = await node.prepare(one, two)
    assert [answers[ref.uid][0].share_id for ref in (one, two)] == [  # type: ignore[index]
        "00000000-0000-4000-8000-000000000001",
        "00000000-0000-4000-8000-000000000002",
    ]
    assert len(node.deployments()) == len(node.daemons()) == node.kube.calls["create", "deployments"] == 1
    limits = [cdi.parse(node.host.read(cdi_path(ref))).devices[0].edits.env[-1] for ref in (one, two)]
    assert limits == [f"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0={mib}M" for mib in (1024, 2048)]
    await node.released(one)
    assert len(node.deployments()) == 1
    assert node.modes()[0] == "EXCLUSIVE_PROCESS"
    await node.released(two)
    assert node.is_clean()


async def test_a_share_that_fails_leaves_the_daemon_to_the_others(sharing: MpsWorld) -> None:
    node = sharing
    one = await node.claim("a", share(1), config=mps())
    await node.prepared(one)
    node.kube.fail(500, times=1, verb="get", plural="deployments")
    two = await node.claim("b", share(2), config=mps())
    await node.refused(two)
    assert len(node.deployments()) == 1
    assert node.modes()[0] == "EXCLUSIVE_PROCESS"
    await node.prepared(two)
    await node.released(one, two)
    assert node.is_clean()


async def test_shares_with_another_config_are_refused(sharing: MpsWorld) -> None:
    node = sharing
    one = await node.claim("a", share(1), config=mps())
    await node.prepared(one)
    two = await node.claim("b", share(2), config=mps(defaultActiveThreadPercentage=50))
    assert "has conflicting configuration with already prepared claim" in await node.refused(two)


def test_gates_of_mps_and_mig_on_demand_exclude_each_other() -> None:
    with pytest.raises(gates.GateError, match="DynamicMIG is currently mutually exclusive with MPSSupport"):
        gates.cross_check(gates.parse("MPSSupport=true,DynamicMIG=true"))
