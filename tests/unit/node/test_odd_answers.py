"""A node beside odd claims and odd API servers: claims that no parser takes, pages in place of answers."""

from __future__ import annotations

import asyncio
import io
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvdra import telemetry
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, Entry, State
from nvdra.checkpoint import decode as decode_checkpoint
from nvdra.node.checkpoint_writer import Change
from nvdra.node.claim_service import Failure
from nvdra.ports import ApiError, Page, Resource
from nvdra.testing.kube import FakeKube
from tests.unit.node.mig_world import MigWorld, small
from tests.unit.node.world import CHECKPOINT, CLAIMS, DRIVER, MARK, POOL, World, cdi_path


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


ODD = {
    "lone surrogate": rb'{"a":"\ud800"}',
    "no UTF-8": b'{"a":"\xff\xfe"}',
    **{f"{depth} deep": nested(depth) for depth in (190, 193, 990, 1_030, 5_000)},
}


async def odd_claim(world: World, name: str, parameters: bytes, device: str = "") -> ClaimRef:
    """A claim with such a config of another driver, allocated a device of this node, or of another one."""
    ref = await world.claim(name)
    result = {"request": "r", "driver": DRIVER, "pool": POOL if device else "node-b", "device": device or "gpu-0"}
    config = {"source": "FromClaim", "opaque": {"driver": "other.example.com", "parameters": "ODD"}}
    claim = json.loads(await world.kube.get(CLAIMS, name, "ns"))
    claim["status"] = {"allocation": {"devices": {"results": [result], "config": [config]}}}
    body = json.dumps(claim).encode().replace(b'"ODD"', parameters)
    await world.kube.update(CLAIMS, name, body, "ns", subresource="status")
    return ref


async def nameless(world: World, *refs: ClaimRef) -> None:
    """Completed entries as the Go driver leaves them: only a LIST tells about them."""

    def without_names(checkpoint: Checkpoint) -> Change[None]:
        old = [(ref.uid, checkpoint.entries[ref.uid]) for ref in refs]
        return Change(None, entries={uid: Entry(each.state, each.status, each.prepared) for uid, each in old})

    await world.checkpoint_writer.submit(without_names)


# ── claims that hold what no parser takes ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("parameters", ODD.values(), ids=ODD)
async def test_a_claim_of_another_node_is_no_business_of_the_list(world: World, parameters: bytes) -> None:
    gone, alive = await world.claim("gone", "gpu-0"), await world.claim("alive", "gpu-1")
    await world.prepared(gone, alive)
    await nameless(world, gone, alive)
    await odd_claim(world, "odd", parameters)
    await world.delete(gone)
    for _ in range(2):
        await world.timely(world.sweep.stale_claims())
    assert set(world.checkpoint().entries) == {alive.uid}


@pytest.mark.parametrize("parameters", ODD.values(), ids=ODD)
async def test_a_claim_of_this_node_with_such_a_config_lives_as_any_other(world: World, parameters: bytes) -> None:
    ref = await odd_claim(world, "odd", parameters, "gpu-0")
    assert await world.prepared(ref) == ["gpu-0"]
    await world.restart()
    assert await world.prepared(ref) == ["gpu-0"]
    assert MARK not in world.files()
    (world.folder / CHECKPOINT.strip("/")).unlink()
    await world.restart()
    await world.warm()
    await world.timely(world.sweep.settle())
    assert world.state(ref) == "PrepareCompleted"
    assert await world.prepared(ref) == ["gpu-0"]
    await world.released(ref)
    assert not world.checkpoint().entries


values = st.recursive(
    st.sampled_from([b"1e400", b"-0.0", b'"\xff"', rb'"\udc00\ud800"', b'"\xc3\xa9 <&>"', b"null", b'"\xe2\x80\xa8"']),
    lambda inner: st.builds(
        lambda items, depth: b'{"\xff":' * depth + b"[" + b" , ".join(items) + b"]" + b"}" * depth,
        st.lists(inner, max_size=3),
        st.sampled_from([0, 1, 60, 100, 199, 1_000, 4_000]),
    ),
    max_leaves=6,
)


