"""What a cluster serves decides what is rendered. `helm template` knows every version itself: so a server answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.chart.rendering import CHART, GPUS, OPENSHIFT, Helm, Refused

_SERVED = {
    "v1": ("Namespace", "Pod", "Service", "ServiceAccount"),
    "apps/v1": ("DaemonSet", "Deployment"),
    "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "admissionregistration.k8s.io/v1": ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    "apiextensions.k8s.io/v1": ("CustomResourceDefinition",),
}


def _documents(served: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    documents: dict[str, Any] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.2"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
    }
    groups: dict[str, list[dict[str, str]]] = {}
    for version, kinds in served.items():
        group, _, number = version.rpartition("/")
        if group:
            groups.setdefault(group, []).append({"groupVersion": version, "version": number})
        resources = [
            {
                "name": kind.lower() + ("es" if kind.endswith("s") else "s"),
                "kind": kind,
                "namespaced": True,
                "verbs": [],
            }
            for kind in kinds
        ]
        path = f"/apis/{version}" if group else "/api/v1"
        documents[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    listed = [{"name": name, "versions": each, "preferredVersion": each[0]} for name, each in groups.items()]
    documents["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    return documents


@contextmanager
def _serving(documents: dict[str, Any], folder: Path) -> Iterator[Path]:
    """A kubeconfig of a server that knows these documents, and nothing else."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = documents.get(self.path.partition("?")[0])
            body = json.dumps(document or {"kind": "Status", "status": "Failure", "code": 404}).encode()
            self.send_response(200 if document else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}
            context = {"name": "c", "context": {"cluster": "c", "user": "c"}}
            kubeconfig = folder / "kubeconfig"
            kubeconfig.write_text(
                yaml.safe_dump(
                    {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context]}
                    | {"current-context": "c", "users": [{"name": "c", "user": {}}]}
                )
            )
            yield kubeconfig
        finally:
            server.shutdown()
            thread.join()


def installed(helm: Helm, folder: Path, *versions: str, settings: tuple[str, ...] = ()) -> str:
    """What an install would send to a cluster that serves DeviceClasses at these versions."""
    served = dict(_SERVED) | dict.fromkeys(versions, ("DeviceClass", "ResourceClaim"))
    with _serving(_documents(served), folder) as kubeconfig:
        arguments = ["install", "dra", str(CHART), "--dry-run=client", "--disable-openapi-validation", "--skip-crds"]
        arguments += ["--namespace", "gpu", "--set", ",".join(("gpuResourcesEnabledOverride=true", *settings))]
        return helm.run(*arguments, "--kubeconfig", str(kubeconfig))


@pytest.mark.parametrize(
    ("served", "wanted"),
    [
        (("v1", "v1beta1", "v1beta2"), "v1"),
        (("v1beta2", "v1beta1"), "v1beta2"),
        (("v1beta1",), "v1beta1"),
        (("v1alpha3", "v1beta1"), "v1beta1"),
    ],
)
def test_the_highest_version_that_is_served(helm: Helm, tmp_path: Path, served: tuple[str, ...], wanted: str) -> None:
    text = installed(helm, tmp_path, *(f"resource.k8s.io/{each}" for each in served))
    assert text.count(f"apiVersion: resource.k8s.io/{wanted}\nkind: DeviceClass") == 5
    assert text.count("kind: DeviceClass") == 5
    # The field exists from v1 on, and an API server refuses what it does not know.
    assert ("extendedResourceName: nvidia.com/gpu" in text) == (wanted == "v1")


def test_a_version_that_the_user_sets_wins(helm: Helm, tmp_path: Path) -> None:
    versions = ("resource.k8s.io/v1", "resource.k8s.io/v1beta1")
    setting = ("resourceApiVersion=resource.k8s.io/v1beta1",)
    text = installed(helm, tmp_path, *versions, settings=setting)
    assert text.count("apiVersion: resource.k8s.io/v1beta1\nkind: DeviceClass") == 5
    assert "extendedResourceName" not in text


def test_a_cluster_without_the_api_is_refused(helm: Helm, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        installed(helm, tmp_path, "resource.k8s.io/v1alpha3")
    assert (
        "\nNo supported resource.k8s.io API version found in the cluster.\n"
        "This chart requires one of: resource.k8s.io/v1, resource.k8s.io/v1beta1, or resource.k8s.io/v1beta2.\n"
    ) in str(refused.value)


def test_notes_follow_an_install(helm: Helm, tmp_path: Path) -> None:
    text = installed(helm, tmp_path, "resource.k8s.io/v1")
    assert "rollout status daemonset/" in text.partition("NOTES:")[2]


# A cluster names its kinds; GitOps renderers may give the version alone.
@pytest.mark.parametrize("api", [OPENSHIFT, OPENSHIFT.rpartition("/")[0]])
def test_openshift_admits_the_pods(helm: Helm, api: str) -> None:
    assert "openshift" not in str(helm.render().objects)
    rendered = helm.render(api_versions=("resource.k8s.io/v1", api))
    binding = rendered.all("ClusterRoleBinding")[
        "dra-driver-nvidia-gpu-openshift-privileged-role-binding-kubeletplugin"
    ]
    assert binding["roleRef"]["name"] == "system:openshift:scc:privileged"


def test_openshift_can_be_said_or_denied(helm: Helm) -> None:
    assert "openshift" in str(helm.render(GPUS | {"openshift": True}).objects)
    denied = helm.render(GPUS | {"openshift": False}, api_versions=("resource.k8s.io/v1", OPENSHIFT))
    assert "openshift" not in str(denied.objects)
    left_out = "No binding for OpenShift's security context constraints was rendered"
    assert left_out in helm.notes(GPUS)
    for value in (True, False):
        assert left_out not in helm.notes(GPUS | {"openshift": value})
