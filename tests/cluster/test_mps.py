"""MPS daemons as the chart's driver runs them: a Deployment's pod, containers that reach it, and nothing left of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.claims import claim, claim_of, remove, seen, user, wait_running
from tests.cluster.harness.driver import DRIVER, Installed, Plugin
from tests.cluster.harness.helm_release import NAMESPACE

pytestmark = pytest.mark.cluster

MINOR = 5
DEFAULT, EXCLUSIVE = 0, 3
ASK = "nvidia-cuda-mps-control --as-client && echo joined $CUDA_MPS_PIPE_DIRECTORY"


def served(api: Api, plugin: Plugin, name: str) -> Object:
    """A claim for the GPU of these tests, with MPS."""
    body = claim(api, name, selector=f"device.attributes['{DRIVER}'].uuid == '{plugin.root.gpu(MINOR).uuid}'")
    sharing = {
        "strategy": "MPS",
        "mpsConfig": {"defaultActiveThreadPercentage": 50, "defaultPinnedDeviceMemoryLimit": "1Gi"},
    }
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing}
    body["spec"]["devices"]["config"] = [{"opaque": {"driver": DRIVER, "parameters": parameters}}]
    return body


@pytest.fixture(scope="module")
def mps(plugin: Plugin) -> Iterator[Plugin]:
    """The driver with its gate on; off again afterwards."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    plugin.release.upgrade("--set=featureGates.MPSSupport=true")
    plugin.wait_published()
    yield plugin
    plugin.release.upgrade()
    plugin.wait_published()


def daemons(plugin: Plugin) -> list[Object]:
    """Deployments of MPS daemons."""
    listed = plugin.cluster.api.items("Deployment", namespace=NAMESPACE)
    return [each for each in listed if each["metadata"]["name"].startswith("mps-control-daemon-")]


def test_two_containers_compute_through_one_daemon_and_nothing_is_left_of_it(mps: Plugin) -> None:
    api, root = mps.cluster.api, mps.root
    api.create(served(api, mps, "served"))
    api.create(user("served", "served", containers=("first", "second"), script=f"{ASK}; echo done; sleep 3600"))
    wait_running(api, "served")
    uid = claim_of(api, "served")["metadata"]["uid"]
    (group,) = mps.checkpoint()[uid]["preparedDevices"]
    daemon = group["configState"]["mpsControlDaemonID"]
    assert [each["metadata"]["name"] for each in daemons(mps)] == [f"mps-control-daemon-{daemon}"]
    assert root.compute_mode(MINOR) == EXCLUSIVE
    for container in ("first", "second"):
        assert seen(api, "served", container).uuids == {root.gpu(MINOR).uuid}
        wait_until(
            "the daemon to answer inside the container",
            lambda container=container: "joined /tmp/nvidia-mps" in api.logs("served", container),  # type: ignore[misc]
            20,
            lambda container=container: api.logs("served", container),  # type: ignore[misc]
        )
    log = (mps.folder / "mps" / daemon / "log" / "control.log").read_text()
    assert f"Cmd:set_default_device_pinned_mem_limit {root.gpu(MINOR).uuid} 1024M" in log
    remove(api, ("served",), ("served",))
    wait_until("the daemon to be gone", lambda: not daemons(mps), 60, mps.tail)
    wait_until("its folder to be gone", lambda: not list((mps.folder / "mps").iterdir()), 30, mps.tail)
    assert root.compute_mode(MINOR) == DEFAULT
    assert mps.checkpoint() == {}
