"""One node: a containerd and a kubelet of its own, with pods on a bridge, services by kube-proxy."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.harness import images
from tests.cluster.harness.api import wait_until
from tests.cluster.harness.children import Child, ChildEnded
from tests.cluster.harness.control_plane import PODS, ControlPlane
from tests.cluster.harness.programs import CONTAINERD, RUNC, Part
from tests.cluster.harness.seclusion import NODE_ADDRESS, make_cgroups

KUBELET_STARTS = 5

_CONTAINERD = """version = 3
root = "{folder}/containerd"
state = "/run/containerd-{name}"
[grpc]
  address = "{socket}"
[plugins.'io.containerd.internal.v1.opt']
  path = "{folder}/opt"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  # Without CAP_SYS_RESOURCE nobody may lower an oom_score_adj.
  restrict_oom_score_adj = true
  enable_cdi = true
  cdi_spec_dirs = ["{cdi}"]
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{bin}"]
    conf_dir = "{folder}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
"""

_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
    ],
}


@dataclass(slots=True)
class Node:
    """A node whose files are all below `folder`."""

    name: str
    plane: ControlPlane
    programs: dict[Part, Path]
    folder: Path
    logs: Path
    cgroup: str
    children: list[Child] = field(default_factory=list)

    @property
    def kubelet_root(self) -> Path:
        """What `/var/lib/kubelet` is on other nodes; short, for a socket's path has at most 107 bytes."""
        return self.folder / "k"

    @property
    def plugins(self) -> Path:
        """Where plugins keep their own files and their DRA sockets."""
        return self.kubelet_root / "plugins"

    @property
    def registry(self) -> Path:
        """Where the kubelet looks for plugins that register."""
        return self.kubelet_root / "plugins_registry"

    @property
    def cdi(self) -> Path:
        """Where the chart has CDI documents, and containerd looks for them; this /run is the cluster's own."""
        return Path("/run/cdi")

    @property
    def socket(self) -> Path:
        """The socket of containerd."""
        return self.folder / "containerd.sock"

    @property
    def kubelet(self) -> Child:
        """The kubelet as last started."""
        return next(child for child in self.children if child.name == "kubelet")

    def start(self) -> None:
        """The node is Ready and has the images of the test pods."""
        for path in (self.folder, self.cdi, self.folder / "cni", self.kubelet_root, self.plugins, self.registry):
            path.mkdir(exist_ok=True)
        make_cgroups(self.cgroup)
        self._start_containerd()
        self._start_kubelet()
        self._start_proxy()
        self.wait_ready()

    def stop(self) -> None:
        """Nothing of the node runs, its pods included."""
        by_name = {child.name: child for child in self.children}
        for name in ("kubelet", "kube-proxy"):
            if name in by_name:
                by_name[name].stop()
        if "containerd" in by_name and by_name["containerd"].is_running:
            # Pods outlive containerd by design.
            tasks = self.ctr("-n", "k8s.io", "tasks", "list", "--quiet").stdout.split()
            if tasks:
                self.ctr("-n", "k8s.io", "tasks", "delete", "--force", *tasks)
            by_name["containerd"].stop()
        self.children.clear()
        rules = [f"iptables -t {table} {what}" for table in ("filter", "nat", "mangle") for what in ("-F", "-X")]
        for command in ("ip link delete cni0", *rules):
            subprocess.run(command.split(), capture_output=True, check=False)

    def restart_kubelet(self) -> None:
        """A new kubelet process runs on the files of the one before; pods run on meanwhile."""
        before = self._readiness().get("lastHeartbeatTime", "")
        self.kubelet.stop()
        self._need_report()
        for _ in range(KUBELET_STARTS):
            self.kubelet.start()
            try:
                self.wait_ready(after=before)
            except ChildEnded:
                # "unable to find data in memory cache": a kubelet beside running pods may look at its disk before its
                # statistics are there, and ends; on a node a supervisor starts it again.
                continue
            return
        self.kubelet.must_run()

    def wait_ready(self, after: str = "") -> None:
        """The node reports Ready, and by a heartbeat later than `after`: the kubelet that runs now said so."""

        def is_ready() -> bool:
            for child in self.children:
                child.must_run()
            ready = self._readiness()
            return ready.get("status") == "True" and ready.get("lastHeartbeatTime", "") > after

        wait_until(f"node {self.name} to be Ready", is_ready, 60, lambda: (self._readiness(), self.kubelet.tail(15)))

    def _need_report(self) -> None:
        """The next kubelet finds its node other than it is: that of 1.32 says nothing of a node that did not change."""
        api = self.plane.api()
        node = api.get("Node", self.name)
        node["metadata"].pop("resourceVersion")
        for condition in node["status"]["conditions"]:
            if condition["type"] == "PIDPressure":
                condition["status"] = "Unknown"
        api.call("PUT", f"api/v1/nodes/{self.name}/status", node)

    def _readiness(self) -> dict[str, str]:
        node = self.plane.api().find("Node", self.name) or {}
        conditions: list[dict[str, str]] = node.get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == "Ready"), {})

    def _start_containerd(self) -> None:
        programs = self.programs[CONTAINERD]
        config = self.folder / "containerd.toml"
        config.write_text(
            _CONTAINERD.format(
                folder=self.folder,
                name=self.name,
                socket=self.socket,
                pause=images.PAUSE,
                cdi=self.cdi,
                bin=programs,
                runc=self.programs[RUNC] / "runc",
            )
        )
        (self.folder / "cni" / "10-pods.conflist").write_text(json.dumps(_NETWORK))
        path = f"{programs}:{self.programs[RUNC]}:/usr/sbin:/usr/bin:/sbin:/bin"
        child = self._start("containerd", [str(programs / "containerd"), f"--config={config}"], {"PATH": path})

        def answers() -> bool:
            child.must_run()
            return self.socket.exists() and self.ctr("version").returncode == 0

        wait_until("containerd", answers, 30, child.tail)
        archive = self.folder / "images.tar"
        images.write_archive(archive)
        self.import_images(archive)

    def import_images(self, archive: Path) -> None:
        """The images of an OCI archive are on the node."""
        done = self.ctr("-n", "k8s.io", "images", "import", str(archive))
        if done.returncode:
            raise RuntimeError(f"importing the images of {archive}: {done.stderr}")

    def ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The outcome of one `ctr` command on the node's containerd."""
        command = [str(self.programs[CONTAINERD] / "ctr"), f"--address={self.socket}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _start_kubelet(self) -> None:
        user = f"node-{self.name}"
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "16Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            # A pod whose claims could not be prepared is tried again at its next sync: by default after a minute.
            "syncFrequency": "10s",
            "podLogsDir": str(self.logs / f"pods-{self.name}"),
            "volumePluginDir": str(self.folder / "volumes"),
            "featureGates": {gate: value == "true" for gate, value in _gates(self.plane.release.gates)},
        }
        if self.plane.release.version >= "1.35":
            config["failCgroupV1"] = False
        path = self.folder / "kubelet.json"
        path.write_text(json.dumps(config, indent=1))
        command = [str(self.programs[self.plane.release.part] / "kubelet"), f"--config={path}", "--v=2"]
        command += [f"--kubeconfig={self.plane.kubeconfig(user)}", f"--hostname-override={self.name}"]
        command += [f"--node-ip={NODE_ADDRESS}", f"--root-dir={self.kubelet_root}"]
        command += [f"--cert-dir={self.folder / 'kubelet-certs'}"]
        self._start("kubelet", command)

    def _start_proxy(self) -> None:
        command = [str(self.programs[self.plane.release.part] / "kube-proxy"), "--proxy-mode=iptables"]
        command += [f"--kubeconfig={self.plane.kubeconfig('kube-proxy')}", f"--hostname-override={self.name}"]
        # Connection tracking is sized for the whole machine, which is not this node's to change.
        command += [f"--cluster-cidr={PODS}", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"]
        command += ["--conntrack-tcp-timeout-close-wait=0"]
        self._start("kube-proxy", command)

    def _start(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> Child:
        child = Child(name, command, self.logs / f"{name}-{self.name}.log", environment or {})
        child.start()
        self.children.append(child)
        return child


def _gates(text: str) -> list[tuple[str, str]]:
    return [(gate, value) for gate, _, value in (part.partition("=") for part in text.split(","))]
