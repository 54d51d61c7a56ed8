"""The controller with the chart's rights alone, on kube-apiserver: each right is needed, and none is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.api import control_plane, ready
from nvdra.controller.controller import Controller
from nvdra.controller.election import Election, LeaseSettings
from nvdra.controller.settings import DAEMON_SETS, DOMAINS, NODES
from nvdra.kube import HttpKube, ResourceApi, Response, access, document
from nvdra.ports import ApiError, Resource
from tests.cluster.chart.rendering import ALL_PROGRAMS, GPUS, NAME, Helm
from tests.cluster.harness.programs import HELM, KUBERNETES, found
from tests.contract.domain_world import TEMPLATES, World, crds, install

pytestmark = pytest.mark.skipif(
    not (found(KUBERNETES) and found(HELM)), reason="kube-apiserver or helm is not built: python -m tests.cluster build"
)
RBAC = "rbac.authorization.k8s.io"
KINDS = {
    "ServiceAccount": Resource("", "v1", "serviceaccounts", namespaced=True),
    "ClusterRole": Resource(RBAC, "v1", "clusterroles", namespaced=False),
    "ClusterRoleBinding": Resource(RBAC, "v1", "clusterrolebindings", namespaced=False),
    "Role": Resource(RBAC, "v1", "roles", namespaced=True),
    "RoleBinding": Resource(RBAC, "v1", "rolebindings", namespaced=True),
}


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    programs = found(KUBERNETES)
    assert programs is not None
    with control_plane(tmp_path_factory.mktemp("plane") / "plane", programs) as made:
        yield made


def rendered(helm: Helm, world: World) -> list[Mapping[str, Any]]:
    """The chart's objects that concern rights of the controller."""
    variable = [{"name": "ADDITIONAL_NAMESPACES", "value": world.other}]
    values = GPUS | {"controller.containers.computeDomain.env": variable}
    objects = helm.render(values, programs=ALL_PROGRAMS, namespace=world.driver).objects
    return [each for each in objects if each["kind"] in KINDS and "controller" in each["metadata"]["name"]]


async def _in_effect(world: World, kube: HttpKube) -> None:
    """The API server's own caches know the roles; it learns of them a moment after they are created."""
    async with asyncio.timeout(30):
        while True:
            with suppress(ApiError):
                # The first needs a role that the API server itself makes at its start.
                await ResourceApi(kube).version()
                await kube.list(DOMAINS)
                await kube.list(DAEMON_SETS, world.driver)
                return
            await asyncio.sleep(0.05)


async def test_the_charts_rights_are_enough(kubeconfig: Path, tmp_path: Path) -> None:
    helm_folder = found(HELM)
    assert helm_folder is not None
    refused: list[Response] = []

    def watched(response: Response) -> None:
        if response.status == 403:
            refused.append(response)

    await ready(kubeconfig)
    async with HttpKube(access(str(kubeconfig), {}), qps=0) as admin:
        await install(admin, crds())
        world = World(admin)
        await world.set_up()
        for each in rendered(Helm(helm_folder / "helm", tmp_path), world):
            namespace = each["metadata"].get("namespace", "")
            await admin.create(KINDS[each["kind"]], orjson.dumps(each), namespace)
        token = await _token(admin, world)
        limited = await asyncio.to_thread(_with_token, kubeconfig, token, tmp_path)
        async with HttpKube(access(limited, {}), qps=0, on_response=watched) as kube:
            await _in_effect(world, kube)
            refused.clear()
            await _works(world, kube)
        assert not refused, refused
        await world.tear_down()


async def _works(world: World, kube: HttpKube) -> None:
    """A whole life of a domain, with daemons in both namespaces, a clash, a new image, and an orphan."""
    lease = LeaseSettings(world.driver, f"{NAME}-controller", "a-uuid", retry_s=0.1)
    election = Election(kube, world.clock, lease)
    await asyncio.wait_for(election.acquire(), 30)
    settings = world.with_settings(additional=(world.other,))
    body = {"metadata": {"name": "taken"}, "spec": {"spec": {"devices": {}}}}
    await world.make(TEMPLATES, "resource.k8s.io/v1", "ResourceClaimTemplate", body, world.user)
    task = asyncio.create_task(Controller(ResourceApi(kube), world.clock, settings).run())
    try:
        uid = (await world.domain())["metadata"]["uid"]
        await world.domain("clash", "taken")
        await world.event("NameConflict")
        pod = await world.daemon(uid, "n1", ready=True)
        await world.daemon(uid, "n2", ready=True)
        await world.clique(lambda found: len(found) == 2)
        await world.kill(pod)
        await world.clique(lambda found: len(found) == 1)
        assert "conditions" in (await world.ready_domain())["status"]
        await world.node("n1", uid)
        await world.kube.delete(DOMAINS, "domain", world.user)
        await world.kube.delete(DOMAINS, "clash", world.user)
        await world.gone(DOMAINS, world.user)
        await world.gone(DAEMON_SETS, world.driver)
        await world.wait(NODES, lambda found: not found[0]["metadata"].get("labels"))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await election.release()


def _with_token(kubeconfig: Path, token: str, folder: Path) -> str:
    config = orjson.loads(kubeconfig.read_bytes())
    config["users"][0]["user"] = {"token": token}
    path = folder / "kubeconfig"
    path.write_bytes(orjson.dumps(config))
    return str(path)


async def _token(admin: HttpKube, world: World) -> str:
    account = KINDS["ServiceAccount"]
    page = await admin.list(account, world.driver)
    name = next(n for n in (document(each)["metadata"]["name"] for each in page.items) if "controller" in n)
    tokens = Resource("", "v1", f"serviceaccounts/{name}/token", namespaced=True)
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    made = document(await admin.create(tokens, orjson.dumps(body), world.driver))
    return str(made["status"]["token"])
