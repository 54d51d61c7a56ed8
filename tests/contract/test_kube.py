"""The Kube port: what FakeKube does in memory, HttpKube does against FakeKube on loopback and a real API server.

`kube` is held to the contract; `server` is the other side of it, to look at and to break. Tests that break nothing also
run against the API server of the kubeconfig file that NVDRA_TEST_KUBECONFIG names (everything called contract-… there
is deleted).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from nvdra.kube import Access, HttpKube, access
from nvdra.ports import ApiError, Event, Kube, Resource
from nvdra.testing.api_server import ApiServer
from nvdra.testing.kube import FakeKube
from tests.unit.slices.limits import BAD_DEVICES, BAD_SLICES, GOOD_DEVICES, GOOD_SLICES, spec

SLICES = Resource("resource.k8s.io", "v1", "resourceslices", namespaced=False)
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)
NODES = Resource("", "v1", "nodes", namespaced=False)
EVENTS = Resource("", "v1", "events", namespaced=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", namespaced=True)
RESULT = {"request": "gpu", "driver": "gpu.nvidia.com", "pool": "contract-a", "device": "gpu-0"}


@pytest.fixture
def server() -> FakeKube:
    return FakeKube()


REAL = os.environ.get("NVDRA_TEST_KUBECONFIG", "")


@asynccontextmanager
async def reached(how: str, server: FakeKube) -> AsyncIterator[Kube]:
    if how == "memory":
        yield server
    elif how == "loopback":
        async with ApiServer(server).serving() as url, HttpKube(Access(url), qps=-1) as client:
            yield client
    else:
        async with HttpKube(access(REAL, {}), qps=-1) as client:
            await clean(client)
            yield client
            await clean(client)


async def clean(kube: Kube) -> None:
    for resource in (SLICES, CLAIMS, NODES, EVENTS, LEASES):
        for item in (await kube.list(resource)).items:
            metadata = json.loads(item)["metadata"]
            if metadata["name"].startswith("contract-") or "contract-" in metadata.get("generateName", ""):
                await kube.delete(resource, metadata["name"], metadata.get("namespace", ""))


@pytest.fixture(params=["memory", "loopback", *(["real"] if REAL else [])])
async def kube(request: pytest.FixtureRequest, server: FakeKube) -> AsyncIterator[Kube]:
    async with reached(request.param, server) as kube:
        yield kube


@pytest.fixture(params=["memory", "loopback"])
async def breakable(request: pytest.FixtureRequest, server: FakeKube) -> AsyncIterator[Kube]:
    async with reached(request.param, server) as kube:
        yield kube


def slice_body(name: str = "", node: str = "contract-a", driver: str = "gpu.nvidia.com", **spec: Any) -> bytes:
    metadata = {"name": name} if name else {"generateName": f"00000-{driver}-{node}-"}
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": driver, "nodeName": node, "pool": pool, "devices": [{"name": "gpu-0"}], **spec}
    return json.dumps({"metadata": metadata, "spec": spec}).encode()


def claim_body(name: str, parameters: str = "{}") -> bytes:
    """A claim whose config's parameters are this very text."""
    return (
        b'{"metadata":{"name":"%s"},"spec":{"devices":{"requests":[{"name":"gpu","exactly":{"deviceClassName":"gpu.nvidia.com"}}],"config":[{"opaque":'
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


async def test_discovery_names_the_versions_of_a_group_and_lacks_are_no_error(
    breakable: Kube, server: FakeKube
) -> None:
    server.serve(("v1beta2", "v1beta1"))
    assert await breakable.discover("resource.k8s.io") == ("v1beta2", "v1beta1")
    assert await breakable.discover("nothing.example.com") == ()
    assert await breakable.server_version() == "v1.37.2"


async def test_objects_come_back_as_they_were_sent_byte_for_byte(kube: Kube) -> None:
    parameters = '{"big":12345678901234567890123,"float":1.50,"twice":1,"twice":2,"text":"\\u00e9é"}'
    await kube.create(CLAIMS, claim_body("contract-one", parameters), "default")
    await kube.create(CLAIMS, claim_body("contract-two"), "default")
    assert parameters.encode() in await kube.get(CLAIMS, "contract-one", "default")
    page = await kube.list(CLAIMS, "default")
    assert [json.loads(item)["metadata"]["name"] for item in page.items] == ["contract-one", "contract-two"]
    assert parameters.encode() in page.items[0]


async def test_a_watch_hands_out_an_objects_very_bytes(kube: Kube) -> None:
    events = kube.watch(CLAIMS, "default", resource_version=(await kube.list(CLAIMS)).resource_version)
    parameters = '{"twice":1,"twice":2.50}'
    async with aclosing(events) as stream:  # type: ignore[type-var]
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await kube.create(CLAIMS, claim_body("contract-one", parameters), "default")
        event = await asyncio.wait_for(first, 10)
    assert event.type == "ADDED"
    assert parameters.encode() in event.object


async def test_created_objects_get_identity_and_generated_names_are_cut_to_fit(kube: Kube) -> None:
    node = "contract-" + "x" * 50
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
    await kube.create(SLICES, slice_body("contract-one"))
    error = await refused(kube.create(SLICES, slice_body("contract-one")))
    assert (error.status, error.reason) == (409, "AlreadyExists")


async def test_what_is_missing_is_told_from_what_is_unknown(kube: Kube) -> None:
    missing = await refused(kube.get(CLAIMS, "none", "default"))
    assert (missing.status, missing.reason, missing.about) == (404, "NotFound", ("resourceclaims", "none"))
    assert '"none" not found' in missing.message
    unknown = await refused(kube.get(Resource("resource.k8s.io", "v9", "resourceclaims", True), "none", "default"))
    assert (unknown.status, unknown.about) == (404, ("", ""))


async def test_an_update_of_an_old_state_conflicts_and_of_the_same_state_is_no_event(kube: Kube) -> None:
    first = json.loads(await kube.create(SLICES, slice_body("contract-one")))
    again = json.loads(await kube.update(SLICES, "contract-one", json.dumps(first).encode()))
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    changed = {**first, "spec": {**first["spec"], "devices": [{"name": "gpu-1"}]}}
    second = json.loads(await kube.update(SLICES, "contract-one", json.dumps(changed).encode()))
    assert second["metadata"]["generation"] == 2
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    conflict = await refused(kube.update(SLICES, "contract-one", json.dumps(first).encode()))
    assert (conflict.status, conflict.reason) == (409, "Conflict")
    gone = await refused(
        kube.update(SLICES, "contract-two", json.dumps({**first, "metadata": {"name": "contract-two"}}).encode())
    )
    assert gone.status == 404


async def test_status_is_written_apart(kube: Kube) -> None:
    made = json.loads(
        await kube.create(CLAIMS, claim_body("contract-one")[:-1] + b',"status":{"reservedFor":[]}}', "default")
    )
    assert not made["status"]
    result = {"request": "gpu", "driver": "gpu.nvidia.com", "pool": "contract-a", "device": "gpu-0"}
    made["status"] = {"allocation": {"devices": {"results": [result]}}}
    made["spec"] = {"devices": {}}
    body = json.dumps(made).encode()
    after = json.loads(await kube.update(CLAIMS, "contract-one", body, "default", subresource="status"))
    assert after["status"] == made["status"]
    assert after["spec"]["devices"]["requests"][0]["name"] == "gpu"
    after["status"] = {}
    kept = json.loads(await kube.update(CLAIMS, "contract-one", json.dumps(after).encode(), "default"))
    assert kept["status"] == made["status"]


async def test_a_merge_patch_changes_what_it_names(kube: Kube) -> None:
    made = json.loads(await kube.create(NODES, b'{"metadata":{"name":"contract-a","labels":{"app":"x","zone":"1"}}}'))
    patch = {"metadata": {"labels": {"app": None, "tier": "gpu"}}}
    after = json.loads(await kube.patch(NODES, "contract-a", json.dumps(patch).encode()))
    assert after["metadata"]["labels"] == {"zone": "1", "tier": "gpu"}
    assert after["metadata"]["uid"] == made["metadata"]["uid"]
    again = json.loads(await kube.patch(NODES, "contract-a", json.dumps(patch).encode()))
    assert again["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    for wrong, status in ((b"[]", 400), (b"no patch", 400)):
        assert (await refused(kube.patch(NODES, "contract-a", wrong))).status == status
    missing = await refused(kube.patch(NODES, "contract-none", b"{}"))
    assert missing.is_missing("nodes", "contract-none")


async def test_a_merge_patch_honours_its_precondition(kube: Kube) -> None:
    metadata = json.loads(await kube.create(NODES, b'{"metadata":{"name":"contract-a"}}'))["metadata"]
    patch = {"metadata": {"labels": {"app": "x"}, "resourceVersion": metadata["resourceVersion"]}}
    await kube.patch(NODES, "contract-a", json.dumps(patch).encode())
    patch["metadata"]["labels"] = {"app": "y"}
    conflict = await refused(kube.patch(NODES, "contract-a", json.dumps(patch).encode()))
    assert (conflict.status, conflict.reason) == (409, "Conflict")


async def test_a_merge_patch_of_the_status_leaves_the_rest(kube: Kube) -> None:
    await kube.create(CLAIMS, claim_body("contract-one"), "default")
    status = {"status": {"allocation": {"devices": {"results": [RESULT]}}}, "spec": {"devices": {}}}
    after = json.loads(
        await kube.patch(CLAIMS, "contract-one", json.dumps(status).encode(), "default", subresource="status")
    )
    assert after["status"]["allocation"] == status["status"]["allocation"]
    assert after["spec"]["devices"]["requests"][0]["name"] == "gpu"


def device_status(device: str, **status: Any) -> dict[str, Any]:
    return {"driver": "gpu.nvidia.com", "pool": "contract-a", "device": device, **status}


def applied_status(*devices: dict[str, Any]) -> bytes:
    head = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "contract-one"}}
    return json.dumps({**head, "status": {"devices": devices}}).encode()


