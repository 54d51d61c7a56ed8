"""A controller that dies at any of its writes, before or after it: the next one brings every domain to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from nvdra.api.compute_domain import DOMAIN_LABEL, clique
from nvdra.controller.controller import Controller
from nvdra.controller.settings import CLIQUES, CRDS, DAEMON_SETS, DOMAINS, NODES
from nvdra.kube import ResourceApi
from nvdra.testing.kube import FakeKube
from nvdra.testing.objects import Kind
from tests.contract.domain_world import TEMPLATES, World, crds, install

WRITES = ("create", "update", "patch", "delete", "apply")
MOST = 40  # more writes than any of these stories has


class Death(Exception):
    """The process is gone: nothing of it has any effect any more."""


class Mortal:
    """An API server that its client dies of at the nth write."""

    def __init__(self, kube: FakeKube, nth: int, *, after: bool) -> None:
        self._kube, self._left, self._after = kube, nth, after
        self.dead = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kube, name)
        if name not in WRITES:
            return found

        async def write(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0 or (self._left == 0 and not self._after):
                self.dead.set()
                raise Death
            answer = await found(*arguments, **options)
            if self._left == 0:
                self.dead.set()
                raise Death
            return answer

        return write


async def dies(world: World, nth: int, after: bool, story: Callable[[], Awaitable[None]]) -> bool:
    """Whether a controller died in the story, which it otherwise brings to its end."""
    assert isinstance(world.kube, FakeKube)
    mortal = Mortal(world.kube, nth, after=after)
    controller = Controller(ResourceApi(mortal), world.clock, world.settings)  # type: ignore[arg-type]
    running = asyncio.create_task(controller.run())
    telling = asyncio.ensure_future(story())
    dying = asyncio.create_task(mortal.dead.wait())
    try:
        await asyncio.wait((telling, dying), return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if not dying.done():
            await telling
        return dying.done()
    finally:
        for task in (running, telling, dying):
            task.cancel()
        await asyncio.gather(running, telling, dying, return_exceptions=True)


async def made() -> World:
    kube = FakeKube(kinds=[Kind(CRDS.group, CRDS.plural, "CustomResourceDefinition", False)])
    await install(kube, crds())
    world = World(kube)
    await world.set_up()
    return world


@pytest.mark.parametrize("after", [False, True])
async def test_a_death_while_a_domain_forms(after: bool) -> None:
    deaths = 0
    for nth in range(1, MOST):
        world = await made()
        uid = (await world.domain())["metadata"]["uid"]
        for at in range(3):
            await world.daemon(uid, f"n{at}", ready=True)

        async def formed(world: World = world) -> None:
            await world.ready_domain(decide=lambda domain: len(domain["status"].get("nodes", ())) == 3)

        has_died = await dies(world, nth, after, formed)
        deaths += has_died
        async with world.controller():
            await formed()
            await world.wait(TEMPLATES, lambda found: len(found) == 2)
            sets = await world.wait(DAEMON_SETS, lambda found: found, world.driver)
            assert len(sets) == 1
            read = clique(await world.get(CLIQUES, (await world.clique(len)) and _name(world), world.driver))
            assert sorted(each.index for each in read.daemons) == [0, 1, 2]
        if not has_died:
            break
    assert deaths >= 5


@pytest.mark.parametrize("after", [False, True])
async def test_a_death_while_a_domain_ends(after: bool) -> None:
    deaths = 0
    for nth in range(1, MOST):
        world = await made()
        async with world.controller():
            uid = (await world.domain())["metadata"]["uid"]
            await world.ready_domain()
            for at in range(2):
                await world.node(f"n{at}", uid)
        await world.kube.delete(DOMAINS, "domain", world.user)

        async def gone(world: World = world) -> None:
            await world.gone(DOMAINS, world.user)

        has_died = await dies(world, nth, after, gone)
        deaths += has_died
        async with world.controller():
            await gone()
            await world.gone(TEMPLATES)
            await world.gone(DAEMON_SETS)
            await world.wait(
                NODES, lambda found: not any(DOMAIN_LABEL in n["metadata"].get("labels", {}) for n in found)
            )
        if not has_died:
            break
    assert deaths >= 6


@pytest.mark.parametrize("missing", range(8))
async def test_a_domain_ends_whichever_of_its_objects_are_there(missing: int) -> None:
    world = await made()
    async with world.controller():
        uid = (await world.domain())["metadata"]["uid"]
        await world.ready_domain()
        await world.wait(TEMPLATES, lambda found: len(found) == 2)
    name = f"computedomain-daemon-{uid}"
    objects = ((TEMPLATES, name, world.driver), (DAEMON_SETS, name, world.driver), (TEMPLATES, "channel", world.user))
    for at, (resource, named, space) in enumerate(objects):
        if missing & (1 << at):
            await world.kube.patch(resource, named, orjson.dumps({"metadata": {"finalizers": None}}), space)
            await world.kube.delete(resource, named, space)
    await world.kube.delete(DOMAINS, "domain", world.user)
    async with world.controller():
        await world.gone(DOMAINS, world.user)
        await world.gone(TEMPLATES)
        await world.gone(DAEMON_SETS)


def unlabelled(nodes: list[dict[str, Any]]) -> bool:
    return not any(DOMAIN_LABEL in node["metadata"].get("labels", {}) for node in nodes)


def _name(world: World) -> str:
    assert isinstance(world.kube, FakeKube)
    return str(world.kube.objects("computedomaincliques", "v1beta1")[0]["metadata"]["name"])
