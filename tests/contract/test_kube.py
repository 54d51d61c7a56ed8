"""The Kube port: what FakeKube does in memory, HttpKube does against a server on loopback.

`server` is the other side, to look at and to break; `kube` is what is held to the contract.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from nvdra.kube import Access, HttpKube
from nvdra.ports import ApiError, Event, Kube, Resource
from nvdra.testing.api_server import ApiServer
from nvdra.testing.kube import FakeKube

SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
NODES = Resource("", "v1", "nodes", namespaced=False)


@pytest.fixture
def server() -> FakeKube:
    return FakeKube()


@pytest.fixture(params=["memory", "loopback"])
async def kube(request: pytest.FixtureRequest, server: FakeKube) -> AsyncIterator[Kube]:
    if request.param == "memory":
        yield server
        return
    async with ApiServer(server).serving() as url, HttpKube(Access(url)) as client:
        yield client


def slice_body(name: str = "", node: str = "node-a", driver: str = "gpu.nvidia.com", **spec: Any) -> bytes:
    metadata = {"name": name} if name else {"generateName": f"00000-{driver}-{node}-"}
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": driver, "nodeName": node, "pool": pool, "devices": [{"name": "gpu-0"}], **spec}
    return json.dumps({"metadata": metadata, "spec": spec}).encode()


def claim_body(name: str, parameters: str = "{}") -> bytes:
    """A claim whose config's parameters are this very text."""
    return (
        b'{"metadata":{"name":"%s"},"spec":{"devices":{"requests":[{"name":"gpu"}],"config":[{"opaque":'
        b'{"driver":"gpu.nvidia.com","parameters":%s}}]}}}' % (name.encode(), parameters.encode())
    )


