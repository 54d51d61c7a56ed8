"""The controller of ComputeDomains, over the API server in memory and over kube-apiserver where it is built."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.api import control_plane, ready
from nvdra.api import gates
from nvdra.api.compute_domain import (
    CLIQUE_LABEL,
    DOMAIN_LABEL,
    FINALIZER,
    GROUP_VERSION,
    clique,
    compute_domain,
    daemon_wire,
)
from nvdra.controller.settings import CLIQUES, CRDS, DAEMON_SETS, DOMAINS, NODES, PODS
from nvdra.domains.membership import join
from nvdra.domains.templates import daemon_claim_template, daemon_set, workload_claim_template
from nvdra.kube import HttpKube, access, document
from nvdra.ports import ApiError, Kube
from nvdra.testing.kube import FakeKube
from nvdra.testing.objects import Kind
from tests.cluster.harness.programs import KUBERNETES, found
from tests.contract.domain_world import FABRIC, TEMPLATES, World, crds, install
from tests.unit.domains.test_templates import SETTINGS as GO_SETTINGS
from tests.unit.domains.test_templates import golden

pytestmark = pytest.mark.xdist_group("controller")
OTHER_FABRIC = FABRIC.replace("32766", "7")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    programs = found(KUBERNETES)
    assert programs is not None
    with control_plane(tmp_path_factory.mktemp("plane") / "plane", programs) as kubeconfig:
        yield kubeconfig


async def served(kube: Kube) -> AsyncIterator[World]:
    world = World(kube)
    await world.set_up()
    yield world
    await world.tear_down()


@pytest.fixture(params=["memory", *(["real"] if found(KUBERNETES) else [])])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "memory":
        kube = FakeKube(kinds=[Kind(CRDS.group, CRDS.plural, "CustomResourceDefinition", False)])
        await install(kube, crds())
        async for made in served(kube):
            yield made
        return
    kubeconfig = request.getfixturevalue("plane")
    await ready(kubeconfig)
    async with HttpKube(access(str(kubeconfig), {}), qps=0) as client:
        await install(client, crds())
        async for made in served(client):
            yield made


def nodes_of(domain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in domain.get("status", {}).get("nodes") or ()}


async def test_a_domain_gets_its_objects_and_loses_them(world: World) -> None:
    async with world.controller():
        uid = (await world.domain(mode="All"))["metadata"]["uid"]
        domain = await world.ready_domain()
        assert domain["metadata"]["finalizers"] == [FINALIZER]
        assert domain["status"]["status"] == "Ready"
        assert "nodes" not in domain["status"]
        daemons = await world.get(DAEMON_SETS, f"computedomain-daemon-{uid}", world.driver)
        assert daemons["metadata"]["finalizers"] == [FINALIZER]
        claim = await world.get(TEMPLATES, "channel", world.user)
        parameters = claim["spec"]["spec"]["devices"]["config"][0]["opaque"]["parameters"]
        assert (parameters["domainID"], parameters["allocationMode"]) == (uid, "All")
        await world.get(TEMPLATES, f"computedomain-daemon-{uid}", world.driver)
        for node in ("n1", "n2"):
            await world.node(node, uid)
        await world.node("other", "another-domain")
        await world.kube.delete(DOMAINS, "domain", world.user)
        await world.gone(DOMAINS, world.user)
        for resource, space in ((TEMPLATES, world.user), (TEMPLATES, world.driver), (DAEMON_SETS, world.driver)):
            await world.gone(resource, space)
        # The label of a domain that never existed goes, too.
        await world.wait(NODES, lambda found: not any(DOMAIN_LABEL in n["metadata"].get("labels", {}) for n in found))


async def test_daemons_join_become_ready_and_leave(world: World) -> None:
    async with world.controller():
        uid = (await world.domain(num_nodes=2))["metadata"]["uid"]
        pods = {node: await world.daemon(uid, node) for node in ("n1", "n2")}
        await world.daemon(uid, "n3", clique="")
        members = await world.clique(lambda found: len(found) == 2)
        assert sorted(each["index"] for each in members.values()) == [0, 1]
        assert {each["status"] for each in members.values()} == {"NotReady"}
        for pod in pods.values():
            await world.pod_status(pod["metadata"]["name"], ready=True)
        await world.clique(lambda found: {each["status"] for each in found.values()} == {"Ready"})
        domain = await world.ready_domain(decide=lambda each: len(nodes_of(each)) == 3)
        assert nodes_of(domain)["n3"]["index"] == -1
        made = (await world.wait(CLIQUES, lambda found: found, world.driver))[0]
        assert made["metadata"]["labels"] == {DOMAIN_LABEL: uid, CLIQUE_LABEL: FABRIC}
        assert made["metadata"]["name"] == f"{uid}.{FABRIC}"
        owners = {owner["uid"] for owner in made["metadata"]["ownerReferences"]}
        assert owners == {pod["metadata"]["uid"] for pod in pods.values()}
        await world.kill(pods["n1"])
        left = await world.clique(lambda found: set(found) == {"n2"})
        assert left["n2"]["index"] == members["n2"]["index"]
        await world.ready_domain(decide=lambda each: "n1" not in nodes_of(each))


async def test_a_domain_is_ready_when_its_nodes_are(world: World) -> None:
    async with world.controller():
        uid = (await world.domain(num_nodes=1))["metadata"]["uid"]
        waiting = await world.ready_domain()
        assert waiting["status"]["status"] == "NotReady"
        pod = await world.daemon(uid, "n1", ready=True)
        await world.ready_domain(decide=lambda each: each["status"]["status"] == "Ready")
        assert (await world.event("Ready"))["message"] == "all 1 nodes are Ready"
        await world.pod_status(pod["metadata"]["name"], ready=False)
        domain = await world.ready_domain(decide=lambda each: each["status"]["status"] == "NotReady")
        condition = next(each for each in domain["status"]["conditions"] if each["type"] == "Ready")
        assert (condition["status"], condition["reason"]) == ("False", "NodesNotReady")
        assert "n1" in condition["message"]


async def test_a_replaced_daemon_keeps_its_index_and_survivors_theirs(world: World) -> None:
    async with world.controller(world.with_settings(spare_s=60.0)):
        uid = (await world.domain())["metadata"]["uid"]
        pods = {node: await world.daemon(uid, node, ready=True) for node in ("n1", "n2", "n3")}
        before = await world.clique(lambda found: len(found) == 3)
        await world.kill(pods["n2"])
        gone = await world.clique(lambda found: found["n2"]["status"] == "NotReady")
        assert {node: each["index"] for node, each in gone.items()} == {n: each["index"] for n, each in before.items()}
        await world.daemon(uid, "n4", ready=True)
        young = await world.daemon(uid, "n2", ready=True)
        address = young["status"]["podIP"]
        after = await world.clique(lambda found: found["n2"]["ipAddress"] == address and "n4" in found)
        for node, each in before.items():
            assert after[node]["index"] == each["index"]
        made = (await world.wait(CLIQUES, lambda found: found, world.driver))[0]
        assert young["metadata"]["uid"] in {owner["uid"] for owner in made["metadata"]["ownerReferences"]}


async def test_a_clique_deleted_by_hand_comes_back_with_its_indices(world: World) -> None:
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        first = await world.daemon(uid, "z", ready=True)
        await world.clique(lambda found: "z" in found)
        await world.daemon(uid, "a", ready=True)
        before = await world.clique(lambda found: len(found) == 2)
        await world.ready_domain(decide=lambda each: len(nodes_of(each)) == 2)
        name = f"{uid}.{FABRIC}"
        old = await world.get(CLIQUES, name, world.driver)
        await world.kube.delete(CLIQUES, name, world.driver)

        def is_new(found: list[dict[str, Any]]) -> Any:
            new = [each for each in found if each["metadata"]["uid"] != old["metadata"]["uid"]]
            return new and len(new[0].get("daemons") or ()) == 2

        await world.wait(CLIQUES, is_new, world.driver)
        after = await world.clique(lambda found: len(found) == 2)
        assert after == before
        assert first["status"]["podIP"] == after["z"]["ipAddress"]


async def test_a_node_that_moved_to_another_clique_leaves_its_place(world: World) -> None:
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        pods = {node: await world.daemon(uid, node, ready=True) for node in ("n1", "n2")}
        await world.clique(lambda found: len(found) == 2)
        await world.kill(pods["n1"])
        await world.daemon(uid, "n1", clique=OTHER_FABRIC, ready=True)

        def has_moved(found: list[dict[str, Any]]) -> bool:
            members = {each["metadata"]["name"]: [d["nodeName"] for d in each.get("daemons") or ()] for each in found}
            return members == {f"{uid}.{FABRIC}": ["n2"], f"{uid}.{OTHER_FABRIC}": ["n1"]}

        await world.wait(CLIQUES, has_moved, world.driver)
        domain = await world.ready_domain(decide=lambda each: nodes_of(each)["n1"]["cliqueID"] == OTHER_FABRIC)
        assert len(domain["status"]["nodes"]) == 2


async def test_a_daemon_of_another_domain_keeps_no_entry(world: World) -> None:
    """Not on its node, and not with its address: both are used again."""
    async with world.controller():
        uid = (await world.domain("one", "one"))["metadata"]["uid"]
        other = (await world.domain("two", "two"))["metadata"]["uid"]
        pod = await world.daemon(uid, "n1", ready=True)
        await world.ready_domain("one", lambda each: "n1" in nodes_of(each))
        await world.kill(pod)
        await world.daemon(other, "n1", ready=True, ip=pod["status"]["podIP"])
        await world.ready_domain("two", lambda each: "n1" in nodes_of(each))
        await world.ready_domain("one", lambda each: not nodes_of(each))


async def test_daemons_of_the_go_driver_insert_themselves_beside(world: World) -> None:
    """A write on an old view fails, whoever made it: so indices stay unique with two writers."""
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        await world.daemon(uid, "n0", ready=True)
        await world.clique(lambda found: "n0" in found)
        name = f"{uid}.{FABRIC}"

        async def insert(node: str) -> None:
            pod = await world.daemon(uid, node)
            is_in = False
            while not is_in:
                there = await world.get(CLIQUES, name, world.driver)
                joined = join(clique(there).daemons, node, pod["status"]["podIP"], FABRIC, 18)
                body = {**there, "daemons": [daemon_wire(each) for each in joined]}
                with contextlib.suppress(ApiError):
                    await world.kube.update(CLIQUES, name, orjson.dumps(body), world.driver)
                    is_in = True

        await asyncio.gather(*(insert(f"n{at}") for at in range(1, 12)))
        members = await world.clique(lambda found: len(found) == 12)
        assert sorted(each["index"] for each in members.values()) == list(range(12))


async def test_a_full_clique_is_told(world: World) -> None:
    async with world.controller(world.with_settings(max_nodes=2)):
        uid = (await world.domain())["metadata"]["uid"]
        for at in range(3):
            await world.daemon(uid, f"n{at}", ready=True)
            await world.clique(lambda found, at=at: len(found) >= min(at + 1, 2))
        told = await world.event("CliqueFull")
        assert "n2" in told["message"]
        assert "MAX_NODES_PER_IMEX_DOMAIN" in told["message"]


async def test_a_name_that_is_taken_is_told_and_taken_over_when_free(world: World) -> None:
    devices = {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]}
    body = {"metadata": {"name": "channel"}, "spec": {"spec": {"devices": devices}}}
    await world.make(TEMPLATES, "resource.k8s.io/v1", "ResourceClaimTemplate", body, world.user)
    async with world.controller():
        await world.domain()
        told = await world.event("NameConflict")
        assert f"{world.user}/channel" in told["message"]
        assert told["involvedObject"]["name"] == "domain"
        domain = await world.ready_domain()
        assert domain["status"]["status"] == "NotReady"
        created = next(each for each in domain["status"]["conditions"] if each["type"] == "TemplatesCreated")
        assert (created["status"], created["reason"]) == ("False", "NameConflict")


async def test_two_domains_with_one_template_name(world: World) -> None:
    async with world.controller():
        uid = (await world.domain("first"))["metadata"]["uid"]
        await world.ready_domain("first")
        await world.domain("second")
        told = await world.event("NameConflict")
        assert uid in told["message"]
        assert told["involvedObject"]["name"] == "second"


async def test_a_domain_without_spec_is_told_and_can_be_deleted(world: World) -> None:
    async with world.controller():
        body = {"metadata": {"name": "empty"}}
        await world.make(DOMAINS, GROUP_VERSION, "ComputeDomain", body, world.user)
        assert "spec.channel" in (await world.event("InvalidSpec"))["message"]
        await world.kube.delete(DOMAINS, "empty", world.user)
        await world.gone(DOMAINS, world.user)


async def test_a_daemon_set_in_an_additional_namespace_is_respected(world: World) -> None:
    async with world.controller(world.with_settings(namespace=world.other)):
        uid = (await world.domain())["metadata"]["uid"]
        await world.wait(DAEMON_SETS, lambda found: found, world.other)
        await world.ready_domain()
    async with world.controller(world.with_settings(additional=(world.other,))):
        await world.daemon(uid, "n1", ready=True, space=world.other)
        await world.clique(lambda found: "n1" in found, world.other)
        await world.ready_domain(decide=lambda each: "n1" in nodes_of(each))
        page = await world.kube.list(DAEMON_SETS, world.driver)
        assert not page.items
        await world.kube.delete(DOMAINS, "domain", world.user)
        await world.gone(DOMAINS, world.user)
        await world.gone(DAEMON_SETS, world.other)
        await world.gone(TEMPLATES, world.other)


async def test_two_daemon_sets_of_one_domain_are_told_and_change_no_member(world: World) -> None:
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        await world.daemon(uid, "n1", ready=True)
        before = await world.ready_domain(decide=nodes_of)
    second = daemon_set(uid, world.with_settings(namespace=world.other).daemons)
    await world.kube.create(DAEMON_SETS, orjson.dumps(second), world.other)
    async with world.controller(world.with_settings(additional=(world.other,))):
        told = await world.event("DuplicateObject")
        assert told["message"] == "more than one DaemonSet found with same ComputeDomain UID"
        domain = await world.ready_domain()
        assert nodes_of(domain) == nodes_of(before)
        # Deleting the domain removes both.
        await world.kube.delete(DOMAINS, "domain", world.user)
        await world.gone(DOMAINS, world.user)
        await world.gone(DAEMON_SETS, world.driver)
        await world.gone(DAEMON_SETS, world.other)


async def test_host_managed_domains_have_no_daemons(world: World) -> None:
    off = {**gates.defaults().values, "IMEXDaemonsWithDNSNames": False, "ComputeDomainCliques": False}
    async with world.controller(world.with_settings(is_host_managed=True, gates=off)):
        uid = (await world.domain(mode="All", num_nodes=4))["metadata"]["uid"]
        domain = await world.ready_domain()
        assert domain["status"]["status"] == "Ready"
        claim = await world.get(TEMPLATES, "channel", world.user)
        parameters = claim["spec"]["spec"]["devices"]["config"][0]["opaque"]["parameters"]
        assert parameters == {
            "apiVersion": GROUP_VERSION,
            "kind": "ComputeDomainChannelConfig",
            "domainID": uid,
            "allocationMode": "Single",
        }
        assert not (await world.kube.list(DAEMON_SETS, world.driver)).items
        await world.kube.delete(DOMAINS, "domain", world.user)
        await world.gone(DOMAINS, world.user)
        await world.gone(TEMPLATES, world.user)


async def test_without_clique_objects_members_are_in_the_status(world: World) -> None:
    off = {**gates.defaults().values, "ComputeDomainCliques": False}
    async with world.controller(world.with_settings(gates=off)):
        uid = (await world.domain())["metadata"]["uid"]
        pods = [await world.daemon(uid, f"n{at}", ready=True) for at in range(3)]
        domain = await world.ready_domain(decide=lambda each: len(nodes_of(each)) == 3)
        before = {node: each["index"] for node, each in nodes_of(domain).items()}
        assert sorted(before.values()) == [0, 1, 2]
        await world.kill(pods[0])
        after = nodes_of(await world.ready_domain(decide=lambda each: len(nodes_of(each)) == 2))
        assert {node: each["index"] for node, each in after.items()} == {n: before[n] for n in ("n1", "n2")}
        assert not (await world.kube.list(CLIQUES, world.driver)).items


async def test_a_new_image_is_for_daemons_to_come(world: World) -> None:
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        await world.ready_domain()
        pod = await world.daemon(uid, "n1", ready=True)
        await world.clique(lambda found: "n1" in found)
    other = {**gates.defaults().values, "MPSSupport": True}

    def image(found: list[dict[str, Any]]) -> Any:
        return found and found[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "registry/driver:v2"

    def gate(found: list[dict[str, Any]]) -> bool:
        env = found[0]["spec"]["template"]["spec"]["containers"][0]["env"]
        return any(each["name"] == "FEATURE_GATES" and "MPSSupport=true" in each["value"] for each in env)

    async with world.controller(world.with_settings(image="registry/driver:v2", gates=other)):
        await world.wait(DAEMON_SETS, image, world.driver)
        daemons = await world.get(DAEMON_SETS, f"computedomain-daemon-{uid}", world.driver)
        assert daemons["spec"]["updateStrategy"] == {"type": "OnDelete"}
        assert not gate([daemons])
        await world.kill(pod)
        await world.wait(DAEMON_SETS, gate, world.driver, what="the gates, once no daemon runs")


async def test_what_a_dead_controller_left_is_removed(world: World) -> None:
    """The domain went while no controller ran, and somebody removed its finalizer."""
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        await world.ready_domain()
    await world.node("n1", uid)
    await world.kube.patch(DOMAINS, "domain", b'{"metadata":{"finalizers":null}}', world.user)
    await world.kube.delete(DOMAINS, "domain", world.user)
    async with world.controller():
        await world.gone(DAEMON_SETS, world.driver)
        await world.gone(TEMPLATES, world.driver)
        await world.gone(TEMPLATES, world.user)
        await world.wait(NODES, lambda found: not found[0]["metadata"].get("labels", {}).get(DOMAIN_LABEL))


async def test_a_daemon_set_deleted_by_hand_is_made_anew(world: World) -> None:
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        await world.ready_domain()
        name = f"computedomain-daemon-{uid}"
        old = await world.get(DAEMON_SETS, name, world.driver)
        await world.kube.delete(DAEMON_SETS, name, world.driver)
        await world.kube.delete(TEMPLATES, name, world.driver)

        def is_new(found: list[dict[str, Any]]) -> Any:
            return found and found[0]["metadata"]["uid"] != old["metadata"]["uid"]

        await world.wait(DAEMON_SETS, is_new, world.driver)
        await world.wait(
            TEMPLATES, lambda found: found and "deletionTimestamp" not in found[0]["metadata"], world.driver
        )


async def test_a_foreign_finalizer_is_told_and_waited_for(world: World) -> None:
    async with world.controller():
        await world.domain()
        await world.ready_domain()
        keep = orjson.dumps({"metadata": {"finalizers": [FINALIZER, "example.com/keep"]}})
        await world.kube.patch(TEMPLATES, "channel", keep, world.user)
        await world.kube.delete(DOMAINS, "domain", world.user)
        told = await world.event("DeletionBlocked")
        assert f"{world.user}/channel" in told["message"]
        assert "example.com/keep" in told["message"]
        await world.kube.patch(TEMPLATES, "channel", b'{"metadata":{"finalizers":null}}', world.user)
        await world.gone(DOMAINS, world.user)


async def test_a_status_edited_by_hand_is_set_right(world: World) -> None:
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        await world.daemon(uid, "n1", ready=True)
        await world.ready_domain(decide=lambda each: "n1" in nodes_of(each))
        body = {"status": {"status": "NotReady", "nodes": None}}
        await world.kube.patch(DOMAINS, "domain", orjson.dumps(body), world.user, subresource="status")
        await world.ready_domain(decide=lambda each: each["status"]["status"] == "Ready" and "n1" in nodes_of(each))


async def test_a_settled_domain_is_not_written(world: World) -> None:
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        pod = await world.daemon(uid, "n1", ready=True)
        before = await world.ready_domain(decide=lambda each: "n1" in nodes_of(each))
        members = await world.get(CLIQUES, f"{uid}.{FABRIC}", world.driver)
        for at in range(3):
            # A change that means nothing makes the controller look; the next domain shows that it has looked.
            touch = orjson.dumps({"metadata": {"annotations": {"touched": str(at)}}})
            await world.kube.patch(PODS, pod["metadata"]["name"], touch, world.driver)
            await world.domain(f"next-{at}", f"next-{at}")
            await world.ready_domain(f"next-{at}")
        assert await world.get(DOMAINS, "domain", world.user) == before
        assert await world.get(CLIQUES, f"{uid}.{FABRIC}", world.driver) == members


async def test_objects_on_the_server_are_those_of_the_go_controller(world: World) -> None:
    if isinstance(world.kube, FakeKube):
        pytest.skip("the API server in memory adds no defaults")
    for name in ("daemon-set", "daemon-template", "workload-template"):
        there = golden(name)
        uid = there["metadata"]["labels"][DOMAIN_LABEL]
        domain = compute_domain(golden("domain"))
        made = {
            "daemon-set": lambda uid=uid: daemon_set(uid, GO_SETTINGS),
            "daemon-template": lambda uid=uid: daemon_claim_template(uid, "nvidia-dra"),
            "workload-template": lambda domain=domain: workload_claim_template(domain),
        }[name]()
        made["metadata"]["namespace"] = world.driver
        made.get("spec", {}).get("template", {}).get("metadata", {}).pop("annotations", None)
        resource = DAEMON_SETS if name == "daemon-set" else TEMPLATES
        stored = document(await world.kube.create(resource, orjson.dumps(made), world.driver))
        if name == "daemon-set":
            env = [each["spec"]["template"]["spec"]["containers"][0]["env"] for each in (stored, there)]
            env[0][-1]["value"] = env[1][-1]["value"]  # newer gates
        assert stored["spec"] == there["spec"]
        for key in ("finalizers", "labels"):
            assert stored["metadata"][key] == there["metadata"][key]


async def test_where_the_crd_has_no_conditions_none_are_written(world: World) -> None:
    """As with the CRD of the Go driver, which helm never upgrades: they would be dropped and written for ever."""
    name = "computedomains.resource.nvidia.com"
    whole = await world.get(CRDS, name)
    less = orjson.loads(orjson.dumps(whole["spec"]["versions"]))
    status = less[0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert status.pop("conditions")
    await world.kube.patch(CRDS, name, orjson.dumps({"spec": {"versions": less}}))
    try:
        await _until_conditions(world, "probe-without", False)
        async with world.controller():
            await world.domain()
            before = await world.ready_domain()
            assert "conditions" not in before["status"]
            await world.domain("next", "next")
            await world.ready_domain("next")
            assert await world.get(DOMAINS, "domain", world.user) == before
    finally:
        await world.kube.patch(CRDS, name, orjson.dumps({"spec": {"versions": whole["spec"]["versions"]}}))
        await _until_conditions(world, "probe-with", True)


async def _until_conditions(world: World, name: str, are_kept: bool) -> None:
    """Return when the API server keeps conditions, or drops them: it takes a new schema over some time later."""
    now = "2026-11-30T10:00:00Z"
    condition = {"type": "Probe", "status": "True", "reason": "R", "message": "", "lastTransitionTime": now}
    async with asyncio.timeout(30):
        for turn in itertools.count():
            probe = f"{name}-{turn}"
            with contextlib.suppress(ApiError):  # the old schema's handler refuses calls while it ends
                await world.domain(probe, probe)
                body = orjson.dumps({"status": {"status": "NotReady", "conditions": [condition]}})
                raw = await world.kube.patch(DOMAINS, probe, body, world.user, subresource="status")
                await world.kube.delete(DOMAINS, probe, world.user)
                if isinstance(world.kube, FakeKube) or ("conditions" in document(raw)["status"]) == are_kept:
                    return
            await asyncio.sleep(0.1)
