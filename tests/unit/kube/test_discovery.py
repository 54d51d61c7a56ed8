"""Which version of resource.k8s.io is spoken."""

from __future__ import annotations

import asyncio
import json

import pytest

from nvdra.kube import ResourceApi
from nvdra.ports import ApiError, Resource
from nvdra.testing.kube import FakeKube


def claims_in(version: str) -> Resource:
    return Resource("resource.k8s.io", version, "resourceclaims", namespaced=True)


async def add_claim(kube: FakeKube, version: str, name: str = "one") -> None:
    body = json.dumps({"metadata": {"name": name}, "spec": {"devices": {}}}).encode()
    await kube.create(claims_in(version), body, "default")


@pytest.mark.parametrize(
    ("served", "chosen"),
    [
        (("v1",), "v1"),
        (("v1beta1", "v1"), "v1"),
        (("v1beta1", "v1beta2", "v1alpha3"), "v1beta2"),
        (("v1alpha3", "v1beta1"), "v1beta1"),
    ],
)
async def test_the_newest_known_version_is_chosen(served: tuple[str, ...], chosen: str) -> None:
    assert await ResourceApi(FakeKube(versions=served)).version() == chosen


@pytest.mark.parametrize("served", [(), ("v1alpha3",), ("v9",)])
async def test_a_server_without_any_says_what_is_needed(served: tuple[str, ...]) -> None:
    with pytest.raises(ApiError, match=r"Kubernetes 1\.32 or newer with DynamicResourceAllocation on") as caught:
        await ResourceApi(FakeKube(versions=served)).version()
    assert caught.value.status == 404


async def test_it_is_found_out_once_however_many_ask() -> None:
    kube = FakeKube()
    await add_claim(kube, "v1")
    api = ResourceApi(kube)
    await asyncio.gather(*(api.claim("default", "one", timeout_s=2) for _ in range(8)))
    with pytest.raises(ApiError, match="not found"):
        await api.claim("default", "two", timeout_s=2)
    assert kube.calls["discover", "resource.k8s.io"] == 1
    assert kube.calls["get", "resourceclaims"] == 9


async def test_a_version_that_is_gone_is_replaced_without_a_failure() -> None:
    kube = FakeKube(versions=("v1beta1",))
    await add_claim(kube, "v1beta1")
    api = ResourceApi(kube)
    assert json.loads(await api.claim("default", "one", timeout_s=2))["apiVersion"] == "resource.k8s.io/v1beta1"
    kube.serve(("v1",))
    assert json.loads(await api.claim("default", "one", timeout_s=2))["apiVersion"] == "resource.k8s.io/v1"
    kube.serve(("v1beta2",))
    [(claim,)] = [each async for each in api.claims()]
    assert json.loads(claim)["metadata"]["name"] == "one"
    assert kube.calls["discover", "resource.k8s.io"] == 3


async def test_a_server_that_cannot_say_is_asked_again_by_the_next_call() -> None:
    kube = FakeKube()
    await add_claim(kube, "v1")
    api = ResourceApi(kube)
    kube.fail(503, verb="discover")
    with pytest.raises(ApiError):
        await api.claim("default", "one", timeout_s=2)
    assert await api.claim("default", "one", timeout_s=2)


async def test_the_patience_of_a_get_covers_discovery() -> None:
    kube = FakeKube()
    kube.delay_s = 3600
    with pytest.raises(ApiError, match="which versions") as caught:
        await ResourceApi(kube).claim("default", "one", timeout_s=0.01)
    assert (caught.value.status, caught.value.reason) == (0, "Timeout")
