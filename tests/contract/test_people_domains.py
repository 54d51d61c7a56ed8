"""nvdra domains and nvdra domains remove, over an API server on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nvdra.api.compute_domain import DOMAIN_LABEL
from nvdra.controller.settings import DAEMON_SETS, DOMAINS, NODES
from nvdra.testing.api_server import ApiServer, kubeconfig
from nvdra.testing.kube import FakeKube
from tests.contract.domain_world import TEMPLATES, World

PROGRAM = [sys.executable, "-c", "import sys; from nvdra import cli; sys.exit(cli.start('nvdra', sys.argv[1:]))"]


class People:
    """A user with a kubeconfig file."""

    def __init__(self, world: World, file: Path) -> None:
        self.world, self._file = world, file

    async def run(self, *words: str, answer: bytes = b"") -> tuple[int, str, str]:
        """Exit status, output, errors."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            *words,
            env={**os.environ, "KUBECONFIG": str(self._file)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(answer), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def people(tmp_path: Path) -> AsyncIterator[People]:
    kube = FakeKube()
    async with ApiServer(kube).serving() as url:
        file = tmp_path / "kubeconfig"
        await asyncio.to_thread(file.write_text, kubeconfig(url))
        world = World(kube)
        await world.set_up()
        yield People(world, file)


async def test_domains_are_listed_with_what_keeps_them(people: People) -> None:
    assert await people.run("domains") == (0, "There are no ComputeDomains.\n", "")
    world = people.world
    async with world.controller():
        uid = (await world.domain("good", "good"))["metadata"]["uid"]
        await world.node("n1", uid)
        await world.daemon(uid, "n1", ready=True)
        await world.ready_domain("good", lambda each: each["status"].get("nodes"))
        status, out, err = await people.run("domains")
        assert (status, err) == (0, "")
        assert f"{world.user}/good" in out
        assert "1/1" in out
        bad = (await world.domain("bad", "bad", num_nodes=3))["metadata"]["uid"]
        await world.node("n2", bad)
        await world.daemon(bad, "n2")
        await world.ready_domain("bad", lambda each: each["status"].get("nodes"))
        status, out, _ = await people.run("domains", f"{world.user}/bad")
        assert status == 1
        assert "node n2: its IMEX daemon is not ready" in out
        assert "2 of 3 nodes (spec.numNodes) have not joined" in out
        assert f"kubectl logs -n {world.driver}" in out
        status, out, _ = await people.run("domains", "-n", world.user, "-o", "json")
        found = {each["name"]: each for each in json.loads(out)["domains"]}
        assert found["good"]["findings"] == []
        assert [each["name"] for each in found["bad"]["nodes"]] == ["n2"]


async def test_what_cannot_be_shown_is_one_line(people: People) -> None:
    assert await people.run("domains", "team/none") == (3, "", "Error: there is no ComputeDomain team/none\n")
    status, _, err = await people.run("domains", "none")
    assert (status, err) == (2, "Error: 'none' is not NAMESPACE/NAME\n")
    assert isinstance(people.world.kube, FakeKube)
    people.world.kube.go_away()
    status, _, err = await people.run("domains")
    assert status == 3
    assert err.startswith("Error: ComputeDomains cannot be read: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("has_controller", [True, False])
async def test_an_uninstall_removes_live_domains(people: People, has_controller: bool) -> None:
    world = people.world
    async with world.controller():
        uids = [(await world.domain(name, name))["metadata"]["uid"] for name in ("one", "two")]
        for name, uid in zip(("one", "two"), uids, strict=True):
            await world.ready_domain(name)
            await world.node(f"n-{name}", uid)
        await world.node("orphan", "gone-long-ago")
        if has_controller:
            status, out, err = await people.run("domains", "remove", "--all", "--yes")
    if not has_controller:
        status, out, err = await people.run("domains", "remove", "--all", "--wait=100ms", answer=b"y\n")
    assert (status, err) == (0, "")
    assert out.endswith("nothing is left\n")
    for resource in (DOMAINS, TEMPLATES, DAEMON_SETS):
        assert not (await world.kube.list(resource)).items
    for raw in (await world.kube.list(NODES)).items:
        assert DOMAIN_LABEL not in json.loads(raw)["metadata"].get("labels", {})


async def test_only_the_named_domains_are_removed(people: People) -> None:
    world = people.world
    async with world.controller():
        for name in ("one", "two"):
            await world.domain(name, name)
            await world.ready_domain(name)
    await world.node("orphan", "gone-long-ago")
    status, _, _ = await people.run("domains", "remove", f"{world.user}/one", "--wait=100ms", answer=b"n\n")
    assert status == 1
    assert len((await world.kube.list(DOMAINS)).items) == 2
    status, _, err = await people.run("domains", "remove", f"{world.user}/one", "--wait=100ms", "--yes")
    assert (status, err) == (0, "")
    assert [json.loads(each)["metadata"]["name"] for each in (await world.kube.list(DOMAINS)).items] == ["two"]
    (orphan,) = (await world.kube.list(NODES)).items
    assert json.loads(orphan)["metadata"]["labels"] == {DOMAIN_LABEL: "gone-long-ago"}
    assert (await people.run("domains", "remove"))[0] == 2
    status, _, err = await people.run("domains", "remove", "a/b", "--yes")
    assert (status, err) == (1, "Error: there is no ComputeDomain a/b\n")
