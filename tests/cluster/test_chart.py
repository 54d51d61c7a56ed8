"""The chart on a real API server: what it renders is taken, what it forbids is refused. No pod runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.chart.rendering import ALL_PROGRAMS, GPUS, RELEASED
from tests.cluster.harness.api import Object, Refused, wait_until
from tests.cluster.harness.control_plane import V1_32, V1_37
from tests.cluster.harness.helm_release import ACCOUNT, NAMESPACE, HelmRelease

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.parametrize("up", [V1_37, V1_32], indirect=True, ids=lambda release: release.version),
]


@pytest.fixture
def guarded(release: HelmRelease) -> HelmRelease:
    """The chart with its policy in force: the API server takes a moment to hear of one and to compile it."""
    plugin = release.account()
    forged = slice_of("gpu.nvidia.com", "forged", nodeName="elsewhere")
    body = {"apiVersion": f"resource.k8s.io/{plugin.dra}", **forged}

    def is_in_force() -> bool:
        try:
            plugin.call("POST", plugin.path("ResourceSlice", "") + "?dryRun=All", body)
        except Refused as refused:
            return "may not modify" in str(refused)
        return False

    wait_until("the policy of slices to be in force", is_in_force, 30)
    return release


def slice_of(driver: str, name: str, **where: Any) -> Object:
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
    return {
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {"driver": driver, "pool": pool, "devices": [], **where},
    }


ANYWHERE = {
    "nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}],
}


def test_a_node_touches_its_own_slices_only(guarded: HelmRelease) -> None:
    admin, here = guarded.cluster.api, guarded.cluster.node.name
    admin.create({"kind": "Node", "metadata": {"name": "elsewhere"}})
    plugin = guarded.account()
    message = f"this user running on node '{here}' may not modify cluster or node resourceslices"
    try:
        plugin.create(slice_of("gpu.nvidia.com", "own", nodeName=here))
        for forged in ({"nodeName": "elsewhere"}, {"allNodes": True}, {"nodeSelector": ANYWHERE}):
            with pytest.raises(Refused, match=message.replace("'", ".")):
                plugin.create(slice_of("gpu.nvidia.com", "forged", **forged))
            admin.create(slice_of("gpu.nvidia.com", "foreign", **forged))
            path = plugin.path("ResourceSlice", "", "foreign")
            with pytest.raises(Refused, match=message.replace("'", ".")):
                plugin.call("DELETE", path)
            changed = admin.get("ResourceSlice", "foreign")
            changed["spec"]["pool"]["generation"] = 2
            with pytest.raises(Refused, match=message.replace("'", ".")):
                plugin.call("PUT", path, changed)
            admin.delete("ResourceSlice", "foreign")
        own = plugin.get("ResourceSlice", "own")
        own["spec"]["pool"]["generation"] = 2
        plugin.call("PUT", plugin.path("ResourceSlice", "", "own"), own)
        plugin.delete("ResourceSlice", "own")
    finally:
        for name in ("own", "forged", "foreign"):
            admin.delete("ResourceSlice", name)
        admin.delete("Node", "elsewhere")


def test_a_token_of_no_node_touches_none(guarded: HelmRelease) -> None:
    plugin = guarded.account(guarded.cluster.api.token(ACCOUNT, NAMESPACE))
    with pytest.raises(Refused, match="no node association found for user"):
        plugin.create(slice_of("gpu.nvidia.com", "own", nodeName=guarded.cluster.node.name))


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        (GPUS, ALL_PROGRAMS),
        (GPUS | {"featureGates.MPSSupport": True, "priorityClass.create": True}, ALL_PROGRAMS),
        (GPUS | {"featureGates": {"PassthroughSupport": True, "DeviceMetadata": True}}, ALL_PROGRAMS),
        (
            GPUS
            | {
                "kubeletPlugin.networkPolicy.enabled": True,
                "controller.networkPolicy.enabled": True,
                "webhook": {"enabled": True, "tls": {"mode": "secret", "secret": {"name": "s", "caBundle": "Q0E="}}},
            },
            ALL_PROGRAMS,
        ),
        (
            GPUS
            | {
                "webhook.enabled": True,
                "webhook.replicas": 2,
                "webhook.networkPolicy.enabled": True,
                "webhook.tls.mode": "self-signed",
            },
            RELEASED,
        ),
        (GPUS | {"kubeletPlugin.updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}, ALL_PROGRAMS[:1]),
    ],
)
def test_the_server_takes_every_field(release: HelmRelease, values: Any, chosen: tuple[str, ...]) -> None:
    """Strictly: an unknown or doubled field is an error, and so is a value that the server's own rules refuse."""
    version = {"resourceApiVersion": f"resource.k8s.io/{release.cluster.api.dra}"}
    rendered = release.helm.render({**values, **version}, programs=chosen, namespace="kube-system")
    items = {"apiVersion": "v1", "kind": "List", "items": list(rendered.objects)}
    release.cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(items))
