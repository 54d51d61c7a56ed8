"""Installed as users install it: the built image by the chart, pods on it, and what an uninstall leaves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.cluster.chart.rendering import CHART
from tests.cluster.harness import driver_image
from tests.cluster.harness.api import Object, wait_until
from tests.cluster.harness.claims import claim, given, remove, seen, user, wait_running
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.driver import DRIVER, Plugin
from tests.cluster.test_chart import NAMESPACE, RELEASE, helm_for

pytestmark = pytest.mark.cluster

LABEL = "nvidia.com/gpu.present"
CDI = "/run/cdi"
"""Where the chart has CDI documents; the namespaces that the cluster is in have a /run of their own."""
PODS = ("installed-one", "installed-a", "installed-b", "installed-extended")
CLAIMS = ("installed-one", "installed-shared")


@pytest.fixture
def alone(plugin: Plugin) -> Iterator[Plugin]:
    """A node as users have it: image, label, CDI folder, and no driver. The process of before is back afterwards."""
    up, api, node = plugin.cluster, plugin.cluster.api, plugin.cluster.node
    plugin.child.stop()
    for each in api.items("ResourceSlice"):
        api.delete("ResourceSlice", each["metadata"]["name"])
    classes = api.items("DeviceClass")
    name, archive = driver_image.built()
    done = node.ctr("-n", "k8s.io", "images", "import", str(archive))
    assert done.returncode == 0, f"importing {name}: {done.stderr}"
    up.kubectl("label", "node", node.name, f"{LABEL}=true")
    os.makedirs(CDI, exist_ok=True)
    subprocess.run(["mount", "--bind", str(node.cdi), CDI], check=True)
    try:
        yield plugin
    finally:
        subprocess.run(["umount", CDI], check=True)
        up.kubectl("label", "node", node.name, f"{LABEL}-")
        for each in classes:
            name = each["metadata"]["name"]
            if api.find("DeviceClass", name) is None:
                api.create({"kind": "DeviceClass", "metadata": {"name": name}, "spec": each["spec"]})
        plugin.start()


def values(plugin: Plugin) -> Object:
    """What is other than the chart's own: this node's folders, and a driver root that brings its own /sys and /proc."""
    root, node = plugin.root, plugin.cluster.node
    repository, _, tag = driver_image.built()[0].rpartition(":")
    shown = {"NVDRA_SYSFS": root.sysfs, "NVDRA_PROCFS": root.procfs}
    env = [{"name": key, "value": f"/driver-root/{path.relative_to(root.root)}"} for key, path in shown.items()]
    return {
        "gpuResourcesEnabledOverride": True,
        "nvidiaDriverRoot": str(root.root),
        "image": {"repository": repository, "tag": tag},
        "kubeletPlugin": {
            "kubeletRegistrarDirectoryPath": str(node.registry),
            "kubeletPluginsDirectoryPath": str(node.plugins),
            "containers": {"gpus": {"env": env}},
        },
    }


def driver_pods(up: Cluster) -> list[Object]:
    return up.api.items("Pod", NAMESPACE)


def state(up: Cluster) -> list[tuple[Object, str]]:
    """What a person would look at if the driver's pod does not come up."""
    return [(each["status"], up.api.events(each["metadata"]["name"], NAMESPACE)) for each in driver_pods(up)]


def is_ready(up: Cluster) -> bool:
    """The one pod of the DaemonSet passes its probes."""
    conditions = [each for pod in driver_pods(up) for each in pod["status"].get("conditions", [])]
    return [each["status"] for each in conditions if each["type"] == "Ready"] == ["True"]


def test_installed_by_the_chart(alone: Plugin) -> None:
    plugin, up = alone, alone.cluster
    helm = helm_for(up)
    file = up.folder / "helm" / "install.json"
    file.write_text(json.dumps(values(plugin)))
    cluster = ["--kubeconfig", str(up.plane.kubeconfig("admin")), "--namespace", NAMESPACE]
    install = ["install", RELEASE, str(CHART), *cluster, "--create-namespace", "--take-ownership"]
    helm.run(*install, "--values", str(file))
    try:
        returned = time.monotonic()
        wait_until("the driver's pod to be Ready", lambda: is_ready(up), 60, lambda: state(up))
        ready_s = time.monotonic() - returned
        wanted = {gpu.uuid for gpu in plugin.root.portrait.gpus}
        wait_until("all GPUs to be published", lambda: set(plugin.uuids().values()) == wanted, 30, lambda: state(up))
        published_s = time.monotonic() - returned
        print(f"from helm's return: Ready after {ready_s:.1f} s, published after {published_s:.1f} s")
        pods_on_it(plugin)
    finally:
        helm.run("uninstall", RELEASE, *cluster, "--wait")
    wait_until("the driver's pod to be gone", lambda: not driver_pods(up), 60, lambda: state(up))
    # The record stays for the next install; nobody may find a socket that nobody serves.
    assert plugin.record() == {}
    assert (up.node.plugins / DRIVER / "checkpoint.json").exists()
    assert [name for name in os.listdir(up.node.plugins / DRIVER) if name.endswith(".sock")] == []
    assert [name for name in os.listdir(up.node.registry) if name.startswith(DRIVER)] == []
    print("left:", sorted(os.listdir(up.node.plugins / DRIVER)), sorted(os.listdir(up.node.cdi)), len(plugin.uuids()))


def pods_on_it(plugin: Plugin) -> None:
    """A claim of one pod, a claim that two share, and an extended resource: three GPUs, each seen where it belongs."""
    api = plugin.cluster.api
    before = plugin.traces()
    for name in CLAIMS:
        api.create(claim(api, name))
    extended = user(PODS[3], "")
    del extended["spec"]["resourceClaims"]
    extended["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    api.create(user(PODS[0], CLAIMS[0]))
    api.create(user(PODS[1], CLAIMS[1]))
    api.create(user(PODS[2], CLAIMS[1]))
    api.create(extended)
    wait_running(api, *PODS)

    one, shared = seen(api, PODS[0]), seen(api, PODS[1])
    assert one == given(plugin, PODS[0])
    assert shared == seen(api, PODS[2]) == given(plugin, PODS[1]) == given(plugin, PODS[2])
    made = api.get("Pod", PODS[3])["status"]["extendedResourceClaimStatus"]["resourceClaimName"]
    (result,) = api.get("ResourceClaim", made)["status"]["allocation"]["devices"]["results"]
    third = seen(api, PODS[3])
    assert third.uuids == {plugin.uuids()[result["device"]]}
    assert len(one.uuids) == len(shared.uuids) == len(third.uuids) == 1
    assert len(one.uuids | shared.uuids | third.uuids) == 3

    remove(api, PODS, CLAIMS)
    wait_until("no trace of the claims", lambda: plugin.traces() == before, 30, lambda: (before, plugin.traces()))