async def allocated(kube: Kube) -> None:
    """A claim that has two devices, whose status drivers may report."""
    made = json.loads(await kube.create(CLAIMS, claim_body("contract-one"), "default"))
    results = [RESULT, {**RESULT, "device": "gpu-1"}]
    made["status"] = {"allocation": {"devices": {"results": results}}}
    await kube.update(CLAIMS, "contract-one", json.dumps(made).encode(), "default", subresource="status")


async def test_an_apply_makes_the_object_and_takes_back_what_it_no_longer_names(kube: Kube) -> None:
    def node(**labels: str) -> bytes:
        head = {"apiVersion": "v1", "kind": "Node"}
        return json.dumps({**head, "metadata": {"name": "contract-a", "labels": labels}}).encode()

    first = json.loads(await kube.apply(NODES, "contract-a", node(app="x", tier="gpu"), manager="one"))
    await kube.apply(NODES, "contract-a", node(zone="1"), manager="two")
    after = json.loads(await kube.apply(NODES, "contract-a", node(app="x"), manager="one"))
    assert after["metadata"]["uid"] == first["metadata"]["uid"]
    assert after["metadata"]["labels"] == {"app": "x", "zone": "1"}
    conflict = await refused(kube.apply(NODES, "contract-a", node(zone="2"), manager="one"))
    assert (conflict.status, conflict.reason) == (409, "Conflict")
    assert '"two"' in conflict.message
    assert "zone" in conflict.message
    forced = json.loads(await kube.apply(NODES, "contract-a", node(zone="2"), manager="one", force=True))
    assert forced["metadata"]["labels"] == {"zone": "2"}