@given(parameters=values)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_prepared_is_read_again(tmp_path_factory: pytest.TempPathFactory, parameters: bytes) -> None:
    async def prepare(folder: Path) -> None:
        world = World(folder)
        world.start()
        try:
            ref = await odd_claim(world, "odd", parameters, "gpu-0")
            answer = (await world.prepare(ref))[ref.uid]
            entries = decode_checkpoint(world.host.read(CHECKPOINT)).entries
            assert set(entries) == ({ref.uid} if isinstance(answer, tuple) else set())
            await world.restart()
            again = (await world.prepare(ref))[ref.uid]
            assert type(again) is type(answer)
            assert MARK not in world.files()
        finally:
            await world.stop()

    asyncio.run(asyncio.wait_for(prepare(tmp_path_factory.mktemp("node")), 60))


async def test_a_claim_that_cannot_be_read_is_skipped_by_name_and_never_gone(world: World) -> None:
    log = io.StringIO()
    telemetry.set_up(stream=log)
    odd, gone = await world.claim("odd", "gpu-0"), await world.claim("gone", "gpu-1")
    await world.prepared(odd, gone)
    await nameless(world, odd, gone)
    await world.set_status(odd, {"allocation": {"devices": {"results": "none"}}})
    await world.delete(gone)
    for _ in range(2):
        await world.timely(world.sweep.stale_claims())
    assert set(world.checkpoint().entries) == {odd.uid}
    telemetry.set_up()
    assert f'"Skipped a claim that cannot be read" claim="{odd}"' in log.getvalue()


class OddItems(FakeKube):
    """A server whose lists hold something that is no object of the kind."""

    items: tuple[bytes, ...] = ()

    async def list(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> Page:
        page = await super().list(resource, namespace, field_selector=field_selector, label_selector=label_selector)
        return Page(page.items + self.items, page.resource_version)


ITEMS = [
    b"null",
    b"1",
    b"{}",
    b'{"metadata":null}',
    b'{"metadata":{"namespace":"ns","name":"a"},"status":1}',
    nested(20),
]


@pytest.mark.parametrize("item", ITEMS)
async def test_beside_an_item_without_a_uid_no_claim_is_gone(world: World, item: bytes) -> None:
    ref, lost = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    await world.prepared(ref, lost)
    await nameless(world, ref)
    await world.delete(ref)
    await world.delete(lost)
    kube = OddItems(clock=world.clock)
    kube.__dict__ |= world.kube.__dict__
    kube.items = (item,)
    world.kube = kube
    await world.restart()
    await world.timely(world.sweep.stale_claims())
    await world.timely(world.sweep.stale_claims())
    assert set(world.checkpoint().entries) == {ref.uid}, "the one with a name was asked about, and is gone"
    (world.folder / CHECKPOINT.strip("/")).unlink()
    await world.restart()
    await world.warm()
    await world.timely(world.sweep.settle())
    assert world.has_file(ref)
    assert set(world.sweep.unsettled()) == {"gpu-0"}


@pytest.mark.parametrize(
    "parameters",
    [rb'{"\ud800":1}', rb'{"kind":"\ud800"}', b'{"\xff":1}', nested(2_000), b'{"a":' * 3_000 + b"1" + b"}" * 3_000],
    ids=["name", "kind", "no UTF-8", "list", "object"],
)
async def test_such_a_config_of_this_driver_is_refused_in_words_that_can_be_sent(
    world: World, parameters: bytes
) -> None:
    ref, beside = await world.claim("odd"), await world.claim("beside", "gpu-1")
    parameters = parameters.replace(b"{", b'{"apiVersion":"resource.nvidia.com/v1beta1",', 1)
    config = {"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": "ODD"}}
    await world.allocate(ref, "gpu-0", config=[config])
    claim = (await world.kube.get(CLAIMS, "odd", "ns")).replace(b'"ODD"', parameters)
    await world.kube.update(CLAIMS, "odd", claim, "ns", subresource="status")
    answers = await world.prepare(ref, beside)
    assert isinstance(answers[beside.uid], tuple)
    answer = answers[ref.uid]
    assert isinstance(answer, Failure)
    assert f"claim ns/odd:{ref.uid}" in answer.error.encode().decode()
    assert "internal error" not in answer.error


# ── answers that are none ──────────────────────────────────────────────────────────────────────────────────────────

Answers = Callable[[], Awaitable[bytes]]


def refusing(*error: Any, **about: Any) -> Answers:
    async def answer() -> bytes:
        raise ApiError(*error, **about)

    return answer


def saying(body: bytes) -> Answers:
    async def answer() -> bytes:
        return body

    return answer


