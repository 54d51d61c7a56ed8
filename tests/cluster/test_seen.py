"""What users see of claims on a real cluster: status.devices, Events; and the guard beside a device plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.claims import claim, claim_of, remove, user, wait_running
from tests.cluster.harness.cluster import QUICK, container
from tests.cluster.harness.device_plugin import DevicePlugin
from tests.cluster.harness.driver import DRIVER, Installed, Plugin
from tests.cluster.harness.helm_release import NAMESPACE

pytestmark = pytest.mark.cluster

TAINT = "gpu.nvidia.com/device-plugin"
RESOURCE = "example.com/gpu"


@pytest.fixture(scope="module")
def showing(plugin: Plugin) -> Iterator[Plugin]:
    """The driver with status, Events, guard and topology on; all off again afterwards."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    pod_resources = plugin.cluster.node.kubelet_root / "pod-resources"
    plugin.release.upgrade(
        "--set=claimStatus=true,claimEvents=true,coexistenceGuard=enforce,topologyAttributes=true,grafanaDashboard.enabled=true",
        f"--set=kubeletPlugin.kubeletPodResourcesDirectoryPath={pod_resources}",
    )
    wait_until("the pod with the new values", lambda: "CLAIM_STATUS" in _variables(plugin), 90, plugin.release.state)
    plugin.wait_published()
    yield plugin
    plugin.release.upgrade()
    wait_until(
        "the pod of before",
        lambda: _variables(plugin).isdisjoint(("CLAIM_STATUS",)) and bool(_variables(plugin)),
        90,
        plugin.release.state,
    )
    plugin.wait_published()


def _variables(plugin: Plugin) -> set[str]:
    """Variables of container `gpus` in the driver's one Ready pod; none while there is another number of pods."""
    pods = plugin.release.pods()
    if len(pods) != 1 or not plugin.release.is_ready():
        return set()
    (gpus,) = [each for each in pods[0]["spec"]["containers"] if each["name"] == "gpus"]
    return {variable["name"] for variable in gpus["env"]}


def devices(plugin: Plugin) -> dict[str, Object]:
    return {device["name"]: device for each in plugin.slices() for device in each["spec"].get("devices") or ()}


def tainted(plugin: Plugin) -> set[str]:
    return {name for name, device in devices(plugin).items() if TAINT in [t["key"] for t in device.get("taints") or ()]}


def events(api: Api, name: str) -> list[Object]:
    return [each for each in api.items("Event") if each["involvedObject"].get("name") == name]


def test_a_claim_says_which_gpu_it_has(showing: Plugin) -> None:
    api = showing.cluster.api
    api.create(claim(api, "shown"))
    api.create(user("shown", "shown"))
    wait_running(api, "shown")
    wait_until(
        "the devices in the claim's status",
        lambda: bool(claim_of(api, "shown")["status"].get("devices")),
        30,
        lambda: (claim_of(api, "shown"), showing.tail()),
    )
    body = claim_of(api, "shown")
    (result,) = body["status"]["allocation"]["devices"]["results"]
    (device,) = body["status"]["devices"]
    assert (device["driver"], device["pool"], device["device"]) == (DRIVER, result["pool"], result["device"])
    assert device["data"]["uuid"] == showing.uuids()[result["device"]]
    assert device["data"]["minor"] == int(result["device"].removeprefix("gpu-"))
    managers = {each["manager"]: each for each in body["metadata"]["managedFields"]}
    assert (managers[DRIVER]["operation"], managers[DRIVER]["subresource"]) == ("Apply", "status")
    remove(api, ("shown",), ("shown",))


def test_topology_is_published_and_its_class_is_there(showing: Plugin) -> None:
    found = devices(showing)
    assert len({device["attributes"]["nvlinkDomain"]["string"] for device in found.values()}) == 1
    assert {device["attributes"]["nvlinkCount"]["int"] for device in found.values()} == {18}
    api = showing.cluster.api
    body = claim(api, "linked", 2)
    request = body["spec"]["devices"]["requests"][0]
    request.get("exactly", request)["deviceClassName"] = "nvlink.gpu.nvidia.com"
    body["spec"]["devices"]["constraints"] = [{"requests": ["gpu"], "matchAttribute": f"{DRIVER}/nvlinkDomain"}]
    api.create(body)
    api.create(user("linked", "linked"))
    wait_running(api, "linked")
    assert len(claim_of(api, "linked")["status"]["allocation"]["devices"]["results"]) == 2
    remove(api, ("linked",), ("linked",))


def test_a_gpu_of_a_device_plugin_is_kept_from_claims_until_its_pod_is_gone(showing: Plugin) -> None:
    """A real device plugin gives a pod the GPU; the kubelet's own PodResources API tells of it."""
    api, node = showing.cluster.api, showing.cluster.node
    uuid = showing.root.gpu(5).uuid
    name = next(name for name, each in showing.uuids().items() if each == uuid)
    with DevicePlugin(node.registry, RESOURCE, uuid).serving():

        def is_offered() -> bool:
            return api.get("Node", node.name)["status"].get("allocatable", {}).get(RESOURCE) == "1"

        wait_until("the kubelet to offer the plugin's device", is_offered, 60, node.kubelet.tail)
        uses = {"limits": {RESOURCE: "1"}}
        api.create(
            {
                "kind": "Pod",
                "metadata": {"name": "old-style"},
                "spec": {"containers": [container("main", "sleep infinity", resources=uses)], **QUICK},
            }
        )
        wait_running(api, "old-style")
        wait_until("the taint", lambda: tainted(showing) == {name}, 30, lambda: (devices(showing), showing.tail()))

        # A claim that tolerates the taint is allocated the GPU all the same, and refused on the node.
        body = claim(api, "wants-it", selector=f"device.attributes['{DRIVER}'].uuid == '{uuid}'")
        body["spec"]["devices"]["requests"][0]["exactly"]["tolerations"] = [{"key": TAINT, "operator": "Exists"}]
        api.create(body)
        api.create(user("wants-it", "wants-it"))
        wait_until(
            "an Event about the claim",
            lambda: any(each["reason"] == "PrepareFailed" for each in events(api, "wants-it")),
            60,
            lambda: (events(api, "wants-it"), showing.tail()),
        )
        (event,) = [each for each in events(api, "wants-it") if each["reason"] == "PrepareFailed"]
        assert event["involvedObject"]["kind"] == "ResourceClaim"
        assert "pod default/old-style" in event["message"]
        assert event["source"]["component"] == DRIVER
        assert api.get("Pod", "wants-it")["status"]["phase"] == "Pending"

        # Once the pod is gone, the claim gets its GPU.
        remove(api, ("old-style",))
        wait_running(api, "wants-it")
        wait_until("the taint's end", lambda: not tainted(showing), 30, lambda: (devices(showing), showing.tail()))
        remove(api, ("wants-it",), ("wants-it",))


def test_the_dashboard_is_a_config_map(showing: Plugin) -> None:
    text = showing.cluster.api.call(
        "GET", f"api/v1/namespaces/{NAMESPACE}/configmaps/dra-driver-nvidia-gpu-dashboard"
    ).decode()
    assert "DRA driver for NVIDIA GPUs" in text