async def refused(call: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


class Seen:
    """Events of a watch, collected by a task."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._more = asyncio.Event()
        self.task = asyncio.create_task(self._collect(events))

    async def _collect(self, events: AsyncIterator[Event]) -> None:
        async with aclosing(events) as stream:  # type: ignore[type-var]
            async for event in stream:
                self.events.append((event.type, json.loads(event.object)))
                self._more.set()

    async def wait(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        async with asyncio.timeout(10):
            while len(self.events) < count:
                self._more.clear()
                await self._more.wait()
        return self.events

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_discovery_names_the_versions_of_a_group_and_lacks_are_no_error(kube: Kube, server: FakeKube) -> None:
    server.serve(("v1beta2", "v1beta1"))
    assert await kube.discover("resource.k8s.io") == ("v1beta2", "v1beta1")
    assert await kube.discover("nothing.example.com") == ()
    assert await kube.server_version() == "v1.37.2"


async def test_objects_come_back_as_they_were_sent_byte_for_byte(kube: Kube) -> None:
    parameters = '{"big":12345678901234567890123,"float":1.50,"twice":1,"twice":2,"text":"\\u00e9é"}'
    await kube.create(CLAIMS, claim_body("one", parameters), "default")
    await kube.create(CLAIMS, claim_body("two"), "default")
    assert parameters.encode() in await kube.get(CLAIMS, "one", "default")
    page = await kube.list(CLAIMS, "default")
    assert [json.loads(item)["metadata"]["name"] for item in page.items] == ["one", "two"]
    assert parameters.encode() in page.items[0]
    seen = Seen(kube.watch(CLAIMS, resource_version="1"))
    await seen.wait(2)
    await seen.stop()


async def test_a_watch_hands_out_an_objects_very_bytes(kube: Kube) -> None:
    events = kube.watch(CLAIMS, "default", resource_version=(await kube.list(CLAIMS)).resource_version)
    parameters = '{"twice":1,"twice":2.50}'
    async with aclosing(events) as stream:  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await kube.create(CLAIMS, claim_body("one", parameters), "default")
        event = await asyncio.wait_for(first, 10)
    assert event.type == "ADDED"
    assert parameters.encode() in event.object


async def test_created_objects_get_identity_and_generated_names_are_cut_to_fit(kube: Kube) -> None:
    node = "node-" + "x" * 50
    made = json.loads(await kube.create(SLICES, slice_body(node=node)))
    metadata = made["metadata"]
    assert len(metadata["name"]) == 63
    assert metadata["name"].startswith(f"00000-gpu.nvidia.com-{node}-"[:58])
    assert metadata["generation"] == 1
    assert metadata["uid"]
    assert int(metadata["resourceVersion"]) > 0
    assert made["apiVersion"] == "resource.k8s.io/v1"
    assert made["kind"] == "ResourceSlice"


async def test_a_name_is_taken_only_once(kube: Kube) -> None:
    await kube.create(SLICES, slice_body("one"))
    error = await refused(kube.create(SLICES, slice_body("one")))
    assert (error.status, error.reason) == (409, "AlreadyExists")


async def test_what_is_missing_is_told_from_what_is_unknown(kube: Kube) -> None:
    missing = await refused(kube.get(CLAIMS, "none", "default"))
    assert (missing.status, missing.reason, missing.has_object) == (404, "NotFound", True)
    assert '"none" not found' in missing.message
    unknown = await refused(kube.get(Resource("resource.k8s.io", "v9", "resourceclaims", True), "none", "default"))
    assert (unknown.status, unknown.has_object) == (404, False)


async def test_an_update_of_an_old_state_conflicts_and_of_the_same_state_is_no_event(
    kube: Kube, server: FakeKube
) -> None:
    first = json.loads(await kube.create(SLICES, slice_body("one")))
    revision = server.revision
    again = json.loads(await kube.update(SLICES, "one", json.dumps(first).encode()))
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert server.revision == revision
    changed = {**first, "spec": {**first["spec"], "devices": [{"name": "gpu-1"}]}}
    second = json.loads(await kube.update(SLICES, "one", json.dumps(changed).encode()))
    assert second["metadata"]["generation"] == 2
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    conflict = await refused(kube.update(SLICES, "one", json.dumps(first).encode()))
    assert (conflict.status, conflict.reason) == (409, "Conflict")
    gone = await refused(kube.update(SLICES, "two", json.dumps({**first, "metadata": {"name": "two"}}).encode()))
    assert gone.status == 404


async def test_status_is_written_apart(kube: Kube) -> None:
    made = json.loads(await kube.create(CLAIMS, claim_body("one")[:-1] + b',"status":{"reservedFor":[]}}', "default"))
    assert "status" not in made
    made["status"] = {"allocation": {"devices": {"results": []}}}
    made["spec"] = {"devices": {}}
    body = json.dumps(made).encode()
    after = json.loads(await kube.update(CLAIMS, "one", body, "default", subresource="status"))
    assert after["status"] == made["status"]
    assert after["spec"]["devices"]["requests"] == [{"name": "gpu"}]
    after["status"] = {}
    kept = json.loads(await kube.update(CLAIMS, "one", json.dumps(after).encode(), "default"))
    assert kept["status"] == made["status"]


async def test_deletes_honour_their_preconditions(kube: Kube) -> None:
    metadata = json.loads(await kube.create(SLICES, slice_body("one")))["metadata"]
    assert (await refused(kube.delete(SLICES, "one", uid="another"))).status == 409
    assert (await refused(kube.delete(SLICES, "one", resource_version="1"))).status == 409
    await kube.delete(SLICES, "one", uid=metadata["uid"], resource_version=metadata["resourceVersion"])
    assert (await refused(kube.delete(SLICES, "one"))).status == 404


async def test_finalizers_hold_an_object_until_they_are_taken_off(kube: Kube) -> None:
    body = json.loads(claim_body("one"))
    body["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    await kube.create(CLAIMS, json.dumps(body).encode(), "default")
    await kube.delete(CLAIMS, "one", "default")
    held = json.loads(await kube.get(CLAIMS, "one", "default"))
    assert held["metadata"]["deletionTimestamp"]
    held["metadata"]["finalizers"] = []
    await kube.update(CLAIMS, "one", json.dumps(held).encode(), "default")
    assert (await refused(kube.get(CLAIMS, "one", "default"))).status == 404


async def test_what_a_deleted_owner_owned_goes_with_it(kube: Kube) -> None:
    node = json.loads(await kube.create(NODES, b'{"metadata":{"name":"node-a"}}'))
    body = json.loads(slice_body("one"))
    owner = {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": node["metadata"]["uid"]}
    body["metadata"]["ownerReferences"] = [owner]
    await kube.create(SLICES, json.dumps(body).encode())
    await kube.delete(NODES, "node-a")
    assert (await refused(kube.get(SLICES, "one"))).status == 404


async def test_lists_are_selected_by_fields_and_labels(kube: Kube) -> None:
    await kube.create(SLICES, slice_body("one"))
    await kube.create(SLICES, slice_body("two", node="node-b"))
    await kube.create(SLICES, slice_body("three", driver="other.example.com"))
    page = await kube.list(SLICES, field_selector="spec.driver=gpu.nvidia.com,spec.nodeName=node-a")
    assert [json.loads(item)["metadata"]["name"] for item in page.items] == ["one"]
    by_pool = await kube.list(SLICES, field_selector="spec.pool.name=node-b")
    assert [json.loads(item)["metadata"]["name"] for item in by_pool.items] == ["two"]
    assert (await refused(kube.list(SLICES, field_selector="spec.devices=1"))).status == 400
    for name, labels in (("a", {"app": "x"}), ("b", {"app": "y"}), ("c", {})):
        await kube.create(NODES, json.dumps({"metadata": {"name": name, "labels": labels}}).encode())
    for selector, names in {
        "app=x": ["a"],
        "app!=x": ["b", "c"],
        "app in (x, y)": ["a", "b"],
        "!app": ["c"],
        "app,app notin (x)": ["b"],
    }.items():
        found = await kube.list(NODES, label_selector=selector)
        assert [json.loads(item)["metadata"]["name"] for item in found.items] == names, selector


async def test_long_lists_come_complete(kube: Kube, server: FakeKube) -> None:
    for number in range(1203):
        await server.create(NODES, b'{"metadata":{"name":"node-%04d"}}' % number)
    page = await kube.list(NODES)
    assert len({json.loads(item)["metadata"]["name"] for item in page.items}) == 1203


async def test_a_watch_continues_where_the_list_ended(kube: Kube, server: FakeKube) -> None:
    await kube.create(SLICES, slice_body("before"))
    page = await kube.list(SLICES)
    one = json.loads(await kube.create(SLICES, slice_body("one")))
    selector = "spec.driver=gpu.nvidia.com,spec.nodeName=node-a"
    seen = Seen(kube.watch(SLICES, resource_version=page.resource_version, field_selector=selector))
    await seen.wait(1)
    await kube.create(SLICES, slice_body("elsewhere", node="node-b"))
    one["spec"]["devices"] = []
    await kube.update(SLICES, "one", json.dumps(one).encode())
    await kube.delete(SLICES, "one")
    events = await seen.wait(3)
    assert [(kind, thing["metadata"]["name"]) for kind, thing in events] == [
        ("ADDED", "one"),
        ("MODIFIED", "one"),
        ("DELETED", "one"),
    ]
    assert int(events[-1][1]["metadata"]["resourceVersion"]) == server.revision
    server.bookmark()
    assert (await seen.wait(4))[-1][0] == "BOOKMARK"
    assert int(seen.events[-1][1]["metadata"]["resourceVersion"]) == server.revision
    server.end_watches()
    await asyncio.wait_for(seen.task, 10)


async def test_a_forgotten_past_is_410_at_the_start_and_within_a_watch(kube: Kube, server: FakeKube) -> None:
    await kube.create(SLICES, slice_body("one"))
    start = (await kube.list(SLICES)).resource_version
    await kube.create(SLICES, slice_body("two"))
    server.compact()
    assert (await refused(anext(kube.watch(SLICES, resource_version=start)))).status == 410
    seen = Seen(kube.watch(SLICES, resource_version=(await kube.list(SLICES)).resource_version))
    await kube.create(SLICES, slice_body("three"))
    await seen.wait(1)
    server.end_watches(ApiError(410, "Expired", "too old resource version"))
    with pytest.raises(ApiError) as caught:
        await asyncio.wait_for(seen.task, 10)
    assert caught.value.status == 410


async def test_slices_beyond_the_limits_are_invalid(kube: Kube) -> None:
    devices = [{"name": f"gpu-{number}"} for number in range(129)]
    error = await refused(kube.create(SLICES, slice_body("one", devices=devices)))
    assert (error.status, error.reason) == (422, "Invalid")
    assert "at most 128" in error.message
    made = json.loads(await kube.create(SLICES, slice_body("one")))
    made["spec"]["nodeName"] = "node-b"
    assert "immutable" in (await refused(kube.update(SLICES, "one", json.dumps(made).encode()))).message


async def test_a_slice_reads_in_every_version_that_is_served(kube: Kube, server: FakeKube) -> None:
    server.serve(("v1", "v1beta2", "v1beta1"))
    device = {"name": "gpu-0", "attributes": {"uuid": {"string": "GPU-1"}}}
    await kube.create(SLICES, slice_body("one", devices=[device]))
    old = json.loads(await kube.get(Resource("resource.k8s.io", "v1beta1", "resourceslices", False), "one"))
    assert old["apiVersion"] == "resource.k8s.io/v1beta1"
    assert old["spec"]["devices"] == [{"name": "gpu-0", "basic": {"attributes": {"uuid": {"string": "GPU-1"}}}}]
    new = json.loads(await kube.get(Resource("resource.k8s.io", "v1beta2", "resourceslices", False), "one"))
    assert new["spec"]["devices"] == [device]


async def test_what_the_server_says_of_a_refusal_arrives(kube: Kube, server: FakeKube) -> None:
    server.fail(429, verb="create", retry_after_s=7.0, message="too many requests, please try again later")
    error = await refused(kube.create(SLICES, slice_body("one")))
    assert (error.status, error.reason, error.retry_after_s) == (429, "TooManyRequests", 7.0)
    assert error.message == "too many requests, please try again later"
    await kube.create(SLICES, slice_body("one"))


async def test_a_silent_server_is_status_0_and_named(kube: Kube, server: FakeKube) -> None:
    await kube.create(CLAIMS, claim_body("one"), "default")
    server.delay_s = 30
    error = await refused(kube.get(CLAIMS, "one", "default", timeout_s=0.05))
    assert (error.status, error.reason) == (0, "Timeout")
    assert "API server" in error.message
    server.heal()
    server.go_away()
    assert (await refused(kube.get(CLAIMS, "one", "default"))).status == 0
    assert (await refused(anext(kube.watch(CLAIMS, resource_version="1")))).status == 0
    server.heal()
    assert await kube.get(CLAIMS, "one", "default")
