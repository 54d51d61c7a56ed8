"""Uninstalled and installed again: what stays meanwhile, how soon it serves; and pods that know nothing of claims."""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.cluster.chart.rendering import nested
from tests.cluster.chart.upstream_values import UPSTREAM
from tests.cluster.harness.api import wait_until
from tests.cluster.harness.claims import claim, given, remove, seen, user, wait_running
from tests.cluster.harness.driver import DRIVER, Installed
from tests.cluster.harness.helm_release import NAMESPACE, RELEASE, HelmRelease
from tests.folders import contents

pytestmark = pytest.mark.cluster

KINDS = "serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings,daemonsets,deployments,services"
KINDS += ",validatingadmissionpolicies,validatingadmissionpolicybindings,networkpolicies,priorityclasses"
KINDS += ",deviceclasses,secrets,configmaps"


def objects(release: HelmRelease) -> list[str]:
    """The kind of each object that carries the release's label."""
    found = release.cluster.kubectl(
        "get", KINDS, "--all-namespaces", "--output=name", f"--selector=app.kubernetes.io/instance={RELEASE}"
    )
    return sorted(each.partition("/")[0].partition(".")[0] for each in found.split())


def test_uninstalled_and_installed_again(installed: Installed) -> None:
    """An uninstall leaves the checkpoint for the next install, and nothing that anybody could take for a driver."""
    release, kubectl = installed.release, installed.cluster.kubectl
    assert objects(release) == [
        *("clusterrole", "clusterrolebinding", "daemonset", "deviceclass", "deviceclass", "deviceclass"),
        *("serviceaccount", "validatingadmissionpolicy", "validatingadmissionpolicybinding"),
    ]
    release.uninstall()
    try:
        wait_until("the driver's pod to be gone", lambda: not release.pods(), 60, release.state)
        assert objects(release) == []
        # Not even what helm keeps of a release.
        assert kubectl("get", "secrets", f"--namespace={NAMESPACE}", "--output=name") == ""
        # Nobody's release, and never upgraded or deleted by helm: users have objects of these kinds.
        crds = kubectl("get", "customresourcedefinitions", "--output=name").split()
        assert {each.partition("/")[2] for each in crds} == {
            "computedomains.resource.nvidia.com",
            "computedomaincliques.resource.nvidia.com",
        }
        kept = [".locks", "checkpoint.json", "cp.lock", "nvidia-cdi-hook", "pu.lock"]
        assert sorted(os.listdir(installed.folder)) == kept
        # A line in a GPU's lock file would be of a claim in work.
        assert not any(contents(installed.folder / ".locks").values())
        assert installed.checkpoint() == {}
        assert os.listdir(installed.cluster.node.cdi) == []
        assert [name for name in os.listdir(installed.cluster.node.registry) if DRIVER in name] == []
        # By the kubelet, which waits half a minute for the driver to come back.
        wait_until("the slices to be gone", lambda: not installed.slices(), 90, installed.slices)
    finally:
        release.install()
        returned = time.monotonic()
        wait_until("the driver's pod to be Ready", release.is_ready, 60, release.state)
        ready_s = time.monotonic() - returned
        installed.wait_published()
        published_s = time.monotonic() - returned
    print(f"from helm's return: Ready after {ready_s:.1f} s, published after {published_s:.1f} s")


def test_the_go_drivers_own_values_install(installed: Installed) -> None:
    """Every key of its chart, with its default; only the image and this node's folders are others."""
    release, api = installed.release, installed.cluster.api
    file = installed.cluster.folder / "go-driver-values.json"
    file.write_text(json.dumps(nested(UPSTREAM)))
    release.uninstall()
    release.install(f"--values={file}")
    try:
        wait_until("the driver's pod to be Ready", release.is_ready, 60, release.state)
        api.create(claim(api, "unchanged"))
        api.create(user("unchanged", "unchanged"))
        wait_running(api, "unchanged")
        assert seen(api, "unchanged") == given(installed, "unchanged")
        remove(api, ("unchanged",), ("unchanged",))
    finally:
        release.uninstall()
        release.install()
        wait_until("the driver's pod to be Ready", release.is_ready, 60, release.state)
        installed.wait_published()


def test_an_extended_resource_is_a_gpu(installed: Installed) -> None:
    """`nvidia.com/gpu: 1`, as pods have asked for GPUs ever since."""
    api = installed.cluster.api
    before = installed.traces()
    pod = user("extended", "")
    del pod["spec"]["resourceClaims"]
    pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    api.create(pod)
    wait_running(api, "extended")
    made = api.get("Pod", "extended")["status"]["extendedResourceClaimStatus"]["resourceClaimName"]
    (result,) = api.get("ResourceClaim", made)["status"]["allocation"]["devices"]["results"]
    sight = seen(api, "extended")
    assert sight.uuids == {installed.uuids()[result["device"]]}
    assert len(sight.nodes) == 1
    remove(api, ("extended",))
    wait_until("no trace of the claim", lambda: installed.traces() == before, 30, installed.traces)
