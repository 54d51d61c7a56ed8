"""Daemons of one ComputeDomain as processes, each on a loopback address of its own, with the IMEX stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nvdra_mock_nvml

from nvdra.api.compute_domain import ASSIGNED_ANNOTATION, Clique, Member, clique, compute_domain
from nvdra.domains.imex import template
from nvdra.ports import Resource
from nvdra.testing.api_server import ApiServer, kubeconfig
from nvdra.testing.kube import FakeKube
from tests.contract.plugin_node import short_folder
from tests.waiting import until

DAEMON = str(Path(sys.executable).with_name("compute-domain-daemon"))
PROGRAMS = Path(nvdra_mock_nvml.__file__).parent / "native"
NAMESPACE, CLIQUE = "drv", "7b1f0f52-3f0c-4c5e-9d7e-2c9b1f6a8e01.32766"
DOMAINS = Resource("resource.nvidia.com", "v1beta1", "computedomains", namespaced=True)
CLIQUES = Resource("resource.nvidia.com", "v1beta1", "computedomaincliques", namespaced=True)
PODS = Resource("", "v1", "pods", namespaced=True)


class Daemon:
    """One daemon in one pod."""

    def __init__(self, world: World, number: int, clique_id: str = CLIQUE) -> None:
        self.world = world
        self.node, self.pod = f"node-{number}", f"daemon-{number}-{world.pods}"
        world.pods += 1
        self.ip = f"127.{world.net}.{number + 1}"
        self.clique_id = clique_id
        self.folder = world.folder / self.pod
        self.imex_folder = self.folder
        self.hosts = self.folder / "hosts"
        self.log_path = self.folder / "log"
        self.pod_uid = ""
        self.process: asyncio.subprocess.Process | None = None
        self.folder.mkdir()
        self.hosts.write_text("127.0.0.1\tlocalhost\n")
        (self.folder / "imexd.cfg.tmpl").write_text(template({}))

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "CLIQUE_ID": self.clique_id,
            "COMPUTE_DOMAIN_UUID": self.world.uid,
            "COMPUTE_DOMAIN_NAME": "dom",
            "COMPUTE_DOMAIN_NAMESPACE": "ns",
            "NODE_NAME": self.node,
            "POD_IP": self.ip,
            "POD_UID": self.pod_uid,
            "POD_NAME": self.pod,
            "POD_NAMESPACE": NAMESPACE,
            "IMEX_FOLDER": str(self.imex_folder),
            "HOSTS_FILE": str(self.hosts),
            "KUBECONFIG": str(self.world.folder / "kubeconfig"),
            "NVDRA_MOCK_HOSTS": str(self.hosts),
            "NVDRA_MOCK_IMEX_STATE": str(self.folder / "state"),
            "V": "6",
        }

    async def create_pod(self, *, assigned: bool = False, metadata: dict[str, Any] | None = None) -> None:
        """metadata: of a DaemonSet's template"""
        annotations = {ASSIGNED_ANNOTATION: "controller"} if assigned else {}
        labels = {"resource.nvidia.com/computeDomain": self.world.uid}
        body = {
            "metadata": {
                "name": self.pod,
                "namespace": NAMESPACE,
                **(metadata or {"labels": labels, "annotations": annotations}),
            },
            "spec": {"nodeName": self.node},
        }
        made = json.loads(await self.world.kube.create(PODS, json.dumps(body).encode(), NAMESPACE))
        self.pod_uid = made["metadata"]["uid"]
        await self.set_ready(False)

    async def set_ready(self, is_ready: bool) -> None:
        stored = json.loads(await self.world.kube.get(PODS, self.pod, NAMESPACE))
        condition = {"type": "Ready", "status": "True" if is_ready else "False"}
        stored["status"] = {"phase": "Running", "podIP": self.ip, "conditions": [condition]}
        await self.world.kube.update(PODS, self.pod, json.dumps(stored).encode(), NAMESPACE, subresource="status")

    async def start(self, **environment: str) -> None:
        if not self.pod_uid:
            await self.create_pod()
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                DAEMON, "run", env={**self.environment, **environment}, stdout=log, stderr=log
            )

    async def check(self, program: str = DAEMON) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            program, "check", env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def nodes(self) -> list[list[str]]:
        """What IMEX says of each line of its list: index, name, address, connection, instance."""
        process = await asyncio.create_subprocess_exec(
            str(PROGRAMS / "nvidia-imex-ctl"),
            "-c",
            str(self.imex_folder / "imexd.cfg"),
            "-N",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 30)
        return [line.split() for line in said.decode().splitlines()]

    async def sees(self, *connections: str) -> None:
        """Return once IMEX says this of the first lines of its list."""
        wanted = [[each] for each in connections]
        async with asyncio.timeout(60):
            while [line[3:4] for line in (await self.nodes())[: len(wanted)]] != wanted:
                pass

    async def ready(self) -> None:
        """Return once IMEX is ready."""
        async with asyncio.timeout(60):
            while await self._asked() != "READY":
                pass

    async def _asked(self) -> str:
        process = await asyncio.create_subprocess_exec(
            str(PROGRAMS / "nvidia-imex-ctl"),
            "-c",
            str(self.imex_folder / "imexd.cfg"),
            "-q",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 30)
        return said.decode().strip()

    def kill_imex(self) -> None:
        """End IMEX, which a killed daemon leaves behind; in a container it ends with the first process."""
        for status in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                is_mine = f"POD_NAME={self.pod}".encode() in status.read_bytes().split(b"\0")
                is_imex = (status.parent / "comm").read_text().strip() == "nvidia-imex"
                is_here = str(self.world.folder).encode() in status.read_bytes()
                if is_mine and is_imex and is_here:
                    os.kill(int(status.parent.name), signal.SIGKILL)

    def faults(self, text: str) -> None:
        """What IMEX does wrong from now on."""
        (self.folder / "nvdra-mock-imex-faults").write_text(text)

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), 60)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.ended()

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def named(self) -> list[str]:
        """The lines of the hosts file that name daemons."""
        return [line for line in self.hosts.read_text().splitlines() if "compute-domain-daemon-" in line]


