"""The program dies after every single effect of MPS daemons: on files, mounts, compute modes and the API server.

Whatever is asked next, a fresh program comes to the end of the same story told without a death: the same files and
mounts, the same compute modes, the same Deployments.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from nvdra.checkpoint import Entry, PreparedGroup
from nvdra.gpu.mps import daemon_id
from nvdra.gpu.shares import Shares
from nvdra.gpu.sharing import Sharing
from nvdra.node.checkpoint_writer import Change
from nvdra.node.gpu.actors.mps import MpsActor
from nvdra.node.gpu.mps_upkeep import MpsUpkeep
from nvdra.ports import Event, Resource
from nvdra.testing.host import FakeHost, Killed
from nvdra.testing.mps import FakeDaemonCluster
from tests.crash.story import Act, Node, Story, prepare, then, told, unprepare, wake
from tests.unit.node.mps_world import DAEMONS, NAMESPACE, MpsWorld, actor, lay, mps
from tests.unit.node.world import C

DEPLOYMENTS = Resource("apps", "v1", "deployments", namespaced=True)


class MortalKube:
    """The API server as one program has it: writes are effects of its host, and once that is dead nothing is heard."""

    def __init__(self, kube: FakeDaemonCluster, host: FakeHost) -> None:
        self._kube = kube
        self._host = host

    async def get(self, *arguments: Any, **named: Any) -> bytes:
        return await self._heard(lambda: self._kube.get(*arguments, **named))

    async def list(self, *arguments: Any, **named: Any) -> Any:
        return await self._heard(lambda: self._kube.list(*arguments, **named))

    async def create(self, resource: Resource, body: bytes, namespace: str = "") -> bytes:
        return await self._host.perform("create", resource.plural, lambda: self._kube.create(resource, body, namespace))

    async def delete(self, resource: Resource, name: str, namespace: str = "", **named: Any) -> None:
        await self._host.perform("delete", name, lambda: self._kube.delete(resource, name, namespace, **named))

    async def watch(self, *arguments: Any, **named: Any) -> AsyncIterator[Event]:
        async for event in self._kube.watch(*arguments, **named):
            if self._host.is_dead:
                raise Killed
            yield event

    async def _heard(self, call: Callable[[], Any]) -> Any:
        if not self._host.is_dead:
            result = await call()
            if not self._host.is_dead:
                return result
        raise Killed


class MpsNode(Node):
    """A node whose claims have MPS daemons."""

    kube: FakeDaemonCluster
    pod_uid = ""
    sets_compute_mode = True

    daemons = MpsWorld.daemons
    deployments = MpsWorld.deployments
    modes = MpsWorld.modes
    smi = MpsWorld.smi

    def __init__(self, folder: Path, *, shares: bool = False) -> None:
        super().__init__(folder)
        lay(self)
        if shares:
            self.gates = "MPSSupport=true,ConsumableShares=true"
            self.sharing = Sharing(Shares("unlimited"), mps_under_shares=True, mps_folder=DAEMONS)

    def make_kube(self) -> FakeDaemonCluster:
        return FakeDaemonCluster(clock=self.clock)

    def make_mps(self) -> MpsActor:
        self.mps = actor(self, MortalKube(self.kube, self.host))
        return self.mps

    async def add(self, name: str, *devices: Any, **config: Any) -> Any:
        self.refs[name] = await self.claim(name, *devices, config=mps(**config))
        return self.refs[name]

    async def wakes(self) -> None:
        await self.warm()
        await self.timely(self.sweep.settle())
        await self.timely(self.sweep.half_prepared())
        await self.timely(self.sweep.leftovers())
        upkeep = MpsUpkeep(
            self.clock,
            self.context,
            self.context.driver,
            self.mps,
            lambda: self.inventory,
            is_checkpoint_lost=lambda: self.file.is_quarantined,
        )
        await self.timely(upkeep.clean_up())

    # ── what must hold ─────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """A completed claim has its daemon with its folder and one tmpfs."""
        super().check()
        daemons, names = self.daemons(), {each["metadata"]["name"] for each in self.deployments()}
        for daemon in self._needed():
            assert daemons[daemon] == 1
            assert f"mps-control-daemon-{daemon}" in names

    def check_settled(self) -> None:
        """Nothing is half done: daemons, tmpfs and compute modes are those of completed claims."""
        needed = self._needed()
        assert self.daemons() == dict.fromkeys(sorted(needed), 1)
        assert {each["metadata"]["name"] for each in self.deployments()} == {f"mps-control-daemon-{d}" for d in needed}
        assert len(self.kube.objects("pods")) == len(needed)
        served = {uuid for daemon in needed for uuid in needed[daemon]}
        assert self.smi.compute_modes == {
            uuid: "EXCLUSIVE_PROCESS" if uuid in served else "DEFAULT" for uuid in self.smi.compute_modes
        }

    def _needed(self) -> dict[str, list[str]]:
        groups = [g for entry in self.completed().values() for g in entry.prepared if isinstance(g, PreparedGroup)]
        return {g.mps_daemon_id: [device.uuid for device in g.devices] for g in groups if g.mps_daemon_id}

    def end(self) -> object:
        specs = {each["metadata"]["name"]: each["spec"] for each in self.deployments()}
        return self.files(), self.daemons(), self.modes(), specs


# ── beginnings ─────────────────────────────────────────────────────────────────────────────────────────────────


async def fresh(node: MpsNode) -> None:
    await node.warm()
    await node.prepared(await node.add("bystander", "gpu-3"))
    await node.add("one", "gpu-0")
    await node.add("pair", "gpu-1", "gpu-2", defaultActiveThreadPercentage=100)


def prepared(*names: str) -> Act:
    return then(fresh, prepare(*names))


async def begun_by_the_go_driver(node: MpsNode) -> None:
    """It died after its Deployment was created: two mounts are there after a retry, and nothing of ours."""
    await fresh(node)
    ref = node.refs["one"]
    claim = next(each for each in node.kube.objects("resourceclaims") if each["metadata"]["uid"] == ref.uid)
    entry = Entry("PrepareStarted", json.dumps(claim["status"]).encode(), (), ref.name, ref.namespace)
    await node.checkpoint_writer.submit(lambda checkpoint: Change(None, entries={ref.uid: entry}))
    (uuid,) = [gpu.uuid for gpu in node.inventory.gpus.values() if gpu.minor == 0]
    daemon = daemon_id(ref.uid, [uuid])
    for folder in ("shm", "pipe", "log"):
        await node.host.mkdir(f"{DAEMONS}/{daemon}/{folder}", mode=0o755)
    for _ in range(2):
        await node.host.mount_tmpfs(f"{DAEMONS}/{daemon}/shm", size="1k")
    node.smi.compute_modes[uuid] = "EXCLUSIVE_PROCESS"
    name = f"mps-control-daemon-{daemon}"
    template = {"metadata": {"labels": {"app": name}}, "spec": {}}
    body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": {"template": template}}
    await node.kube.create(DEPLOYMENTS, json.dumps(body).encode(), NAMESPACE)


async def completed_by_the_go_driver(node: MpsNode) -> None:
    """Its daemons do not say what compute mode was before."""
    await prepared("pair")(node)
    for daemon in node.daemons():
        (node.folder / DAEMONS.strip("/") / daemon / "compute-modes.json").unlink()


async def deserted(node: MpsNode) -> None:
    """The entry is gone and the daemon is not."""
    await prepared("pair")(node)
    ref = node.refs["pair"]
    await node.checkpoint_writer.submit(lambda _checkpoint: Change(None, entries={ref.uid: None}))
    await node.host.remove(f"{C}/k8s.gpu.nvidia.com-claim_{ref.uid}.yaml")


def refuse(name: str) -> Act:
    return lambda node: node.refused(node.refs[name])


def forbidden(act: Act) -> Act:
    async def forbid(node: MpsNode) -> None:
        await act(node)
        node.kube.fail(403, times=1000, verb="create", plural="deployments")

    return forbid


async def forgive(node: MpsNode) -> None:
    node.kube.heal()


STORIES = {
    "prepare": Story(fresh, prepare("one"), prepare("one")),
    "prepare, then released": Story(fresh, prepare("one"), unprepare("one")),
    "prepare two GPUs": Story(fresh, prepare("pair"), prepare("pair")),
    "prepare two claims, then one released": Story(
        fresh, prepare("one", "pair"), then(unprepare("one"), prepare("pair"))
    ),
    "unprepare": Story(prepared("one"), unprepare("one"), unprepare("one")),
    "unprepare two GPUs": Story(prepared("pair"), unprepare("pair"), unprepare("pair")),
    "unprepare, then prepared": Story(prepared("pair"), unprepare("pair"), prepare("pair")),
    "a Deployment is refused": Story(forbidden(fresh), refuse("pair"), then(forgive, prepare("pair"))),
    "a Deployment is refused, then released": Story(forbidden(fresh), refuse("one"), then(forgive, unprepare("one"))),
    "begun by the Go driver": Story(begun_by_the_go_driver, prepare("one"), prepare("one")),
    "begun by the Go driver, then released": Story(begun_by_the_go_driver, unprepare("one"), unprepare("one")),
    "begun by the Go driver, rolled back": Story(begun_by_the_go_driver, wake, wake),
    "completed by the Go driver": Story(completed_by_the_go_driver, unprepare("pair"), unprepare("pair")),
    "deserted": Story(deserted, wake, wake),
}


@pytest.mark.parametrize("name", STORIES)
async def test_every_death_comes_to_the_same_end(memory: Path, name: str) -> None:
    story = STORIES[name]
    end, _ = await told(MpsNode(memory / "whole"), story, None)
    has_died, deaths = True, 0
    while has_died:
        node = MpsNode(memory / f"after-{deaths}")
        reached, has_died = await told(node, story, deaths, asks_first=deaths % 2 == 1)
        assert reached == end, f"after {deaths} effects"
        deaths += has_died
    assert deaths >= 5, "the act has no effects"


# ── shares ─────────────────────────────────────────────────────────────────────────────────────────────────────


def share(number: int) -> dict[str, Any]:
    return {"device": "gpu-0", "shareID": f"00000000-0000-4000-8000-{number:012d}"}


async def two_shares(node: MpsNode) -> None:
    await node.warm()
    await node.add("one", share(1))
    await node.add("two", share(2))


SHARES = {
    "prepare the first share": Story(two_shares, prepare("one"), prepare("one")),
    "prepare the second share": Story(then(two_shares, prepare("one")), prepare("two"), prepare("two")),
    "prepare the second share, then released": Story(
        then(two_shares, prepare("one")), prepare("two"), unprepare("two")
    ),
    "unprepare one share": Story(then(two_shares, prepare("one", "two")), unprepare("one"), unprepare("one")),
    "unprepare both shares": Story(
        then(two_shares, prepare("one", "two")), then(unprepare("one"), unprepare("two")), unprepare("one", "two")
    ),
}


@pytest.mark.parametrize("name", SHARES)
async def test_every_death_among_shares_comes_to_the_same_end(memory: Path, name: str) -> None:
    story = SHARES[name]
    end, _ = await told(MpsNode(memory / "whole", shares=True), story, None)
    has_died, deaths = True, 0
    while has_died:
        node = MpsNode(memory / f"after-{deaths}", shares=True)
        reached, has_died = await told(node, story, deaths, asks_first=deaths % 2 == 1)
        assert reached == end, f"after {deaths} effects"
        deaths += has_died
    assert deaths >= 2, "the act has no effects"


async def test_dying_again_and_again_changes_nothing(memory: Path) -> None:
    """Each fresh program gets one effect further than the one before it."""
    story = STORIES["prepare two GPUs"]
    end, _ = await told(MpsNode(memory / "whole"), story, None)
    node = MpsNode(memory / "node")
    await node.boot()
    await story.begin(node)
    for effects in range(80):
        node.host.kill_after(effects)
        if not await node.dies(asyncio.ensure_future(story.act(node))):
            break
        await node.restart()
    else:
        pytest.fail("it never gets through")
    await node.restart()
    await node.wakes()
    await story.again(node)
    node.check_settled()
    assert node.end() == end
    await node.stop()
