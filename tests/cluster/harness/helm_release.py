"""The driver's chart as a helm release on the cluster, with what is other than the chart's own values on this node."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from nvdra_mock_nvml import Root

from tests.cluster.chart.rendering import CHART, Helm
from tests.cluster.harness import programs
from tests.cluster.harness.api import Api, Object
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.control_plane import DRIVER_NAMESPACE

RELEASE, NAMESPACE = "dra", DRIVER_NAMESPACE
ACCOUNT = f"{RELEASE}-dra-driver-nvidia-gpu-service-account-kubeletplugin"
LABEL = "nvidia.com/gpu.present"
"""The node label by which the chart's own affinity finds nodes with a GPU."""


@dataclass(frozen=True, slots=True)
class HelmRelease:
    """The chart installed on the cluster, for pods of `image`; without a labelled node no pod runs."""

    cluster: Cluster
    root: Root = field(repr=False)
    """The driver root and the stand-ins for /proc and /sys."""
    image: str | None
    """The image's whole name; without one the chart's own, which no node can pull."""

    @property
    def helm(self) -> Helm:
        """Helm, with a scratch folder of this cluster."""
        scratch = self.cluster.folder / "helm"
        scratch.mkdir(exist_ok=True)
        return Helm(programs.built(programs.HELM)[programs.HELM] / "helm", scratch)

    def values(self) -> Object:
        """The node's own folders, and a driver root that brings its own /sys and /proc."""
        root, node = self.root, self.cluster.node
        shown = {"NVDRA_SYSFS": root.sysfs, "NVDRA_PROCFS": root.procfs}
        env = [{"name": key, "value": f"/driver-root/{path.relative_to(root.root)}"} for key, path in shown.items()]
        values: Object = {
            "gpuResourcesEnabledOverride": True,
            # No scenario here is about ComputeDomains, whose programs would run beside the GPUs'.
            "resources": {"computeDomains": {"enabled": False}},
            "nvidiaDriverRoot": str(root.root),
            "kubeletPlugin": {
                "kubeletRegistrarDirectoryPath": str(node.registry),
                "kubeletPluginsDirectoryPath": str(node.plugins),
                "containers": {"gpus": {"env": env}},
            },
        }
        if self.image:
            repository, _, tag = self.image.rpartition(":")
            values["image"] = {"repository": repository, "tag": tag}
        return values

    def install(self, *arguments: str) -> None:
        """The release is there; helm has returned, pods may still be coming.

        arguments   go to helm: values in files yield to this node's, values by `--set` win over them
        """
        self._apply("install", "--create-namespace", *arguments)

    def upgrade(self, *arguments: str) -> None:
        """The release as `arguments` to helm want it, on top of these values."""
        self._apply("upgrade", *arguments)

    def uninstall(self) -> None:
        """Nothing of the release is there, nor are its pods."""
        self.helm.run("uninstall", RELEASE, *self._where(), "--wait", "--timeout=60s")

    def _apply(self, verb: str, *arguments: str) -> None:
        file = self.cluster.folder / "helm-values.json"
        file.write_text(json.dumps(self.values()))
        self.helm.run(verb, RELEASE, str(CHART), *self._where(), *arguments, f"--values={file}")

    def _where(self) -> tuple[str, ...]:
        return f"--kubeconfig={self.cluster.plane.kubeconfig('admin')}", f"--namespace={NAMESPACE}"

    def pods(self) -> list[Object]:
        """The pods of the kubelet plugins."""
        pods = self.cluster.api.items("Pod", NAMESPACE)
        return [each for each in pods if "-kubelet-plugin-" in each["metadata"]["name"]]

    def is_ready(self) -> bool:
        """The one pod of the DaemonSet passes its probes."""
        conditions = [each for pod in self.pods() for each in pod["status"].get("conditions", [])]
        return [each["status"] for each in conditions if each["type"] == "Ready"] == ["True"]

    def state(self) -> list[tuple[Object, str]]:
        """What a person would look at if the driver's pod does not come up."""
        events = self.cluster.api.events
        return [(each["status"], events(each["metadata"]["name"], NAMESPACE)) for each in self.pods()]

    def token(self) -> str:
        """A token as the plugin's pod on the cluster's node has it."""
        return self.cluster.api.token(ACCOUNT, NAMESPACE, self.cluster.node.name)

    def account(self, token: str | None = None) -> Api:
        """The API server as the plugin's pod on the node sees it, or whoever has `token`."""
        return self.cluster.plane.api_with(token or self.token())