async def test_an_apply_without_a_kind_is_refused(kube: Kube) -> None:
    error = await refused(kube.apply(NODES, "contract-a", b'{"metadata":{"name":"contract-a"}}', manager="one"))
    assert error.status == 400


async def test_drivers_apply_the_status_of_their_devices_beside_each_other(kube: Kube) -> None:
    await allocated(kube)
    zero, one = device_status("gpu-0", data={"x": [1]}), device_status("gpu-1", data={"y": 2})

    async def applied(manager: str, *devices: dict[str, Any]) -> list[dict[str, Any]]:
        body = applied_status(*devices)
        after = await kube.apply(CLAIMS, "contract-one", body, "default", manager=manager, subresource="status")
        found = [
            {key: value for key, value in each.items() if value is not None}  # a real server writes null conditions
            for each in json.loads(after)["status"].get("devices", ())
        ]
        return sorted(found, key=lambda each: str(each["device"]))

    assert await applied("one", zero) == [zero]
    assert await applied("two", one) == [zero, one]
    assert await applied("one", {**zero, "data": {"x": [3]}}) == [{**zero, "data": {"x": [3]}}, one]
    assert await applied("one") == [one]
    head = json.loads(await kube.get(CLAIMS, "contract-one", "default"))
    assert len(head["status"]["allocation"]["devices"]["results"]) == 2


