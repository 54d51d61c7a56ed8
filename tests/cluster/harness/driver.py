"""The driver at work on the cluster's node: installed by helm, or as a process beside the kubelet."""

from __future__ import annotations

import json
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from nvdra_mock_nvml import Root, lay_out

from tests.cluster.harness.api import Object, wait_until
from tests.cluster.harness.children import Child
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.helm_release import LABEL, NAMESPACE, HelmRelease

DRIVER = "gpu.nvidia.com"
PROGRAM = "NVDRA_CLUSTER_PLUGIN"
"""Names another program to take the plugin's place, with the same command line."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What the plugin keeps on a node and in the API for its claims; equal if nothing leaked in between."""

    documents: frozenset[str]
    """Names of files in the CDI folder."""
    claims: frozenset[str]
    """UIDs in the checkpoint, sealed or not."""
    slices: frozenset[tuple[str, str]]
    """Name and resourceVersion of each ResourceSlice."""


@dataclass(slots=True)
class Plugin(ABC):
    """`gpu-kubelet-plugin` on the cluster's node, however it is run there."""

    release: HelmRelease

    @abstractmethod
    def start(self) -> None:
        """The plugin runs and every GPU of the driver root is published; also after `kill` and `stop`."""

    @abstractmethod
    def stop(self) -> None:
        """The plugin has ended by itself, asked to."""

    @abstractmethod
    def kill(self) -> None:
        """The plugin is gone, without a chance to tidy up."""

    @abstractmethod
    def must_run(self) -> None:
        """Raises if the plugin should be running and has ended for good."""

    @abstractmethod
    def tail(self, lines: int = 20) -> str:
        """The last lines of the plugin's log."""

    @property
    def cluster(self) -> Cluster:
        """Where it runs."""
        return self.release.cluster

    @property
    def root(self) -> Root:
        """The driver root and the stand-ins for /proc and /sys."""
        return self.release.root

    @property
    def folder(self) -> Path:
        """The plugin's own folder on the node."""
        return self.cluster.node.plugins / DRIVER

    def wait_published(self) -> None:
        """ResourceSlices hold the GPUs of the driver root, no more and no fewer."""
        wanted = {gpu.uuid for gpu in self.root.portrait.gpus}

        def is_published() -> bool:
            self.must_run()
            return set(self.uuids().values()) == wanted

        wait_until("all GPUs to be published", is_published, 60, lambda: (self.uuids(), self.tail()))

    def uuids(self) -> dict[str, str]:
        """Device name → UUID, as the ResourceSlices say; without what is made only for a claim."""
        found: dict[str, str] = {}
        for each in self.slices():
            for device in each["spec"].get("devices") or []:
                # v1beta1 has the same one level deeper.
                attributes = device.get("basic", device)["attributes"]
                if "uuid" in attributes:
                    found[device["name"]] = attributes["uuid"]["string"]
        return found

    def slices(self) -> list[Object]:
        """The driver's ResourceSlices."""
        return [each for each in self.cluster.api.items("ResourceSlice") if each["spec"]["driver"] == DRIVER]

    def checkpoint(self) -> dict[str, Any]:
        """Claim UID → entry of the checkpoint on disk (its V2 part)."""
        path = self.folder / "checkpoint.json"
        if not path.exists():
            return {}
        entries: dict[str, Any] = json.loads(path.read_text())["v2"].get("preparedClaims") or {}
        return entries

    def document(self, uid: str) -> dict[str, Any] | None:
        """A claim's CDI document, if there is one."""
        path = self.document_path(uid)
        if not path.exists():
            return None
        document: dict[str, Any] = yaml.safe_load(path.read_text())
        return document

    def document_path(self, uid: str) -> Path:
        """Where a claim's CDI document lies."""
        return self.cluster.node.cdi / f"k8s.{DRIVER}-claim_{uid}.yaml"

    def traces(self) -> Traces:
        """What is kept for claims now."""
        return Traces(
            documents=frozenset(os.listdir(self.cluster.node.cdi)),
            claims=frozenset(self.checkpoint()),
            slices=frozenset((each["metadata"]["name"], each["metadata"]["resourceVersion"]) for each in self.slices()),
        )


