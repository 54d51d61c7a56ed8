"""Two pods with claims of their own on one GPU, as the scheduler shares it by capacity."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.claims import claim, claim_of, remove, seen, user, wait_running
from tests.cluster.harness.driver import DRIVER, Installed, Plugin

pytestmark = pytest.mark.cluster

MINOR = 4


def part(api: Api, plugin: Plugin, name: str, memory: str) -> Object:
    """A claim for a part of the GPU of these tests."""
    body = claim(api, name, selector=f"device.attributes['{DRIVER}'].uuid == '{plugin.root.gpu(MINOR).uuid}'")
    (request,) = body["spec"]["devices"]["requests"]
    request.get("exactly", request)["capacity"] = {"requests": {"memory": memory}}
    return body


@pytest.fixture(scope="module")
def sharing(plugin: Plugin) -> Iterator[Plugin]:
    """The driver with its gate on; off again afterwards."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    plugin.release.upgrade("--set=featureGates.ConsumableShares=true", "--set=consumableShares=memory")
    plugin.wait_published()
    wait_until(
        "devices to be shared",
        lambda: all(device.get("allowMultipleAllocations") for device in devices(plugin)),
        30,
        lambda: devices(plugin),
    )
    yield plugin
    plugin.release.upgrade()
    plugin.wait_published()


def devices(plugin: Plugin) -> list[Object]:
    return [device for each in plugin.slices() for device in each["spec"].get("devices") or []]


def test_two_claims_have_one_gpu_and_a_share_each(sharing: Plugin) -> None:
    api, uuid = sharing.cluster.api, sharing.root.gpu(MINOR).uuid
    names = ("left", "right")
    for name in names:
        api.create(part(api, sharing, name, "10Gi"))
        api.create(user(name, name))
    wait_running(api, *names)
    shares = set()
    for name in names:
        assert seen(api, name).uuids == {uuid}
        body = claim_of(api, name)
        (result,) = body["status"]["allocation"]["devices"]["results"]
        assert result["consumedCapacity"] == {"memory": "10Gi"}
        entry = sharing.checkpoint()[body["metadata"]["uid"]]
        (device,) = entry["preparedDevices"][0]["devices"]
        assert device["gpu"]["device"]["ShareID"] == result["shareID"]
        shares.add(result["shareID"])
    assert len(shares) == len(names)
    remove(api, names, names)
    wait_until("both claims to be let go of", lambda: not sharing.checkpoint(), 30, sharing.tail)
