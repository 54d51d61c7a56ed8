"""GPU health through the chart: an event becomes a taint that the scheduler heeds, kubelet shows it, and it goes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.harness.api import Api, Object, pod_phase, wait_until
from tests.cluster.harness.claims import claim, remove, user, wait_running
from tests.cluster.harness.driver import DRIVER, Installed, Plugin
from tests.cluster.harness.helm_release import NAMESPACE
from tests.cluster.unproven import UNPROVEN

pytestmark = [pytest.mark.cluster, UNPROVEN]

MINOR = 4
XID = "gpu.nvidia.com/xid"


@pytest.fixture(scope="module")
def watching(plugin: Plugin) -> Iterator[Plugin]:
    """The driver with its gate on; off again afterwards."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    plugin.release.upgrade("--set=featureGates.NVMLDeviceHealthCheck=true", "--set=additionalXidsToIgnore=94")
    plugin.wait_published()
    wait_until("events to be waited for", lambda: (plugin.folder / "health.sock").exists(), 60, plugin.tail)
    yield plugin
    plugin.release.upgrade()
    plugin.wait_published()


def taints(plugin: Plugin) -> dict[str, list[tuple[str, str, str]]]:
    """Devices with taints, as published."""
    return {
        device["name"]: [(taint["key"], taint.get("value", ""), taint["effect"]) for taint in device["taints"]]
        for each in plugin.slices()
        for device in each["spec"].get("devices") or []
        if device.get("taints")
    }


def on_gpu(api: Api, plugin: Plugin, name: str) -> Object:
    """A claim for the GPU of these tests."""
    return claim(api, name, selector=f"device.attributes['{DRIVER}'].uuid == '{plugin.root.gpu(MINOR).uuid}'")


def health_of(api: Api, pod: str) -> list[Object]:
    """The health of a pod's devices, as kubelet shows it."""
    return [
        resource
        for status in api.get("Pod", pod)["status"].get("containerStatuses", ())
        for each in status.get("allocatedResourcesStatus", ())
        for resource in each["resources"]
    ]


def nvdra(plugin: Plugin, *words: str) -> str:
    """What `nvdra health …` says in the driver's pod."""
    # One of before the upgrade may still be ending.
    newest = max(plugin.release.pods(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    name = newest["metadata"]["name"]
    command = ("exec", f"--namespace={NAMESPACE}", name, "--container=gpus", "--", "nvdra", "health", *words)
    return plugin.cluster.kubectl(*command)


def test_an_event_taints_its_gpu_is_shown_in_pod_status_and_cleared(watching: Plugin) -> None:
    api, root = watching.cluster.api, watching.root
    api.create(on_gpu(api, watching, "used"))
    api.create(user("used", "used"))
    wait_running(api, "used")
    wait_until(
        "kubelet to show a healthy device",
        lambda: [each["health"] for each in health_of(api, "used")] == ["Healthy"],
        60,
        lambda: (api.get("Pod", "used")["status"], watching.tail()),
    )
    root.fire_event(MINOR, "xid", 79)
    wait_until("the taint", lambda: taints(watching) == {"gpu-4": [(XID, "79", "NoSchedule")]}, 30, watching.tail)
    wait_until(
        "kubelet to show the unhealthy device",
        lambda: [each["health"] for each in health_of(api, "used")] == ["Unhealthy"],
        60,
        lambda: (json.dumps(health_of(api, "used")), watching.tail()),
    )
    assert pod_phase(api.get("Pod", "used")) == "Running", "a taint evicts nobody"
    assert nvdra(watching, "show").startswith("gpu-4: XID 79: a GPU error (NoSchedule")
    remove(api, ("used",), ("used",))

    api.create(on_gpu(api, watching, "next"))
    api.create(user("next", "next"))
    wait_until("the scheduler to refuse the GPU", lambda: "taint" in api.events("next"), 60, lambda: api.events("next"))
    assert nvdra(watching, "clear", "gpu-4").startswith(f"{XID}=79:NoSchedule of GPU ")
    wait_until("the taint to go", lambda: not taints(watching), 30, watching.tail)
    wait_running(api, "next", timeout_s=180)
    remove(api, ("next",), ("next",))


def test_a_program_s_xid_has_no_effect_and_goes_by_itself(watching: Plugin) -> None:
    root = watching.root
    root.fire_event(MINOR, "xid", 94)
    wait_until("the taint", lambda: taints(watching) == {"gpu-4": [(XID, "94", "None")]}, 30, watching.tail)
    wait_until("the taint to go", lambda: not taints(watching), 60, watching.tail)


def test_a_rule_of_an_administrator_stands_beside_the_taint(watching: Plugin) -> None:
    api, root = watching.cluster.api, watching.root
    taint = {"key": "example.com/repair", "value": "ticket", "effect": "NoSchedule"}
    selector = {"driver": DRIVER, "pool": watching.cluster.node.name, "device": "gpu-4"}
    api.create(
        {"kind": "DeviceTaintRule", "metadata": {"name": "r"}, "spec": {"deviceSelector": selector, "taint": taint}}
    )
    try:
        root.fire_event(MINOR, "xid", 31)
        wait_until("the taint", lambda: taints(watching) == {"gpu-4": [(XID, "31", "None")]}, 30, watching.tail)
        wait_until("the taint to go", lambda: not taints(watching), 60, watching.tail)
        assert api.get("DeviceTaintRule", "r")["spec"]["taint"]["key"] == "example.com/repair"
    finally:
        api.delete("DeviceTaintRule", "r")