def claim_body(namespace: str, name: str) -> bytes:
    return b'{"kind":"ResourceClaim","metadata":{"namespace":"%s","name":"%s","uid":"1"}}' % (
        namespace.encode(),
        name.encode(),
    )


NONE: dict[str, Answers] = {
    "a page of a load balancer": refusing(404, "", "HTTP 404: 404 page not found"),
    "a Status that names nothing": refusing(404, "NotFound", "the server could not find the requested resource"),
    "a Status about another object": refusing(404, "NotFound", "not found", about=("resourceclaims", "b")),
    "a Status about another kind": refusing(404, "NotFound", "not found", about=("namespaces", "a")),
    "another reason": refusing(404, "", "not found", about=("resourceclaims", "a")),
    "410": refusing(410, "Gone", "gone", about=("resourceclaims", "a")),
    "HTML": saying(b"<html>welcome</html>"),
    "nothing": saying(b""),
    "null": saying(b"null"),
    "a Status": saying(b'{"kind":"Status","status":"Success"}'),
    "another claim": saying(claim_body("ns", "b")),
    "a claim of another namespace": saying(claim_body("other", "a")),
    "a pod": saying(b'{"kind":"Pod","metadata":{"namespace":"ns","name":"a","uid":"1"}}'),
}


class Elsewhere(FakeKube):
    """A server whose GETs of claims are answered by something in between."""

    answer: Answers

    async def get(
        self, resource: Resource, name: str, namespace: str = "", *, timeout_s: float = 30.0, cached: bool = False
    ) -> bytes:
        if resource.plural == "resourceclaims":
            self.calls["get", "resourceclaims"] += 1
            return await self.answer()
        return await super().get(resource, name, namespace, timeout_s=timeout_s, cached=cached)


@pytest.mark.parametrize("answer", NONE.values(), ids=NONE)
async def test_what_is_no_answer_frees_nothing_and_refuses_nothing(world: World, answer: Answers) -> None:
    ref, new = await world.claim("a", "gpu-0"), await world.claim("new", "gpu-1")
    await world.prepared(ref)
    kube = Elsewhere(clock=world.clock)
    kube.__dict__ |= world.kube.__dict__
    kube.answer = answer
    world.kube = kube
    await world.restart()
    for _ in range(3):
        await world.timely(world.sweep.stale_claims())
    assert world.state(ref) == "PrepareCompleted"
    assert world.has_file(ref)
    assert await world.prepared(ref) == ["gpu-0"]
    (world.folder / cdi_path(ref).strip("/")).unlink()
    assert await world.prepared(ref) == ["gpu-0"]
    assert world.has_file(ref)
    assert f"claim ns/new:{new.uid}: " in await world.refused(new)


async def test_an_api_group_that_is_switched_off_frees_nothing(world: World) -> None:
    ref, other = await world.claim("a", "gpu-0"), await world.claim("b", "gpu-1")
    await world.prepared(ref, other)
    await nameless(world, other)
    served = dict(world.kube.kinds)
    for kind in [kind for kind in served if kind[0] == "resource.k8s.io"]:
        del world.kube.kinds[kind]
    for _ in range(3):
        await world.timely(world.sweep.stale_claims())
    assert await world.prepared(ref, other) == ["gpu-0", "gpu-1"]
    assert set(world.checkpoint().entries) == {ref.uid, other.uid}
    world.kube.kinds |= served
    await world.delete(ref)
    for _ in range(2):
        await world.timely(world.sweep.stale_claims())
    assert set(world.checkpoint().entries) == {other.uid}


# ── a cluster with more claims than a node can hold ────────────────────────────────────────────────────────────────


