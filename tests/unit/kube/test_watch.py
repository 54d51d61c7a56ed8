"""List and watch: what follows what, what the store keeps, and both together on virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.kube import Change, Store, Watcher, pause_s
from nvdra.kube.watch import Ended, Failed, Listed, Listing, Outcome, Pausing, State, Watching, after
from nvdra.ports import ApiError, Event, Page, Resource
from nvdra.testing.clock import VirtualClock
from nvdra.testing.kube import FakeKube

NODES = Resource("", "v1", "nodes", namespaced=False)


def error(status: int, retry_after_s: float | None = None) -> ApiError:
    return ApiError(status, "", "text", retry_after_s)


@pytest.mark.parametrize(
    ("outcome", "failures", "state"),
    [
        (Listed("7"), 0, Watching("7")),
        (Ended("9", is_stale=False), 0, Watching("9")),
        (Ended("9", is_stale=True), 0, Listing()),
        (Failed(error(410), "9"), 1, Listing()),
        (Failed(error(410), "9"), 2, Pausing(1.0, Listing())),
        (Failed(error(404), "9", is_version_gone=True), 1, Listing()),
        (Failed(error(404), "9", is_version_gone=True), 3, Pausing(2.0, Listing())),
        (Failed(error(404), "9"), 1, Pausing(0.5, Watching("9"))),
        (Failed(error(0), "9"), 1, Pausing(0.5, Watching("9"))),
        (Failed(error(0)), 1, Pausing(0.5, Listing())),
        (Failed(error(500), "9"), 20, Pausing(30.0, Watching("9"))),
        (Failed(error(429, 17.0)), 1, Pausing(18.0, Listing())),
        (Failed(error(429, 17.0), "9"), 9, Pausing(18.0, Watching("9"))),
    ],
)
def test_what_follows(outcome: Outcome, failures: int, state: State) -> None:
    assert after(outcome, failures, jitter=1.0) == state


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_pauses_grow_to_half_a_minute_and_never_vanish(failures: int, jitter: float) -> None:
    assert 0.25 <= pause_s(failures, jitter) <= 30.0
    assert pause_s(failures, jitter) <= pause_s(failures + 1, jitter)


def thing(uid: str, version: int | str, value: str = "") -> bytes:
    return json.dumps({"metadata": {"uid": uid, "resourceVersion": str(version)}, "value": value}).encode()


class Kept:
    def __init__(self) -> None:
        self.changes: list[Change[str]] = []
        self.store: Store[str] = Store(lambda each: str(each["value"]), self.changes.append)


def test_the_newest_state_stays_in_whatever_order_it_is_told() -> None:
    kept = Kept()
    assert kept.store.put(thing("a", 5, "five"))
    assert not kept.store.put(thing("a", 4, "four"))
    assert not kept.store.put(thing("a", 5, "again"))
    assert kept.store.values() == ["five"]
    assert kept.store.put(thing("a", 10, "ten"))  # a number, not a text
    assert kept.changes == [Change("put", "a", "five"), Change("put", "a", "ten")]


def test_what_was_deleted_cannot_come_back_by_a_late_answer() -> None:
    kept = Kept()
    kept.store.put(thing("a", 5))
    assert kept.store.drop("a")
    assert not kept.store.put(thing("a", 6))
    assert not kept.store.drop("a")
    kept.store.drop("b")
    assert not kept.store.put(thing("b", 6))
    assert kept.store.values() == []
    assert [change.kind for change in kept.changes] == ["put", "deleted"]


def test_a_list_removes_what_it_lacks_but_not_what_is_newer() -> None:
    kept = Kept()
    kept.store.put(thing("gone", 5, "gone"))
    kept.store.put(thing("newer", 9, "newer"))
    kept.store.put(thing("stays", 6, "stays"))
    kept.store.replace(Page((thing("stays", 7, "changed"), thing("more", 3, "more")), "8"))
    assert sorted(kept.store.values()) == ["changed", "more", "newer"]
    assert kept.store.is_filled
    assert kept.changes[-1] == Change("listed")


def test_versions_that_are_no_numbers_are_taken_as_they_come() -> None:
    kept = Kept()
    kept.store.put(thing("a", "x", "one"))
    assert kept.store.put(thing("a", "b", "two"))
    kept.store.replace(Page((), "y"))
    assert kept.store.values() == []


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.kube = FakeKube(clock=self.clock)
        self.changes: list[Change[str]] = []
        self.failures: list[tuple[int, float]] = []
        self.watcher: Watcher[str] = Watcher(
            self.kube,
            self.clock,
            self._resource,
            lambda each, _: str(each["metadata"]["name"]),
            on_change=self.changes.append,
            on_failure=lambda failure, pause: self.failures.append((failure.status, pause)),
            jitter=lambda: 1.0,
        )
        self.task = asyncio.create_task(self.watcher.run())

    async def _resource(self) -> Resource:
        return NODES

    async def add(self, *names: str) -> None:
        for name in names:
            await self.kube.create(NODES, json.dumps({"metadata": {"name": name}}).encode())
        await self.clock.settle()

    @property
    def names(self) -> list[str]:
        return sorted(self.watcher.store.values())

    def calls(self, verb: str) -> int:
        return self.kube.calls[verb, "nodes"]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


async def test_the_store_follows_the_server(world: World) -> None:
    await world.add("a", "b")
    assert world.names == ["a", "b"]
    await world.kube.delete(NODES, "a")
    await world.add("c")
    assert world.names == ["b", "c"]
    assert world.calls("list") == world.calls("watch") == 1


async def test_a_watch_that_ends_goes_on_where_it_was(world: World) -> None:
    await world.add("a")
    for minute in range(1, 4):
        await world.clock.advance(60)
        world.kube.end_watches()
        await world.add(f"b{minute}")
    assert world.names == ["a", "b1", "b2", "b3"]
    assert world.calls("list") == 1
    assert world.failures == []


async def test_a_bookmark_carries_a_watch_past_what_is_forgotten(world: World) -> None:
    await world.add("a")
    await world.kube.create(Resource("", "v1", "pods", True), b'{"metadata":{"name":"p"}}', "default")
    world.kube.bookmark()
    await world.clock.advance(5)
    world.kube.compact()
    world.kube.end_watches()
    await world.add("b")
    assert world.names == ["a", "b"]
    assert world.calls("list") == 1


async def test_what_is_forgotten_is_listed_anew_at_once(world: World) -> None:
    await world.add("a", "b")
    world.kube.end_watches(error(0))
    await world.clock.settle()
    await world.kube.delete(NODES, "a")
    await world.kube.create(NODES, b'{"metadata":{"name":"c"}}')
    world.kube.compact()
    await world.clock.advance(0.5)
    assert world.names == ["b", "c"]
    assert [(change.kind, change.value) for change in world.changes[-3:]] == [
        ("put", "c"),
        ("deleted", "a"),
        ("listed", None),
    ]


async def test_a_server_that_forgets_everything_is_not_asked_in_a_loop(world: World) -> None:
    await world.clock.settle()
    world.kube.fail(410, verb="watch", times=1000)
    world.kube.end_watches()
    await world.clock.advance(600)
    assert 600 / 30 <= world.calls("list") <= 600 / 30 + 10


async def test_a_watch_that_ends_at_once_is_not_asked_for_in_a_loop(world: World) -> None:
    await world.clock.settle()
    for _ in range(300):
        world.kube.end_watches()
        await world.clock.advance(0.1)
    assert world.calls("watch") < 15


@pytest.mark.parametrize("status", [None, 0, 410, 500])
@pytest.mark.parametrize("lasts_s", [0.0, 0.1, 1.1])
async def test_a_watch_that_ends_after_one_event_is_not_asked_for_in_a_loop(
    world: World, status: int | None, lasts_s: float
) -> None:
    began: list[float] = []

    async def short(*_: Any, resource_version: str, **__: Any) -> AsyncIterator[Event]:
        began.append(world.clock.now())
        yield Event("BOOKMARK", b'{"metadata":{"resourceVersion":"%s"}}' % resource_version.encode())
        await world.clock.sleep(lasts_s)
        if status is not None:
            raise error(status)

    await world.clock.settle()
    world.kube.watch = short  # type: ignore[method-assign]
    await world.clock.advance(60)
    world.kube.end_watches()
    await world.clock.advance(600)
    assert not world.task.done()
    assert world.calls("list") < 60
    assert 5 < len(began) < (60 if lasts_s < 1 else 600 / lasts_s + 2)


async def test_pauses_grow_while_the_server_is_away_and_start_small_again(world: World) -> None:
    await world.clock.advance(10)
    world.kube.go_away()
    await world.clock.advance(300)
    pauses = [pause for _, pause in world.failures]
    assert pauses[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert set(pauses[7:]) == {30.0}
    world.kube.heal()
    await world.clock.advance(60)
    await world.add("a")
    assert world.names == ["a"]
    assert world.calls("list") == 1  # the watch goes on from where it was
    world.kube.end_watches(error(500))
    await world.clock.settle()
    assert world.failures[-1] == (500, 0.5)


async def test_retry_after_is_waited_for(world: World) -> None:
    await world.clock.settle()
    watches = world.calls("watch")
    world.kube.fail(429, verb="watch", retry_after_s=100)
    await world.clock.advance(5)
    world.kube.end_watches()
    await world.clock.advance(100)
    assert world.calls("watch") == watches + 1
    await world.clock.advance(2)
    assert world.calls("watch") == watches + 2


async def test_an_old_list_is_made_anew(world: World) -> None:
    await world.add("a")
    for _ in range(60):
        await world.clock.advance(60)
        world.kube.end_watches()
    await world.clock.settle()
    assert 2 <= world.calls("list") <= 3


async def test_a_server_that_is_away_at_the_start_is_waited_for() -> None:
    clock = VirtualClock()
    kube = FakeKube(clock=clock)
    kube.go_away()

    async def resource() -> Resource:
        await kube.discover("")
        return NODES

    watcher: Watcher[Any] = Watcher(kube, clock, resource, lambda each, _: each)
    task = asyncio.create_task(watcher.run())
    await clock.advance(200)
    assert not watcher.store.is_filled
    kube.heal()
    await clock.advance(30)
    assert watcher.store.is_filled
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


ODD_EVENTS = [
    Event("DELETED", b'{"metadata":{"name":"a"}}'),
    Event("DELETED", b"null"),
    Event("BOOKMARK", b"null"),
    Event("ADDED", b'{"metadata":{"resourceVersion":"9"}}'),
    Event("ADDED", b'{"metadata":{"uid":"u"}}'),
    Event("MODIFIED", b"[]"),
    Event("MODIFIED", b"<html>"),
]


@pytest.mark.parametrize("event", ODD_EVENTS, ids=lambda event: f"{event.type} {event.object.decode()}")
async def test_an_odd_event_costs_itself(world: World, event: Event) -> None:
    await world.add("a", "b")
    world.kube.send(event)
    await world.clock.advance(40)
    await world.kube.delete(NODES, "a")
    await world.add("c")
    assert world.names == ["b", "c"]
    assert not world.task.done()


@pytest.mark.parametrize("item", [b"null", b"{}", b'{"metadata":[]}', b'{"metadata":{"uid":7}}', b"["])
def test_where_an_item_says_no_uid_nothing_is_gone(item: bytes) -> None:
    store: Store[str] = Store(lambda thing: str(thing["metadata"]["name"]), lambda _: None)
    kept = b'{"metadata":{"uid":"1","name":"a","resourceVersion":"5"}}'
    store.replace(Page((kept,), "6"))
    store.replace(Page((item,), "7"))
    assert store.values() == ["a"]
    store.replace(Page((), "8"))
    assert store.values() == []


def test_an_item_that_cannot_be_read_keeps_what_was_known_of_it() -> None:
    store: Store[str] = Store(lambda thing: str(thing["metadata"]["name"]), lambda _: None)
    store.replace(Page((b'{"metadata":{"uid":"1","name":"a","resourceVersion":"5"}}',), "6"))
    store.replace(Page((b'{"metadata":{"uid":"1","resourceVersion":"7"}}',), "8"))
    assert store.values() == ["a"]
