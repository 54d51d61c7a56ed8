"""Time slices of claims, set through the driver root's nvidia-smi by the plugin that the chart installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.claims import claim, claim_of, given, remove, seen, user, wait_running
from tests.cluster.harness.driver import DRIVER, Installed, Plugin

pytestmark = pytest.mark.cluster

MINOR = 6
SHORT = 1


def sliced(api: Api, plugin: Plugin, name: str, interval: str) -> Object:
    """A claim for the GPU of these tests, with a time slice."""
    body = claim(api, name, selector=f"device.attributes['{DRIVER}'].uuid == '{plugin.root.gpu(MINOR).uuid}'")
    sharing = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": interval}}
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing}
    body["spec"]["devices"]["config"] = [{"opaque": {"driver": DRIVER, "parameters": parameters}}]
    return body


@pytest.fixture(scope="module")
def slicing(plugin: Plugin) -> Iterator[Plugin]:
    """The driver with its gate on; off again afterwards."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    plugin.release.upgrade("--set=featureGates.TimeSlicingSettings=true")
    plugin.wait_published()
    yield plugin
    plugin.release.upgrade()
    plugin.wait_published()


def test_one_pod_with_two_containers_and_a_short_interval(slicing: Plugin) -> None:
    api, root = slicing.cluster.api, slicing.root
    api.create(sliced(api, slicing, "short", "Short"))
    api.create(user("short", "short", containers=("first", "second")))
    wait_running(api, "short")
    assert seen(api, "short", "first") == seen(api, "short", "second") == given(slicing, "short")
    assert root.time_slice(MINOR) == SHORT
    assert [root.time_slice(minor) for minor in range(MINOR)] == [0] * MINOR
    entry = slicing.checkpoint()[claim_of(api, "short")["metadata"]["uid"]]
    assert [group["configState"]["timeSliceApplied"] for group in entry["preparedDevices"]] == [True]
    remove(api, ("short",), ("short",))
    wait_until("the time slice to be reset", lambda: root.time_slice(MINOR) == 0, 30, slicing.tail)
