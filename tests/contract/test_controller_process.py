"""compute-domain-controller as a process of its own: what it logs, serves and weighs, and how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nvdra.api.compute_domain import DOMAIN_LABEL
from nvdra.controller.settings import DAEMON_SETS, DOMAINS, LEASES, NODES
from nvdra.testing.api_server import ApiServer, kubeconfig
from nvdra.testing.kube import FakeKube
from tests.contract.domain_world import World

PROGRAM = str(Path(sys.executable).with_name("compute-domain-controller"))
TIMEOUT_S = 60.0


class Process:
    """One controller."""

    def __init__(self, folder: Path, world: World, name: str) -> None:
        self._folder, self._world, self._name = folder, world, name
        self.log_path = folder / f"{name}.log"
        self.log_path.touch()
        self.process: asyncio.subprocess.Process

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    async def start(self, *flags: str, verbosity: int = 2) -> None:
        environ = {
            **os.environ,
            "KUBECONFIG": str(self._folder / "kubeconfig"),
            "POD_NAME": self._name,
            "NAMESPACE": self._world.driver,
            "IMAGE_NAME": "registry/driver:v1",
            "LOG_VERBOSITY_CD_DAEMON": "4",
        }
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                PROGRAM, "-v", str(verbosity), *flags, env=environ, stdout=log, stderr=log
            )

    async def logged(self, text: str) -> str:
        """The first line with a text, once there is one."""
        async with asyncio.timeout(TIMEOUT_S):
            while text not in self.log:
                assert self.process.returncode is None, self.log
                await asyncio.sleep(0.02)
        return next(line for line in self.log.splitlines() if text in line)

    def rss_mib(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    async def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), TIMEOUT_S)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    kube = FakeKube()
    async with ApiServer(kube).serving() as url:
        await asyncio.to_thread((tmp_path / "kubeconfig").write_text, kubeconfig(url))
        made = World(kube)
        await made.set_up()
        yield made


@asynccontextmanager
async def started(folder: Path, world: World, name: str, *flags: str, verbosity: int = 2) -> AsyncIterator[Process]:
    made = Process(folder, world, name)
    await made.start(*flags, verbosity=verbosity)
    try:
        yield made
    finally:
        await made.end(signal.SIGKILL)


async def test_it_serves_domains_and_ends_cleanly(world: World, tmp_path: Path) -> None:
    async with started(tmp_path, world, "c-0", "--http-endpoint=127.0.0.1:0") as process:
        await world.domain(num_nodes=1)
        await world.ready_domain()
        port = int(re.search(r'"Serving metrics".* port=(\d+)', process.log)[1])  # type: ignore[index]
        page = await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        )
        assert 'nvidia_dra_compute_domain_info{status="NotReady"} 1.0' in page
        assert 'nvidia_dra_compute_domain_info{status="Ready"} 0.0' in page
        assert process.rss_mib() <= 48
        assert await process.end() == 0
        assert "shutdown" in process.log.splitlines()[-1]


async def test_each_level_logs_what_the_go_controllers_tests_look_for(world: World, tmp_path: Path) -> None:
    """The Go driver's test of controller logs, level by level."""
    shown = {
        "controller manager config": 0,
        "maxNodesPerIMEXDomain": 0,
        "additionalNamespaces:": 0,
        "Verbosity:": 0,
        '"MPSSupport":false': 0,
        "Processing added or updated ComputeDomain": 2,
        "reflector.go": 2,
        "Caches populated": 2,
        "Listing and watching": 3,
        "round_trippers.go": 6,
        '"Response" verb="GET"': 6,
        "Cleanup: perform for": 6,
    }
    await world.domain()
    for level in (0, 1, 2, 3, 5, 6):
        name = f"c-{level}"
        async with started(tmp_path, world, name, verbosity=level) as process:
            await process.logged("controller manager config")
            uid = (await world.domain(name, name))["metadata"]["uid"]
            await world.ready_domain(name)
            await world.wait(DAEMON_SETS, lambda found, uid=uid: any(uid in d["metadata"]["name"] for d in found))
            assert await process.end() == 0
            assert {text for text in shown if text in process.log} == {
                text for text, least in shown.items() if least <= level
            }


async def test_of_two_replicas_one_acts_and_the_other_takes_over(world: World, tmp_path: Path) -> None:
    flags = (
        "--leader-election-enabled",
        f"--leader-election-lease-lock-namespace={world.driver}",
        "--leader-election-lease-duration=3s",
        "--leader-election-renew-deadline=2s",
        "--leader-election-retry-period=500ms",
    )
    async with (
        started(tmp_path, world, "c-0", *flags) as first,
        started(tmp_path, world, "c-1", *flags) as second,
    ):
        name = await world.wait(LEASES, lambda found: found and found[0]["spec"]["holderIdentity"], world.driver)
        leader, other = (first, second) if name.startswith("c-0-") else (second, first)
        await world.domain("one", "one")
        await world.ready_domain("one")
        assert "Became leader" not in other.log
        await leader.end(signal.SIGKILL)
        await other.logged("Became leader")
        await world.domain("two", "two")
        await world.ready_domain("two")
        # A leader that ends lets the lease go.
        assert await other.end() == 0
        lease = await world.wait(LEASES, lambda found: found, world.driver)
        assert lease[0]["spec"]["holderIdentity"] == ""


async def test_a_leader_that_lost_its_lease_ends(world: World, tmp_path: Path) -> None:
    flags = ("--leader-election-enabled", f"--leader-election-lease-lock-namespace={world.driver}")
    flags = (*flags, "--leader-election-retry-period=100ms")
    async with started(tmp_path, world, "c-0", *flags) as process:
        await process.logged("Became leader")
        lease = (await world.wait(LEASES, lambda found: found, world.driver))[0]["metadata"]["name"]
        body = b'{"spec":{"holderIdentity":"somebody","leaseDurationSeconds":15}}'
        await world.kube.patch(LEASES, lease, body, world.driver)
        assert await asyncio.wait_for(process.process.wait(), TIMEOUT_S) == 0
        assert "Lost the leader's lease" in process.log


async def test_a_killed_controller_leaves_nothing_that_the_next_one_cannot_finish(world: World, tmp_path: Path) -> None:
    async with started(tmp_path, world, "c-0") as process:
        uid = (await world.domain())["metadata"]["uid"]
        await world.ready_domain()
        await world.node("n1", uid)
        await world.kube.delete(DOMAINS, "domain", world.user)
        await process.end(signal.SIGKILL)
    async with started(tmp_path, world, "c-1"):
        await world.gone(DOMAINS, world.user)
        await world.gone(DAEMON_SETS, world.driver)

        await world.wait(NODES, lambda found: DOMAIN_LABEL not in found[0]["metadata"].get("labels", {}))


async def test_an_api_server_that_is_away_costs_only_time(world: World, tmp_path: Path) -> None:
    assert isinstance(world.kube, FakeKube)
    async with started(tmp_path, world, "c-0") as process:
        await world.domain("one", "one")
        await world.ready_domain("one")
        world.kube.go_away()
        await process.logged("Could not follow API objects")
        world.kube.heal()
        await world.domain("two", "two")
        await world.ready_domain("two")
        assert await process.end() == 0
