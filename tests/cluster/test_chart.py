"""The chart on a real API server: what it renders is taken, what it forbids is refused, what it grants is no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.chart.rendering import ALL_PROGRAMS, GPUS, NAME, Helm
from tests.cluster.harness import programs
from tests.cluster.harness.api import Api, Object, Refused, wait_until
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.control_plane import NODE_ADDRESS, V1_32, V1_37

RELEASE, NAMESPACE = "dra", "gpu"
ACCOUNT = f"{RELEASE}-{NAME}-service-account-kubeletplugin"

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.parametrize("up", [V1_37, V1_32], indirect=True, ids=lambda release: release.version),
]


@dataclass(frozen=True, slots=True)
class Installed:
    """The chart as a release on the cluster. No pod runs: the node has no label that the affinity asks for."""

    cluster: Cluster
    helm: Helm

    def plugin(self, node: str) -> Api:
        """The API server as the plugin's pod on `node` sees it."""
        api = self.cluster.api
        token = api.token(ACCOUNT, NAMESPACE, node)
        return Api(NODE_ADDRESS, api._address[1], self.cluster.plane.ca, token, api.dra)

    def is_policy_in_force(self) -> bool:
        """The API server takes a moment to hear of a policy and to compile it."""
        forged = slice_of("gpu.nvidia.com", "forged", nodeName="elsewhere")
        body = {"apiVersion": f"resource.k8s.io/{self.cluster.api.dra}", **forged}
        plugin = self.plugin(self.cluster.node.name)
        try:
            plugin.call("POST", plugin._path("ResourceSlice", "") + "?dryRun=All", body)
        except Refused as refused:
            return "may not modify" in str(refused)
        return False


def helm_for(up: Cluster) -> Helm:
    scratch = up.folder / "helm"
    scratch.mkdir(exist_ok=True)
    return Helm(programs.built(programs.HELM)[programs.HELM] / "helm", scratch)


@contextmanager
def release(up: Cluster) -> Iterator[Installed]:
    """The chart installed, its policy in force; uninstalled afterwards.

    Classes of the same names that the cluster had before are put back.
    """
    helm = helm_for(up)
    before = up.api.items("DeviceClass")
    cluster = ["--kubeconfig", str(up.plane.kubeconfig("admin")), "--namespace", NAMESPACE]
    helm.run(
        *("install", RELEASE, str(helm.with_programs(ALL_PROGRAMS[:1])), *cluster, "--create-namespace"),
        *("--take-ownership", "--set", "gpuResourcesEnabledOverride=true"),
    )
    try:
        there = Installed(up, helm)
        wait_until("the policy of slices to be in force", there.is_policy_in_force, 30)
        yield there
    finally:
        helm.run("uninstall", RELEASE, *cluster, "--wait")
        for each in before:
            up.api.create({"kind": "DeviceClass", "metadata": {"name": each["metadata"]["name"]}, "spec": each["spec"]})


@pytest.fixture
def installed(up: Cluster) -> Iterator[Installed]:
    with release(up) as there:
        yield there


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


def test_a_node_touches_its_own_slices_only(installed: Installed) -> None:
    admin, here = installed.cluster.api, installed.cluster.node.name
    admin.create({"kind": "Node", "metadata": {"name": "elsewhere"}})
    plugin = installed.plugin(here)
    message = f"this user running on node '{here}' may not modify cluster or node resourceslices"
    try:
        plugin.create(slice_of("gpu.nvidia.com", "own", nodeName=here))
        for forged in ({"nodeName": "elsewhere"}, {"allNodes": True}, {"nodeSelector": ANYWHERE}):
            with pytest.raises(Refused, match=message.replace("'", ".")):
                plugin.create(slice_of("gpu.nvidia.com", "forged", **forged))
            admin.create(slice_of("gpu.nvidia.com", "foreign", **forged))
            path = plugin._path("ResourceSlice", "", "foreign")
            with pytest.raises(Refused, match=message.replace("'", ".")):
                plugin.call("DELETE", path)
            changed = admin.get("ResourceSlice", "foreign")
            changed["spec"]["pool"]["generation"] = 2
            with pytest.raises(Refused, match=message.replace("'", ".")):
                plugin.call("PUT", path, changed)
            admin.delete("ResourceSlice", "foreign")
        own = plugin.get("ResourceSlice", "own")
        own["spec"]["pool"]["generation"] = 2
        plugin.call("PUT", plugin._path("ResourceSlice", "", "own"), own)
        plugin.delete("ResourceSlice", "own")
    finally:
        for name in ("own", "forged", "foreign"):
            admin.delete("ResourceSlice", name)
        admin.delete("Node", "elsewhere")