async def test_what_was_written_otherwise_conflicts_with_an_apply(kube: Kube) -> None:
    await kube.create(NODES, b'{"metadata":{"name":"contract-a","labels":{"app":"x"}}}')
    body = b'{"apiVersion":"v1","kind":"Node","metadata":{"name":"contract-a","labels":{"app":"%s"}}}'
    await kube.apply(NODES, "contract-a", body % b"x", manager="one")
    assert (await refused(kube.apply(NODES, "contract-a", body % b"y", manager="one"))).status == 409
    await kube.apply(NODES, "contract-a", body % b"y", manager="one", force=True)
    await kube.patch(NODES, "contract-a", b'{"metadata":{"labels":{"app":"z"}}}')
    assert (await refused(kube.apply(NODES, "contract-a", body % b"y", manager="one"))).status == 409


async def test_a_lease_has_one_holder(kube: Kube) -> None:
    def lease(holder: str) -> dict[str, Any]:
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2026-11-24T00:10:22.000001Z"}
        return {"metadata": {"name": "contract-lease"}, "spec": spec}

    first = json.loads(await kube.create(LEASES, json.dumps(lease("one")).encode(), "default"))
    assert (await refused(kube.create(LEASES, json.dumps(lease("two")).encode(), "default"))).reason == "AlreadyExists"
    taken = {**first, "spec": {**first["spec"], "holderIdentity": "two", "leaseTransitions": 1}}
    await kube.update(LEASES, "contract-lease", json.dumps(taken).encode(), "default")
    late = await refused(kube.update(LEASES, "contract-lease", json.dumps(first).encode(), "default"))
    assert (late.status, late.reason) == (409, "Conflict")


async def test_an_event_is_made_and_counted_on(kube: Kube) -> None:
    about = {"kind": "ResourceClaim", "namespace": "default", "name": "contract-one", "uid": "1"}
    event = {"metadata": {"generateName": "contract-"}, "involvedObject": about, "type": "Warning", "count": 1}
    event |= {"reason": "PrepareFailed", "message": "no such device", "source": {"component": "gpu.nvidia.com"}}
    name = json.loads(await kube.create(EVENTS, json.dumps(event).encode(), "default"))["metadata"]["name"]
    again = json.loads(await kube.patch(EVENTS, name, b'{"count":2}', "default"))
    assert (again["count"], again["reason"], again["message"]) == (2, "PrepareFailed", "no such device")


async def test_deletes_honour_their_preconditions(kube: Kube) -> None:
    metadata = json.loads(await kube.create(SLICES, slice_body("contract-one")))["metadata"]
    assert (await refused(kube.delete(SLICES, "contract-one", uid="another"))).status == 409
    assert (await refused(kube.delete(SLICES, "contract-one", resource_version="1"))).status == 409
    await kube.delete(SLICES, "contract-one", uid=metadata["uid"], resource_version=metadata["resourceVersion"])
    assert (await refused(kube.delete(SLICES, "contract-one"))).status == 404


