"""The driver on the cluster: classes and rights as the chart gives them, the plugin as a process of the node."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from nvdra_mock_nvml import Root, lay_out

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.children import Child
from tests.cluster.harness.cluster import Cluster

DRIVER = "gpu.nvidia.com"
PROGRAM = "NVDRA_CLUSTER_PLUGIN"
"""Names another program to take the plugin's place, with the same command line."""
_ACCOUNT, _NAMESPACE = "gpu-kubelet-plugin", "kube-system"
_READ = ["get", "list", "watch"]
_RIGHTS = (
    ("resource.nvidia.com", "computedomains", _READ),
    ("resource.k8s.io", "resourceclaims", _READ),
    ("resource.k8s.io", "resourceslices", [*_READ, "create", "update", "delete"]),
    ("", "nodes", [*_READ, "update", "patch"]),
    ("", "pods", _READ),
)
_CLASSES = {"gpu.nvidia.com": "gpu", "mig.nvidia.com": "mig", "vfio.gpu.nvidia.com": "vfio"}


def install(api: Api) -> None:
    """The DeviceClasses, and a service account with the plugin's rights."""
    for name, kind in _CLASSES.items():
        expression = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == '{kind}'"
        spec: Object = {"selectors": [{"cel": {"expression": expression}}]}
        if api.dra == "v1" and kind == "gpu":
            spec["extendedResourceName"] = "nvidia.com/gpu"
        api.create({"kind": "DeviceClass", "metadata": {"name": name}, "spec": spec})
    api.create({"kind": "ServiceAccount", "metadata": {"name": _ACCOUNT, "namespace": _NAMESPACE}})
    rules = [{"apiGroups": [group], "resources": [what], "verbs": verbs} for group, what, verbs in _RIGHTS]
    api.create({"kind": "ClusterRole", "metadata": {"name": _ACCOUNT}, "rules": rules})
    api.create(
        {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _ACCOUNT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": _ACCOUNT, "namespace": _NAMESPACE}],
        }
    )


@dataclass(frozen=True, slots=True)
class Traces:
    """What the plugin keeps on a node and in the API for its claims; equal if nothing leaked in between."""

    documents: frozenset[str]
    """Names of files in the CDI folder."""
    claims: frozenset[str]
    """UIDs in the record, sealed or not."""
    slices: frozenset[tuple[str, str]]
    """Name and resourceVersion of each ResourceSlice."""


@dataclass(slots=True)
class Plugin:
    """`gpu-kubelet-plugin` on the cluster's node, run by its own command line with a service account's token."""

    cluster: Cluster
    root: Root = field(repr=False)
    """The driver root and the stand-ins for /proc and /sys."""
    child: Child = field(init=False, repr=False)

    def __post_init__(self) -> None:
        node, plane = self.cluster.node, self.cluster.plane
        kubeconfig = plane.kubeconfig(_ACCOUNT, self.cluster.api.token(_ACCOUNT, _NAMESPACE))
        program = os.environ.get(PROGRAM) or str(Path(sys.executable).parent / "gpu-kubelet-plugin")
        command = [program, f"--node-name={node.name}"]
        command += [f"--namespace={_NAMESPACE}", f"--kubeconfig={kubeconfig}", "--image-name=nvdra.test/none:1"]
        command += [f"--cdi-root={node.cdi}", f"--nvidia-driver-root={self.root.root}"]
        command += [f"--container-driver-root={self.root.root}", f"--nvidia-cdi-hook-path={self.cluster.cdi_hook}"]
        command += [f"--kubelet-registrar-directory-path={node.registry}"]
        command += [f"--kubelet-plugins-directory-path={node.plugins}", "-v=6"]
        # As in the chart: the plugin's own container must not be given devices by an older runtime hook.
        environment = {"NVIDIA_VISIBLE_DEVICES": "void"}
        environment |= {"NVDRA_SYSFS": str(self.root.sysfs), "NVDRA_PROCFS": str(self.root.procfs)}
        log = self.cluster.node.logs / "gpu-kubelet-plugin.log"
        self.child = Child("gpu-kubelet-plugin", command, log, environment)
        node.children.append(self.child)

    def start(self) -> None:
        """The plugin runs and every GPU of the driver root is published."""
        self.child.start()
        self.wait_published()

    def wait_published(self) -> None:
        """ResourceSlices hold the GPUs of the driver root, no more and no fewer."""
        wanted = {gpu.uuid for gpu in self.root.portrait.gpus}

        def is_published() -> bool:
            self.child.must_run()
            return set(self.uuids().values()) == wanted

        wait_until("all GPUs to be published", is_published, 60, lambda: (self.uuids(), self.child.tail(20)))

    def uuids(self) -> dict[str, str]:
        """Device name → UUID, as the ResourceSlices say."""
        found: dict[str, str] = {}
        for each in self._slices():
            for device in each["spec"].get("devices") or []:
                # v1beta1 has the same one level deeper.
                attributes = device.get("basic", device)["attributes"]
                found[device["name"]] = attributes["uuid"]["string"]
        return found

    def record(self) -> dict[str, Any]:
        """Claim UID → entry of the record on disk (its V2 part)."""
        path = self.cluster.node.plugins / DRIVER / "checkpoint.json"
        if not path.exists():
            return {}
        entries: dict[str, Any] = json.loads(path.read_text())["v2"].get("preparedClaims") or {}
        return entries

    def document(self, uid: str) -> dict[str, Any] | None:
        """A claim's CDI document, if there is one."""
        path = self.cluster.node.cdi / f"k8s.{DRIVER}-claim_{uid}.yaml"
        if not path.exists():
            return None
        document: dict[str, Any] = yaml.safe_load(path.read_text())
        return document

    def traces(self) -> Traces:
        """What is kept for claims now."""
        return Traces(
            documents=frozenset(os.listdir(self.cluster.node.cdi)),
            claims=frozenset(self.record()),
            slices=frozenset(
                (each["metadata"]["name"], each["metadata"]["resourceVersion"]) for each in self._slices()
            ),
        )

    def _slices(self) -> list[Object]:
        return [each for each in self.cluster.api.items("ResourceSlice") if each["spec"]["driver"] == DRIVER]


@contextmanager
def running(cluster: Cluster, portrait: str = "h100x8") -> Iterator[Plugin]:
    """The plugin on the cluster's node with all GPUs of the portrait published; stopped afterwards."""
    install(cluster.api)
    plugin = Plugin(cluster, lay_out(cluster.folder / "driver", portrait))
    try:
        plugin.start()
        yield plugin
    finally:
        plugin.child.stop()