def test_a_token_of_no_node_touches_none(installed: Installed) -> None:
    api = installed.cluster.api
    token = api.token(ACCOUNT, NAMESPACE)
    plugin = Api(NODE_ADDRESS, api._address[1], installed.cluster.plane.ca, token, api.dra)
    with pytest.raises(Refused, match="no node association found for user"):
        plugin.create(slice_of("gpu.nvidia.com", "own", nodeName=installed.cluster.node.name))


def test_rights(installed: Installed) -> None:
    """As the authorizer sees them: the plugin's, and none that a stolen token would be good for."""
    user = f"--as=system:serviceaccount:{NAMESPACE}:{ACCOUNT}"

    def may(*what: str) -> bool:
        try:
            return installed.cluster.kubectl("auth", "can-i", user, *what).strip() == "yes"
        except RuntimeError:
            return False

    for verb, resource in (
        ("get", "resourceclaims.resource.k8s.io"),
        ("list", "resourceclaims.resource.k8s.io"),
        ("create", "resourceslices.resource.k8s.io"),
        ("delete", "resourceslices.resource.k8s.io"),
        ("get", "nodes"),
        ("watch", "nodes"),
    ):
        assert may(verb, resource, "--all-namespaces"), (verb, resource)
    for verb, resource in (
        ("update", "resourceclaims.resource.k8s.io"),
        ("patch", "nodes"),
        ("list", "pods"),
        ("list", "secrets"),
        ("create", "deployments.apps"),
        ("create", "pods"),
        ("deletecollection", "resourceslices.resource.k8s.io"),
    ):
        assert not may(verb, resource, f"--namespace={NAMESPACE}"), (verb, resource)


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
        (GPUS | {"kubeletPlugin.updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}, ALL_PROGRAMS[:1]),
    ],
)
def test_the_server_takes_every_field(up: Cluster, values: Any, chosen: tuple[str, ...]) -> None:
    """Strictly: an unknown or doubled field is an error, and so is a value that the server's own rules refuse."""
    version = {"resourceApiVersion": f"resource.k8s.io/{up.api.dra}"}
    rendered = helm_for(up).render({**values, **version}, programs=chosen, namespace="kube-system")
    items = {"apiVersion": "v1", "kind": "List", "items": list(rendered.objects)}
    up.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(items))


def test_what_an_uninstall_leaves(up: Cluster) -> None:
    """The CRDs, which are nobody's release, and the namespace, which helm made on the way."""
    kinds = "serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings,daemonsets,deployments,services"
    kinds += ",validatingadmissionpolicies,validatingadmissionpolicybindings,networkpolicies,priorityclasses"

    def there() -> set[str]:
        listed = up.kubectl(
            "get", kinds, "--all-namespaces", "--output=name", f"--selector=app.kubernetes.io/instance={RELEASE}"
        )
        return {each.partition(".")[0].partition("/")[0] for each in listed.split()}

    with release(up):
        assert there() == {
            "clusterrole",
            "clusterrolebinding",
            "daemonset",
            "serviceaccount",
            "validatingadmissionpolicy",
            "validatingadmissionpolicybinding",
        }
    assert there() == set()
    crds = up.kubectl("get", "customresourcedefinitions", "--output=name").split()
    assert {each.partition("/")[2] for each in crds} >= {
        "computedomains.resource.nvidia.com",
        "computedomaincliques.resource.nvidia.com",
    }
