"""A whole cluster of one node: up, looked at, and down again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.children import tail
from tests.cluster.harness.control_plane import DRIVER_NAMESPACE, ControlPlane, Release
from tests.cluster.harness.images import BUSYBOX
from tests.cluster.harness.node import Node
from tests.cluster.harness.programs import CDI_HOOK, CONTAINERD, KUBERNETES, RUNC, Part, built
from tests.cluster.harness.seclusion import cgroup_name

NODE = "node-a"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster."""

    folder: Path
    programs: dict[Part, Path] = field(repr=False)
    plane: ControlPlane = field(repr=False)
    node: Node = field(repr=False)
    api: Api = field(repr=False)

    @property
    def cdi_hook(self) -> Path:
        """NVIDIA's CDI hook, linked statically."""
        return self.programs[CDI_HOOK] / "nvidia-cdi-hook"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What one kubectl command of the administrator prints. Raises RuntimeError with its complaint."""
        command = [str(self.programs[KUBERNETES] / "kubectl"), f"--kubeconfig={self.plane.kubeconfig('admin')}"]
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def exec(self, pod: str, *command: str) -> str:
        """What a command run in a pod prints."""
        return self.kubectl("exec", pod, "--", *command)

    def tails(self, lines: int = 15) -> str:
        """The end of every component's log, and of the driver's processes and pods."""
        logs = [
            each
            for pattern in ("*.log", f"pods-*/{DRIVER_NAMESPACE}_*/*/*.log")
            for each in self.node.logs.glob(pattern)
        ]
        return "\n".join(f"----- {log}\n{tail(log, lines)}" for log in logs)


def parts_for(release: Release) -> list[Part]:
    """What must be built for a cluster of that release."""
    # etcd and kubectl come with the newest release and serve every other.
    return list(dict.fromkeys((CDI_HOOK, RUNC, CONTAINERD, KUBERNETES, release.part)))


@contextmanager
def cluster(release: Release, scratch: Path) -> Iterator[Cluster]:
    """A cluster of one node that is Ready, with the default service account in place; gone afterwards."""
    folder = scratch / release.version.rpartition(".")[0]
    logs = folder / "logs"
    logs.mkdir(parents=True)
    programs = built(*parts_for(release))
    plane = ControlPlane(release, programs, folder / "plane", logs, (NODE,))
    node = Node(NODE, plane, programs, folder / "n", logs, cgroup_name(scratch))
    try:
        plane.start()
        node.start()
        up = Cluster(folder, programs, plane, node, plane.api())
        wait_until("the default service account", lambda: up.api.find("ServiceAccount", "default") is not None, 30)
        yield up
    finally:
        node.stop()
        plane.stop()


# Test pods look up no names. With a grace of 0 the object would be gone before the kubelet has ended the pod.
QUICK: Object = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "dnsPolicy": "Default"}
STAY = "trap 'exit 0' TERM; sleep infinity & wait"
"""Stays until told to go, and then goes at once."""


def pod(name: str, script: str = STAY, **spec: object) -> Object:
    """A pod of one busybox container that runs `script`; `spec` goes into the pod's spec."""
    return {
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container("main", script)], **QUICK, **spec},
    }


def container(name: str, script: str, **more: object) -> Object:
    """A container that runs `script` in the busybox image."""
    return {"name": name, "image": BUSYBOX, "command": ["/bin/sh", "-c", script], **more}