@dataclass(slots=True)
class Process(Plugin):
    """A program beside the kubelet, run by the plugin's command line with the rights that the chart gives."""

    program: str = ""
    """Path of another program than ours."""
    flags: tuple[str, ...] = ()
    """Further flags."""
    kubeconfig: Path = field(init=False)
    """How the program finds the API server; read at its start."""
    _child: Child = field(init=False, repr=False)

    def __post_init__(self) -> None:
        node, plane, root = self.cluster.node, self.cluster.plane, self.root
        # Another program may need other rights than ours.
        token = None if self.program else self.release.token()
        self.kubeconfig = plane.kubeconfig("gpu-kubelet-plugin", token) if token else plane.kubeconfig("admin")
        program = self.program or str(Path(sys.executable).parent / "gpu-kubelet-plugin")
        command = [program, f"--node-name={node.name}"]
        command += [f"--namespace={NAMESPACE}", f"--kubeconfig={self.kubeconfig}", "--image-name=nvdra.test/none:1"]
        command += [f"--cdi-root={node.cdi}", f"--nvidia-driver-root={root.root}"]
        command += [f"--container-driver-root={root.root}", f"--nvidia-cdi-hook-path={self.cluster.cdi_hook}"]
        command += [f"--kubelet-registrar-directory-path={node.registry}"]
        command += [f"--kubelet-plugins-directory-path={node.plugins}", "-v=6", *self.flags]
        # As in the chart: the plugin's own container must not be given devices by an older runtime hook.
        environment = {"NVIDIA_VISIBLE_DEVICES": "void"}
        environment |= {"NVDRA_SYSFS": str(root.sysfs), "NVDRA_PROCFS": str(root.procfs)}
        log = node.logs / f"{Path(program).name}.log"
        self._child = Child(Path(program).name, command, log, environment)

    def start(self) -> None:
        self.launch()
        self.wait_published()

    def launch(self) -> None:
        """The plugin is started; what it can do is not waited for."""
        self._child.start()

    def stop(self) -> None:
        assert self._child.stop() == 0, self.tail()

    def kill(self) -> None:
        self._child.kill()

    def must_run(self) -> None:
        self._child.must_run()

    def tail(self, lines: int = 20) -> str:
        return self._child.tail(lines)


@dataclass(slots=True)
class Installed(Plugin):
    """The pod of the chart's DaemonSet, from the driver's image."""

    _killed: str = ""
    """Container that was killed last."""

    def start(self) -> None:
        self._label(f"{LABEL}=true")
        wait_until("the driver's pod to be Ready", self._is_back, 90, self.release.state)
        self.wait_published()

    def stop(self) -> None:
        self._label(f"{LABEL}-")
        wait_until("the driver's pod to be gone", lambda: not self.release.pods(), 60, self.release.state)

    def kill(self) -> None:
        container = self._container()
        for line in self.cluster.node.ctr("-n", "k8s.io", "tasks", "list").stdout.splitlines():
            if line.startswith(container):
                os.kill(int(line.split()[1]), signal.SIGKILL)
                self._killed = container
                return
        raise LookupError(f"container {container} of the driver's pod has no process")

    def must_run(self) -> None:
        """The kubelet starts it again whenever it ends."""

    def tail(self, lines: int = 20) -> str:
        names = [each["metadata"]["name"] for each in self.release.pods()]
        return "\n".join(
            self.cluster.kubectl("logs", f"--namespace={NAMESPACE}", f"--tail={lines}", name, "--container=gpus")
            for name in names
        )

    def _label(self, label: str) -> None:
        self.cluster.kubectl("label", "node", "--overwrite", self.cluster.node.name, label)

    def _is_back(self) -> bool:
        # A pod is told Ready for a moment after its container has died.
        return self.release.is_ready() and self._container() != self._killed

    def _container(self) -> str:
        (pod,) = self.release.pods()
        found = [each for each in pod["status"]["containerStatuses"] if each["name"] == "gpus"]
        identifier: str = found[0].get("containerID", "")
        return identifier.partition("://")[2]


@contextmanager
def running(cluster: Cluster, portrait: str = "h100x8") -> Iterator[Plugin]:
    """The plugin as a process of the cluster's node, with all GPUs of the portrait published; stopped afterwards."""
    release = HelmRelease(cluster, lay_out(cluster.folder / "driver", portrait), None)
    release.install()
    plugin = Process(release)
    plugin.start()
    try:
        yield plugin
    finally:
        plugin.stop()
