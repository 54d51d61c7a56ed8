"""The Go driver's controller and ours, one after the other, on the same domains.

NVDRA_GO_COMPUTE_DOMAIN_CONTROLLER names a build of the Go driver's compute-domain-controller. It reads its templates
from /templates, where its source's folder of that name must lie. Needs kube-apiserver.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.api import control_plane, ready
from nvdra.api.compute_domain import DOMAIN_LABEL
from nvdra.controller.settings import CLIQUES, DAEMON_SETS, DOMAINS, NODES
from nvdra.kube import HttpKube, access
from tests.cluster.harness.programs import KUBERNETES, found
from tests.contract.domain_world import TEMPLATES, World, crds, install

PROGRAM = os.environ.get("NVDRA_GO_COMPUTE_DOMAIN_CONTROLLER", "")
pytestmark = pytest.mark.skipif(
    not (PROGRAM and found(KUBERNETES) and Path("/templates/compute-domain-daemon.tmpl.yaml").exists()),
    reason="NVDRA_GO_COMPUTE_DOMAIN_CONTROLLER is not set, or /templates or kube-apiserver is missing",
)


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    programs = found(KUBERNETES)
    assert programs is not None
    with control_plane(tmp_path_factory.mktemp("plane") / "plane", programs) as made:
        yield made


@pytest.fixture
async def world(kubeconfig: Path) -> AsyncIterator[World]:
    await ready(kubeconfig)
    async with HttpKube(access(str(kubeconfig), {}), qps=0) as kube:
        await install(kube, crds())
        made = World(kube)
        await made.set_up()
        yield made
        await made.tear_down()


@asynccontextmanager
async def go_controller(world: World, kubeconfig: Path, log: Path) -> AsyncIterator[None]:
    """The Go controller while the context lasts."""
    flags = ["--pod-name=go-0", f"--namespace={world.driver}", "--image-name=registry/driver:go"]
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *flags,
            "--log-verbosity-cd-daemon=4",
            f"--kubeconfig={kubeconfig}",
            stdout=file,
            stderr=file,
        )
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)


async def test_ours_takes_over_and_ends_what_the_go_controller_made(
    world: World, kubeconfig: Path, tmp_path: Path
) -> None:
    async with go_controller(world, kubeconfig, tmp_path / "log"):
        uid = (await world.domain(num_nodes=1))["metadata"]["uid"]
        await world.wait(TEMPLATES, lambda found: found, world.user)
        pod = await world.daemon(uid, "n1", ready=True)
        await world.ready_domain()
    name = f"computedomain-daemon-{uid}"
    before = [
        await world.get(resource, named, space)
        for resource, named, space in ((TEMPLATES, name, world.driver), (TEMPLATES, "channel", world.user))
    ]
    async with world.controller():
        await world.clique(lambda found: "n1" in found)
        await world.ready_domain(
            decide=lambda each: each["status"]["status"] == "Ready" and each["status"].get("nodes")
        )
        # The templates stay as they are; the DaemonSet has the image for daemons to come.
        assert [
            await world.get(resource, named, space)
            for resource, named, space in ((TEMPLATES, name, world.driver), (TEMPLATES, "channel", world.user))
        ] == before
        daemons = await world.get(DAEMON_SETS, name, world.driver)
        assert daemons["spec"]["template"]["spec"]["containers"][0]["image"] == world.settings.daemons.image
        assert daemons["spec"]["updateStrategy"] == {"type": "OnDelete"}
        await world.node("n1", uid)
        await world.kill(pod)
        await world.kube.delete(DOMAINS, "domain", world.user)
        await world.gone(DOMAINS, world.user)
        await world.gone(DAEMON_SETS, world.driver)
        await world.gone(TEMPLATES, world.driver)
        await world.wait(NODES, lambda found: DOMAIN_LABEL not in found[0]["metadata"].get("labels", {}))


async def test_the_go_controller_takes_over_and_ends_what_ours_made(
    world: World, kubeconfig: Path, tmp_path: Path
) -> None:
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        await world.daemon(uid, "n1", ready=True)
        await world.ready_domain(decide=lambda each: each["status"].get("nodes"))
    (before,) = (await world.kube.list(CLIQUES, world.driver)).items
    async with go_controller(world, kubeconfig, tmp_path / "log"):
        await world.daemon(uid, "n2", clique="", ready=True)
        domain = await world.ready_domain(decide=lambda each: len(each["status"].get("nodes", ())) == 2)
        assert {each["index"] for each in domain["status"]["nodes"]} == {0, -1}
        assert (await world.kube.list(CLIQUES, world.driver)).items == (before,)
        await world.kube.delete(DOMAINS, "domain", world.user)
        await world.gone(DOMAINS, world.user)
        await world.gone(DAEMON_SETS, world.driver)
        await world.gone(TEMPLATES, world.driver)
        await world.gone(TEMPLATES, world.user)
