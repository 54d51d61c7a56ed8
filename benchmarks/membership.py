"""Two designs of membership on a real API server: the controller as single writer, and compare-and-set by the daemons.

    python -m benchmarks.membership [--nodes 18,36,72]

N daemons of one clique start at once, each with its own watch of the clique, in this process. Counted is what an API
server sees: writes of the clique, conflicts, bytes that the watches carried; and the time from the first daemon's start
until each daemon has seen its own entry Ready. A pod is ready as soon as its daemon knows all it needs: itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.api import control_plane, ready
from nvdra.api.compute_domain import DOMAIN_LABEL, Clique, Member, Owner, clique, clique_name, clique_wire, daemon_wire
from nvdra.controller.settings import CLIQUES, PODS
from nvdra.domains.membership import join, with_status
from nvdra.kube import HttpKube, Response, access, document
from nvdra.ports import ApiError
from tests.cluster.harness.programs import KUBERNETES, found
from tests.contract.domain_world import FABRIC, World, crds, install

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Result:
    design: str
    nodes: int
    seconds: float | None
    writes: int
    conflicts: int
    watched_mib: float

    def __str__(self) -> str:
        per_node = self.writes / self.nodes
        writes = f"{self.writes:6} clique writes ({per_node:5.2f} a node)  {self.conflicts:6} conflicts"
        took = f"> {TIMEOUT_S:5g} s" if self.seconds is None else f"{self.seconds:7.2f} s"
        return f"{self.design:>22}  {self.nodes:5}  {took}  {writes}  {self.watched_mib:8.2f} MiB watched"


class Daemon:
    """One daemon's view of its clique."""

    def __init__(self, kube: HttpKube, world: World, uid: str, node: str, count: Callable[[int], None]) -> None:
        self.kube, self.world, self.uid, self.node, self._count = kube, world, uid, node, count
        self.ip = ""
        self.pod = ""
        self.seen: Clique | None = None
        self.changed = asyncio.Event()

    async def follow(self) -> None:
        """Keep `seen` current; never returns."""
        selector = f"metadata.name={clique_name(self.uid, FABRIC)}"
        while True:
            with contextlib.suppress(ApiError):
                page = await self.kube.list(CLIQUES, self.world.driver, field_selector=selector)
                for raw in page.items:
                    self._took(raw)
                version = page.resource_version
                async for event in self.kube.watch(
                    CLIQUES, self.world.driver, resource_version=version, field_selector=selector
                ):
                    if event.type in ("ADDED", "MODIFIED"):
                        self._took(event.object)

    def _took(self, raw: bytes) -> None:
        self._count(len(raw))
        self.seen = clique(document(raw))
        self.changed.set()

    @property
    def mine(self) -> Member | None:
        members = () if self.seen is None else self.seen.daemons
        return next((each for each in members if (each.node, each.ip) == (self.node, self.ip)), None)

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.changed.clear()
            await self.changed.wait()

    async def start(self) -> None:
        made = await self.world.daemon(self.uid, self.node, clique=None)
        self.pod, self.ip = made["metadata"]["name"], made["status"]["podIP"]

    async def label(self) -> None:
        body = orjson.dumps({"metadata": {"labels": {DOMAIN_LABEL + ".cliqueID": FABRIC}}})
        await self.kube.patch(PODS, self.pod, body, self.world.driver)

    async def by_controller(self) -> None:
        await self.label()
        await self.until(lambda: self.mine is not None)
        await self.world.pod_status(self.pod, ready=True)
        await self.until(lambda: self.mine is not None and self.mine.is_ready)

    async def by_itself(self) -> None:
        await self.label()
        await self._write(lambda members: join(members, self.node, self.ip, FABRIC, 10_000))
        await self.world.pod_status(self.pod, ready=True)
        await self._write(lambda members: with_status(members, self.node, self.ip, True))

    async def _write(self, change: Callable[[tuple[Member, ...]], tuple[Member, ...]]) -> None:
        """Compare and set, again after a conflict as soon as a newer clique was seen, and a little at random."""
        name = clique_name(self.uid, FABRIC)
        while True:
            seen = self.seen
            try:
                if seen is None:
                    body = clique_wire(self.uid, FABRIC, change(()), (Owner(self.pod, "uid"),))
                    raw = await self.kube.create(CLIQUES, orjson.dumps(body), self.world.driver)
                else:
                    members = change(seen.daemons)
                    metadata = {"resourceVersion": seen.meta.resource_version}
                    body = {"metadata": metadata, "daemons": [daemon_wire(each) for each in members]}
                    raw = await self.kube.patch(CLIQUES, name, orjson.dumps(body), self.world.driver)
                self.seen = clique(document(raw))
                return
            except ApiError as error:
                if error.status != 409:
                    raise
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.until(lambda seen=seen: self.seen is not seen), 1.0)
                await asyncio.sleep(random.uniform(0, 0.02))


async def measure(kubeconfig: Path, nodes: int, design: str) -> Result:
    calls: Counter[str] = Counter()
    watched = 0

    def called(response: Response) -> None:
        if "computedomaincliques" in response.url and response.verb in ("POST", "PUT", "PATCH"):
            calls["conflict" if response.status == 409 else "write"] += 1

    def count(size: int) -> None:
        nonlocal watched
        watched += size

    async with (
        HttpKube(access(str(kubeconfig), {}), qps=0, on_response=called) as kube,
        HttpKube(access(str(kubeconfig), {}), qps=0, on_response=called) as of_controller,
    ):
        world, acting = World(kube), World(of_controller)
        await world.set_up()
        acting.driver, acting.user, acting.settings = world.driver, world.user, world.settings
        settings = world.with_settings(max_nodes=10_000)
        controller = acting.controller(settings) if design == "controller" else contextlib.nullcontext()
        async with controller:
            uid = (await world.domain())["metadata"]["uid"]
            daemons = [Daemon(kube, world, uid, f"n{at}", count) for at in range(nodes)]
            following = [asyncio.create_task(each.follow()) for each in daemons]
            await asyncio.gather(*(each.start() for each in daemons))
            began, seconds = time.monotonic(), None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    work = (each.by_controller() if design == "controller" else each.by_itself() for each in daemons)
                    await asyncio.gather(*work)
                seconds = time.monotonic() - began
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            final = clique(await world.get(CLIQUES, clique_name(uid, FABRIC), world.driver))
            assert len({each.index for each in final.daemons}) == len(final.daemons)
        await world.tear_down()
    names = {"controller": "single writer", "daemons": "daemons, each its own"}
    return Result(names[design], nodes, seconds, calls["write"], calls["conflict"], watched / 2**20)


async def _run(kubeconfig: Path, sizes: list[int], designs: list[str]) -> None:
    await ready(kubeconfig)
    async with HttpKube(access(str(kubeconfig), {}), qps=0) as kube:
        await install(kube, crds())
    for nodes in sizes:
        for design in designs:
            print(await measure(kubeconfig, nodes, design), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.membership", description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", default="18,36,72", help="numbers of daemons, separated by commas")
    parser.add_argument("--designs", default="controller,daemons", help="controller, daemons, or both")
    asked = parser.parse_args()
    sizes = [int(each) for each in asked.nodes.split(",")]
    programs = found(KUBERNETES)
    if programs is None:
        raise SystemExit("kube-apiserver is not built: python -m tests.cluster build")
    with tempfile.TemporaryDirectory() as folder, control_plane(Path(folder) / "plane", programs) as kubeconfig:
        asyncio.run(_run(kubeconfig, sizes, asked.designs.split(",")))


if __name__ == "__main__":
    main()
