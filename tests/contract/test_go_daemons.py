"""Daemons of the Go driver beside our controller: they insert themselves, and both agree on every entry.

NVDRA_GO_COMPUTE_DOMAIN_DAEMON names a build of the Go driver's compute-domain-daemon, linked statically
(`CGO_ENABLED=0 go build ./cmd/compute-domain-daemon`). Each runs in a folder of its own as its root, with a script in
the place of nvidia-imex. Needs root, busybox and kube-apiserver.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.api import control_plane, ready
from nvdra.controller.settings import CLIQUES
from nvdra.kube import HttpKube, access
from tests.cluster.harness.programs import KUBERNETES, found
from tests.contract.domain_world import FABRIC, World, crds, install

PROGRAM = os.environ.get("NVDRA_GO_COMPUTE_DOMAIN_DAEMON", "")
BUSYBOX = next((path for path in (Path("/usr/bin/busybox"), Path("/bin/busybox")) if path.exists()), None)
pytestmark = pytest.mark.skipif(
    not (PROGRAM and BUSYBOX and found(KUBERNETES) and os.geteuid() == 0),
    reason="NVDRA_GO_COMPUTE_DOMAIN_DAEMON is not set, or root, busybox or kube-apiserver is missing",
)
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
TEMPLATE = "IMEX_CMD_BIND_INTERFACE_IP={{ .IMEXCmdBindInterfaceIP }}\n"


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


class GoDaemon:
    """One daemon of the Go driver, with a pod that is its own."""

    def __init__(self, world: World, uid: str, node: str, pod: dict[str, Any], root: Path, kubeconfig: Path) -> None:
        self.world, self.uid, self.node, self.pod, self.root = world, uid, node, pod, root
        self._kubeconfig = kubeconfig
        self.process: asyncio.subprocess.Process

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    @property
    def ip(self) -> str:
        return str(self.pod["status"]["podIP"])

    def lay_out(self) -> str:
        """Make its root; returns the API server's port."""
        assert BUSYBOX is not None
        config = orjson.loads(self._kubeconfig.read_bytes())
        cluster = config["clusters"][0]["cluster"]
        account = self.root / "var/run/secrets/kubernetes.io/serviceaccount"
        for name in ("bin", "dev", "etc", "imexd", "tmp"):
            (self.root / name).mkdir(parents=True)
        account.mkdir(parents=True)
        (self.root / "dev/null").touch()
        shutil.copy(cluster["certificate-authority"], account / "ca.crt")
        (account / "token").write_text(config["users"][0]["user"]["token"])
        shutil.copy(PROGRAM, self.root / "bin/compute-domain-daemon")
        shutil.copy(BUSYBOX, self.root / "bin/busybox")
        (self.root / "bin/sh").symlink_to("busybox")
        (self.root / "bin/nvidia-imex").write_text("#!/bin/sh\nexec busybox sleep 1000\n")
        (self.root / "bin/nvidia-imex").chmod(0o755)
        (self.root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
        (self.root / "imexd/imexd.cfg.tmpl").write_text(TEMPLATE)
        return str(urllib.parse.urlsplit(cluster["server"]).port)

    async def start(self) -> None:
        port = await asyncio.to_thread(self.lay_out)
        metadata = self.pod["metadata"]
        environ = {
            "PATH": "/bin",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": port,
            "CLIQUE_ID": FABRIC,
            "COMPUTE_DOMAIN_UUID": self.uid,
            "COMPUTE_DOMAIN_NAME": "domain",
            "COMPUTE_DOMAIN_NAMESPACE": self.world.user,
            "NODE_NAME": self.node,
            "POD_IP": self.ip,
            "POD_UID": metadata["uid"],
            "POD_NAME": metadata["name"],
            "POD_NAMESPACE": metadata["namespace"],
            "MAX_NODES_PER_IMEX_DOMAIN": "18",
        }
        with (self.root / "log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                CHROOT, self.root, "/bin/compute-domain-daemon", "-v", "6", "run", env=environ, stdout=log, stderr=log
            )

    async def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
        await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def daemons(
    world: World, uid: str, nodes: list[str], folder: Path, kubeconfig: Path
) -> AsyncIterator[list[GoDaemon]]:
    """Daemons that start at once; their pods are not ready yet, and carry no label of a clique."""
    pods = await asyncio.gather(*(world.daemon(uid, node, clique=None) for node in nodes))
    made = [GoDaemon(world, uid, node, pod, folder / node, kubeconfig) for node, pod in zip(nodes, pods, strict=True)]
    await asyncio.gather(*(each.start() for each in made))
    try:
        yield made
    finally:
        for each in made:
            await each.end(signal.SIGKILL)


async def test_they_join_become_ready_and_leave(world: World, tmp_path: Path, kubeconfig: Path) -> None:
    nodes = [f"n{at}" for at in range(6)]
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        async with daemons(world, uid, nodes, tmp_path, kubeconfig) as running:
            joined = await world.clique(lambda found: len(found) == 6)
            assert sorted(each["index"] for each in joined.values()) == list(range(6))
            for each in running:
                assert joined[each.node]["ipAddress"] == each.ip
                await world.pod_status(each.pod["metadata"]["name"], ready=True)
            ready_now = await world.clique(lambda found: all(each["status"] == "Ready" for each in found.values()))
            assert {node: each["index"] for node, each in ready_now.items()} == {
                node: each["index"] for node, each in joined.items()
            }
            await world.ready_domain(
                decide=lambda domain: [each["status"] for each in domain["status"].get("nodes", ())] == ["Ready"] * 6
            )
            # Each daemon has all names of its peers.
            for each in running:
                hosts = each.root / "etc/hosts"
                async with asyncio.timeout(30):
                    while hosts.read_text().count("compute-domain-daemon-") < 6:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            leaving = running[0]
            await leaving.end()
            assert "Successfully removed daemon" in leaving.log
            await world.kill(leaving.pod)
            left = await world.clique(lambda found: leaving.node not in found)
            assert {node: each["index"] for node, each in left.items()} == {
                node: each["index"] for node, each in joined.items() if node != leaving.node
            }


async def test_the_clique_is_still_once_all_have_joined(world: World, tmp_path: Path, kubeconfig: Path) -> None:
    """Neither the controller nor a daemon writes what the other one does not want."""
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        async with daemons(world, uid, ["n0", "n1", "n2"], tmp_path, kubeconfig) as running:
            await world.clique(lambda found: len(found) == 3)
            for each in running:
                await world.pod_status(each.pod["metadata"]["name"], ready=True)
            await world.clique(lambda found: all(each["status"] == "Ready" for each in found.values()))
            for each in running:
                async with asyncio.timeout(30):
                    while "Wait for updated" not in each.log:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            before = await world.get(CLIQUES, f"{uid}.{FABRIC}", world.driver)
            await world.domain("next", "next")
            await world.ready_domain("next")
            after = await world.get(CLIQUES, f"{uid}.{FABRIC}", world.driver)
            assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