class World:
    """A ComputeDomain, an API server, and daemons."""

    def __init__(self, folder: Path, kube: FakeKube | None = None) -> None:
        self.folder = folder
        self.kube = kube or FakeKube()
        self.server = ApiServer(self.kube)
        self.uid = ""
        self.pods = 0
        # Tests run side by side, and IMEX has fixed ports.
        self.net = f"{random.randint(1, 250)}.{random.randint(1, 250)}"
        self.daemons: list[Daemon] = []

    def daemon(self, number: int, clique_id: str = CLIQUE) -> Daemon:
        made = Daemon(self, number, clique_id)
        self.daemons.append(made)
        return made

    @property
    def clique(self) -> Clique:
        found = [clique(thing) for thing in self.kube.objects("computedomaincliques")]
        return found[0] if found else Clique(compute_domain({}).meta)

    def member(self, node: str) -> Member | None:
        return next((each for each in self.clique.daemons if each.node == node), None)

    async def joined(self, *daemons: Daemon, status: str = "") -> None:
        """Return once each daemon has its entry, with this status."""

        def has(daemon: Daemon) -> bool:
            found = self.member(daemon.node)
            return found is not None and found.ip == daemon.ip and status in ("", found.status)

        try:
            await until(lambda: all(map(has, daemons)), "entries")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{daemons[0].log[-3000:]}") from None


@asynccontextmanager
async def world(num_nodes: int = 0, *, others: int = 0) -> AsyncIterator[World]:
    """A domain without daemons; none of them runs afterwards.

    others   objects made before the domain: two API servers give the same UIDs
    """
    with short_folder() as folder:
        made = World(folder)
        for number in range(others):
            await made.kube.create(PODS, json.dumps({"metadata": {"name": f"other-{number}"}}).encode(), "ns")
        body: dict[str, Any] = {
            "apiVersion": "resource.nvidia.com/v1beta1",
            "kind": "ComputeDomain",
            "metadata": {"name": "dom", "namespace": "ns"},
            "spec": {"numNodes": num_nodes, "channel": {"resourceClaimTemplate": {"name": "t"}}},
        }
        created = json.loads(await made.kube.create(DOMAINS, json.dumps(body).encode(), "ns"))
        made.uid = created["metadata"]["uid"]
        async with made.server.serving() as url:
            (folder / "kubeconfig").write_text(kubeconfig(url, ""))
            try:
                yield made
            finally:
                for daemon in made.daemons:
                    if daemon.process is not None and daemon.process.returncode is None:
                        with contextlib.suppress(Exception):
                            await daemon.stop()
                        if daemon.process.returncode is None:
                            daemon.process.kill()
                            await daemon.process.wait()