async def test_finalizers_hold_an_object_until_they_are_taken_off(kube: Kube) -> None:
    body = json.loads(claim_body("contract-one"))
    body["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    await kube.create(CLAIMS, json.dumps(body).encode(), "default")
    await kube.delete(CLAIMS, "contract-one", "default")
    held = json.loads(await kube.get(CLAIMS, "contract-one", "default"))
    assert held["metadata"]["deletionTimestamp"]
    held["metadata"]["finalizers"] = []
    await kube.update(CLAIMS, "contract-one", json.dumps(held).encode(), "default")
    assert (await refused(kube.get(CLAIMS, "contract-one", "default"))).status == 404


# A real server leaves this to its controller manager.
async def test_what_a_deleted_owner_owned_goes_with_it(breakable: Kube) -> None:
    node = json.loads(await breakable.create(NODES, b'{"metadata":{"name":"contract-a"}}'))
    body = json.loads(slice_body("contract-one"))
    owner = {"apiVersion": "v1", "kind": "Node", "name": "contract-a", "uid": node["metadata"]["uid"]}
    body["metadata"]["ownerReferences"] = [owner]
    await breakable.create(SLICES, json.dumps(body).encode())
    await breakable.delete(NODES, "contract-a")
    assert (await refused(breakable.get(SLICES, "contract-one"))).status == 404


async def test_lists_are_selected_by_fields_and_labels(kube: Kube) -> None:
    await kube.create(SLICES, slice_body("contract-one"))
    await kube.create(SLICES, slice_body("contract-two", node="contract-b"))
    await kube.create(SLICES, slice_body("contract-three", driver="other.example.com"))
    page = await kube.list(SLICES, field_selector="spec.driver=gpu.nvidia.com,spec.nodeName=contract-a")
    assert [json.loads(item)["metadata"]["name"] for item in page.items] == ["contract-one"]
    by_pool = await kube.list(SLICES, field_selector="spec.pool.name=contract-b")
    assert [json.loads(item)["metadata"]["name"] for item in by_pool.items] == ["contract-two"]
    assert (await refused(kube.list(SLICES, field_selector="spec.devices=1"))).status == 400
    for letter, labels in (("a", {"app": "x"}), ("b", {"app": "y"}), ("c", {})):
        await kube.create(NODES, json.dumps({"metadata": {"name": f"contract-{letter}", "labels": labels}}).encode())
    for selector, names in {
        "app=x": ["a"],
        "app!=x": ["b", "c"],
        "app in (x, y)": ["a", "b"],
        "!app": ["c"],
        "app,app notin (x)": ["b"],
    }.items():
        page = await kube.list(NODES, label_selector=selector)
        found = [json.loads(item)["metadata"]["name"] for item in page.items]
        assert [name[-1] for name in found if name.startswith("contract-")] == names, selector


async def test_long_lists_come_complete(breakable: Kube, server: FakeKube) -> None:
    for number in range(1203):
        await server.create(NODES, b'{"metadata":{"name":"node-%04d"}}' % number)
    page = await breakable.list(NODES)
    assert len({json.loads(item)["metadata"]["name"] for item in page.items}) == 1203
    pages = [each async for each in breakable.pages(NODES)]
    assert tuple(item for each in pages for item in each.items) == page.items
    assert max(len(each.items) for each in pages) == 500
    assert {each.resource_version for each in pages} == {page.resource_version}


async def test_an_empty_list_is_one_empty_page(kube: Kube) -> None:
    pages = [each async for each in kube.pages(SLICES, field_selector="spec.driver=contract-none")]
    assert [each.items for each in pages] == [()]
    assert pages[0].resource_version


@pytest.mark.parametrize("plural", ["nodes", "pods", "deviceclasses", "resourceclaims", "resourceslices"])
async def test_every_kind_is_listed_by_its_own_name(kube: Kube, plural: str) -> None:
    group, version = ("", "v1") if plural in ("nodes", "pods") else ("resource.k8s.io", "v1")
    page = await kube.list(Resource(group, version, plural, namespaced=plural in ("pods", "resourceclaims")))
    assert page.resource_version


async def test_a_watch_continues_where_the_list_ended(kube: Kube) -> None:
    await kube.create(SLICES, slice_body("contract-before"))
    page = await kube.list(SLICES)
    one = json.loads(await kube.create(SLICES, slice_body("contract-one")))
    selector = "spec.driver=gpu.nvidia.com,spec.nodeName=contract-a"
    seen = Seen(kube.watch(SLICES, resource_version=page.resource_version, field_selector=selector))
    await seen.wait(1)
    await kube.create(SLICES, slice_body("contract-elsewhere", node="contract-b"))
    one["spec"]["devices"] = []
    await kube.update(SLICES, "contract-one", json.dumps(one).encode())
    await kube.delete(SLICES, "contract-one")
    events = await seen.wait(3)
    assert [(kind, thing["metadata"]["name"]) for kind, thing in events] == [
        ("ADDED", "contract-one"),
        ("MODIFIED", "contract-one"),
        ("DELETED", "contract-one"),
    ]
    versions = [int(thing["metadata"]["resourceVersion"]) for _, thing in events]
    assert versions == sorted(set(versions))
    await seen.stop()


async def test_bookmarks_come_and_watches_end(breakable: Kube, server: FakeKube) -> None:
    await breakable.create(SLICES, slice_body("contract-one"))
    seen = Seen(breakable.watch(SLICES, resource_version="1"))
    await seen.wait(1)
    await breakable.create(NODES, b'{"metadata":{"name":"contract-a"}}')
    server.bookmark()
    kind, thing = (await seen.wait(2))[-1]
    assert kind == "BOOKMARK"
    assert int(thing["metadata"]["resourceVersion"]) == server.revision
    server.end_watches()
    await asyncio.wait_for(seen.task, 10)


async def test_a_forgotten_past_is_410_at_the_start_and_within_a_watch(breakable: Kube, server: FakeKube) -> None:
    await breakable.create(SLICES, slice_body("contract-one"))
    start = (await breakable.list(SLICES)).resource_version
    await breakable.create(SLICES, slice_body("contract-two"))
    server.compact()
    assert (await refused(anext(breakable.watch(SLICES, resource_version=start)))).status == 410
    seen = Seen(breakable.watch(SLICES, resource_version=(await breakable.list(SLICES)).resource_version))
    await breakable.create(SLICES, slice_body("contract-three"))
    await seen.wait(1)
    server.end_watches(ApiError(410, "Expired", "too old resource version"))
    with pytest.raises(ApiError) as caught:
        await asyncio.wait_for(seen.task, 10)
    assert caught.value.status == 410


async def test_slices_beyond_the_limits_are_invalid(kube: Kube) -> None:
    devices = [{"name": f"gpu-{number}"} for number in range(129)]
    error = await refused(kube.create(SLICES, slice_body("contract-one", devices=devices)))
    assert (error.status, error.reason) == (422, "Invalid")
    assert "at most 128" in error.message
    made = json.loads(await kube.create(SLICES, slice_body("contract-one")))
    made["spec"]["nodeName"] = "contract-b"
    assert "immutable" in (await refused(kube.update(SLICES, "contract-one", json.dumps(made).encode()))).message


async def test_slices_at_the_limits_are_taken_and_beyond_them_refused(kube: Kube) -> None:
    for good in (*GOOD_SLICES, *(spec(device) for device in GOOD_DEVICES)):
        await kube.create(SLICES, json.dumps({"metadata": {"generateName": "contract-"}, "spec": good}).encode())
    for bad, text in (*BAD_SLICES, *((spec(device), text) for device, text in BAD_DEVICES)):
        body = json.dumps({"metadata": {"generateName": "contract-"}, "spec": bad}).encode()
        # A real server refuses a wrong type before it looks at limits.
        assert (await refused(kube.create(SLICES, body))).status in (400, 422), text


async def test_a_slice_reads_in_every_version_that_is_served(breakable: Kube, server: FakeKube) -> None:
    server.serve(("v1", "v1beta2", "v1beta1"))
    device = {"name": "gpu-0", "attributes": {"uuid": {"string": "GPU-1"}}}
    await breakable.create(SLICES, slice_body("contract-one", devices=[device]))
    old = json.loads(
        await breakable.get(Resource("resource.k8s.io", "v1beta1", "resourceslices", False), "contract-one")
    )
    assert old["apiVersion"] == "resource.k8s.io/v1beta1"
    assert old["spec"]["devices"] == [{"name": "gpu-0", "basic": {"attributes": {"uuid": {"string": "GPU-1"}}}}]
    new = json.loads(
        await breakable.get(Resource("resource.k8s.io", "v1beta2", "resourceslices", False), "contract-one")
    )
    assert new["spec"]["devices"] == [device]


async def test_what_the_server_says_of_a_refusal_arrives(breakable: Kube, server: FakeKube) -> None:
    server.fail(429, verb="create", retry_after_s=7.0, message="too many requests, please try again later")
    error = await refused(breakable.create(SLICES, slice_body("contract-one")))
    assert (error.status, error.reason, error.retry_after_s) == (429, "TooManyRequests", 7.0)
    assert error.message == "too many requests, please try again later"
    await breakable.create(SLICES, slice_body("contract-one"))


async def test_a_silent_server_is_status_0_and_named(breakable: Kube, server: FakeKube) -> None:
    await breakable.create(CLAIMS, claim_body("contract-one"), "default")
    server.delay_s = 30
    error = await refused(breakable.get(CLAIMS, "contract-one", "default", timeout_s=0.05))
    assert (error.status, error.reason) == (0, "Timeout")
    assert "API server" in error.message
    server.heal()
    server.go_away()
    assert (await refused(breakable.get(CLAIMS, "contract-one", "default"))).status == 0
    assert (await refused(anext(breakable.watch(CLAIMS, resource_version="1")))).status == 0
    server.heal()
    assert await breakable.get(CLAIMS, "contract-one", "default")