class ManyClaims(FakeKube):
    """A server that lists many heavy claims of other nodes, made as they are read."""

    count, weight = 3_000, 100_000

    async def pages(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> AsyncIterator[Page]:
        pages = super().pages(resource, namespace, field_selector=field_selector, label_selector=label_selector)
        async for page in pages:
            yield page
        result = b'{"request":"r","driver":"%s","pool":"node-b","device":"gpu-0"}' % DRIVER.encode()
        parameters = b'{"a":"%s"}' % (b"x" * self.weight)
        for start in range(0, self.count, 30):
            items = (
                b'{"metadata":{"namespace":"ns","name":"m%d","uid":"many-%d"},"spec":{},"status":{"allocation":{"devices":'
                b'{"results":[%s],"config":[{"source":"FromClaim","opaque":{"driver":"o","parameters":%s}}]}}}}'
                % (number, number, result, parameters)
                for number in range(start, start + 30)
            )
            yield Page(tuple(items), "1")


async def test_a_list_of_many_heavy_claims_is_never_held(world: World) -> None:
    gone, alive, lost = (
        await world.claim("g", "gpu-0"),
        await world.claim("a", "gpu-1"),
        await world.claim("l", "gpu-2"),
    )
    await world.prepared(gone, alive, lost)
    await nameless(world, gone, alive)
    await world.delete(gone)
    kube = ManyClaims(clock=world.clock)
    kube.__dict__ |= world.kube.__dict__
    world.kube = kube
    await world.restart()
    tracemalloc.start()
    try:
        for _ in range(2):
            await asyncio.wait_for(world.sweep.stale_claims(), 60)
        (world.folder / CHECKPOINT.strip("/")).unlink()
        await world.restart()
        await world.warm()
        await asyncio.wait_for(world.sweep.settle(), 60)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(world.checkpoint().entries) == {alive.uid, lost.uid}
    assert peak < 30 * 2**20, "of 300 MB"


@pytest.mark.parametrize(
    "shape",
    [
        b'{"metadata":{"namespace":"ns","name":"a","uid":"%s"}}',
        b'{"metadata":{"namespace":"ns","name":"a","uid":"%s"},"status":null}',
        b'{"metadata":{"namespace":"ns","name":"a","uid":"%s"},"spec":null,"status":{}}',
    ],
)
async def test_an_item_of_a_list_that_is_no_whole_claim_frees_nothing(world: World, shape: bytes) -> None:
    ref = await world.claim("a", "gpu-0")
    await world.prepared(ref)
    await nameless(world, ref)
    await world.delete(ref)
    kube = OddItems(clock=world.clock)
    kube.__dict__ |= world.kube.__dict__
    kube.items = (shape % ref.uid.encode(),)
    world.kube = kube
    await world.restart()
    for _ in range(2):
        await world.timely(world.sweep.stale_claims())
    assert world.state(ref) == "PrepareCompleted"
    (world.folder / CHECKPOINT.strip("/")).unlink()
    await world.restart()
    await world.warm()
    await world.timely(world.sweep.settle())
    assert world.has_file(ref)
    assert set(world.sweep.unsettled()) == {"gpu-0"}


# ── entries whose status holds what no release writes ──────────────────────────────────────────────────────────────

STATUSES = [
    b"{}",
    b'{"allocation":[]}',
    b'{"allocation":{"allocationTimestamp":"today"}}',
    b'{"allocation":{"devices":{"results":[1,{"request":1,"driver":"gpu.nvidia.com","device":[]}]}}}',
    b'{"allocation":{"devices":{"results":[{"request":"r","driver":"gpu.nvidia.com","pool":"node-a","device":"gpu-0",'
    b'"consumedCapacity":{"a":"x"}}]}}}',
    b'{"allocation":{"devices":{"results":[{"request":"r","driver":"gpu.nvidia.com","pool":"node-a",'
    b'"device":"gpu-0-mig-99g-1-7777777777777777777777"}]}}}',
    b'{"allocation":{"devices":{"config":[{"opaque":{"driver":"gpu.nvidia.com","parameters":{"kind":"x"}}},7]}}}',
]


@pytest.mark.parametrize("state", ["PrepareStarted", "PrepareCompleted"])
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("device", ["gpu-0", small(0)])
async def test_an_odd_entry_costs_neither_other_claims_nor_a_sweep(
    tmp_path: Path, state: State, status: bytes, device: str
) -> None:
    world = MigWorld(tmp_path)
    world.start()
    odd, beside = await world.claim("odd", device), await world.claim("beside", "gpu-1")
    await world.prepared(odd)
    prepared = world.checkpoint().entries[odd.uid].prepared if state == "PrepareCompleted" else ()
    entry = Entry(state, status, prepared, "odd", "ns")
    await world.checkpoint_writer.submit(lambda _: Change(None, entries={odd.uid: entry}))
    await world.restart()
    sweep = world.sweep
    for step in (sweep.settle, sweep.half_prepared, sweep.leftovers, sweep.files, sweep.stale_claims):
        await world.timely(step())
    assert await world.prepared(beside) == ["gpu-1"]
    answer = (await world.prepare(odd))[odd.uid]
    assert isinstance(answer, tuple) or "internal error" not in answer.error
    await world.released(odd, beside)
    assert not world.checkpoint().entries
    await world.stop()
