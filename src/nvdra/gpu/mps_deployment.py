"""The Deployment of an MPS control daemon, its script, and what its pods say about it.

Source: the Go driver's template, field by field; the differences are marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvdra.gpu.mps import MpsSettings, StartMpsDaemon

CONTAINER = "mps-control-daemon"
STARTED = "startup complete"
STARTUP_LOG = "startup.log"


@dataclass(frozen=True, slots=True)
class MpsPods:
    """What the pods of daemons have of the plugin's own pod and options.

    namespace        of the Deployments
    folder           on the host, with one folder for each daemon
    driver_root      on the host
    shm_in_root      the driver root has /dev/shm: the daemon runs in a chroot there
    tolerations      of the plugin's pod: where it may run, daemons may
    """

    node: str
    namespace: str
    image: str
    folder: str
    driver_root: str = "/"
    pull_secrets: str = ""
    pull_policy: str = ""
    service_account: str = ""
    feature_gates: Mapping[str, bool] | None = None
    tolerations: tuple[Mapping[str, Any], ...] = ()


def deployment_name(daemon: str) -> str:
    return f"{CONTAINER}-{daemon}"


def deployment(step: StartMpsDaemon, pods: MpsPods, *, shm_in_root: bool) -> dict[str, Any]:
    """The Deployment that runs the daemon."""
    assert step.settings is not None
    name = deployment_name(step.id)
    folder = f"{pods.folder}/{step.id}"
    volumes = {
        "driver-root": (pods.driver_root, "/driver-root"),
        "mps-shm-directory": (f"{folder}/shm", "/driver-root/dev/shm" if shm_in_root else "/dev/shm"),
        "mps-pipe-directory": (f"{folder}/pipe", "/driver-root/tmp/nvidia-mps"),
        "mps-log-directory": (f"{folder}/log", "/driver-root/var/log/nvidia-mps"),
    }
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": pods.image,
        **({"imagePullPolicy": pods.pull_policy} if pods.pull_policy else {}),
        "securityContext": {"privileged": True},
        "command": ["sh", "-c"],
        "args": [script(step.settings)],
        # DROP-IN: better. The Go driver gives the daemon three seconds (the default threshold): without persistence
        # mode GPUs take longer to start, and the container would be restarted again and again.
        "startupProbe": {
            "exec": {"command": ["cat", f"/driver-root/var/log/nvidia-mps/{STARTUP_LOG}"]},
            "periodSeconds": 1,
            "failureThreshold": 120,
        },
        "env": [{"name": "CUDA_VISIBLE_DEVICES", "value": ",".join(step.uuids)}],
        "volumeMounts": [{"name": name, "mountPath": path} for name, (_, path) in volumes.items()],
    }
    if pods.feature_gates is not None:
        gates = "".join(f"{gate}={str(on).lower()}," for gate, on in sorted(pods.feature_gates.items()))
        container["env"].append({"name": "FEATURE_GATES", "value": gates})
    spec: dict[str, Any] = {
        **({"serviceAccountName": pods.service_account} if pods.service_account else {}),
        "nodeName": pods.node,
        "hostPID": True,
        # DROP-IN: better. The daemon asks the API server for nothing.
        "automountServiceAccountToken": False,
        # The daemon ends by itself when it is told to.
        "terminationGracePeriodSeconds": 10,
        "containers": [container],
        "volumes": [{"name": name, "hostPath": {"path": path}} for name, (path, _) in volumes.items()],
    }
    if secrets := pods.pull_secrets.replace(",", " ").split():
        spec["imagePullSecrets"] = [{"name": secret} for secret in secrets]
    if pods.tolerations:
        # DROP-IN: better. Without them the pod is never admitted to a node with the taints that GPU nodes have.
        spec["tolerations"] = [dict(each) for each in pods.tolerations]
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": pods.namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            # Two daemons on one GPU would be two; the Go driver's default strategy allows that for a moment.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


_HEAD = """\
set -e
LOG=/driver-root/var/log/nvidia-mps
rm -f $LOG/startup.log

if [ -x /driver-root/bin/sh ] || [ -x /driver-root/usr/bin/sh ] || ls /driver-root/lib*/ld-linux* >/dev/null 2>&1; then
  # A whole root: the driver's programs run with the libraries beside them.
  control() { chroot /driver-root nvidia-cuda-mps-control "$@"; }
else
  # Only the driver's own files: its programs run with this image's loader.
  export PATH="/driver-root/usr/bin:/driver-root/bin:/driver-root/usr/local/bin:$PATH"
  export CUDA_MPS_PIPE_DIRECTORY=/driver-root/tmp/nvidia-mps
  export CUDA_MPS_LOG_DIRECTORY=$LOG
  LIBRARIES=/driver-root/lib64:/driver-root/lib:/driver-root/usr/lib64:/driver-root/usr/lib
  control() { LD_LIBRARY_PATH="$LIBRARIES${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" nvidia-cuda-mps-control "$@"; }
fi
trap 'echo quit | control; exit 0' TERM
"""

_TAIL = """
echo "startup complete" > $LOG/startup.log
tail -n +1 -f $LOG/control.log &
wait $!
"""


def script(settings: MpsSettings) -> str:
    """What the daemon's container runs, in `sh`."""
    lines = [f"control -d{' -M' if settings.multi_user else ''}"]
    if settings.percentage is not None:
        lines.append(f"echo set_default_active_thread_percentage {settings.percentage} | control")
    lines += [f"echo set_default_device_pinned_mem_limit {uuid} {limit} | control" for uuid, limit in settings.limits]
    return _HEAD + "\n".join(lines) + _TAIL.rstrip()


def is_as_wanted(stored: Any, wanted: Any) -> bool:
    """Whether a stored object has everything of the wanted one; what the API server adds does not count."""
    match wanted:
        case Mapping():
            return isinstance(stored, Mapping) and all(
                key in stored and is_as_wanted(stored[key], value) for key, value in wanted.items()
            )
        case list():
            return isinstance(stored, list) and len(stored) == len(wanted) and all(map(is_as_wanted, stored, wanted))
        case _:
            return bool(stored == wanted)


def why_not_ready(pods: Iterable[Mapping[str, Any]], deployments: Sequence[Mapping[str, Any]] = ()) -> str:
    """Why the daemon cannot be used yet, in the Go driver's words and with the cause; "" if its pod is ready."""
    here = [pod for pod in pods if not pod.get("metadata", {}).get("deletionTimestamp")]
    if not here:
        return "waiting for MPS control daemon to come online" + _detail(_replica_failure(deployments))
    if len(here) > 1:
        return f"unexpected number of pods in deployment: {len(here)}"
    status = here[0].get("status") or {}
    containers = status.get("containerStatuses") or []
    if len(containers) > 1:
        return "unexpected number of container statuses in pod"
    if containers and containers[0].get("ready"):
        return ""
    return "control daemon not yet ready" + _detail(_pod_trouble(status, containers))


def _pod_trouble(status: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> str:
    state = (containers[0].get("state") or {}) if containers else {}
    told = state.get("waiting") or state.get("terminated") or {}
    if told.get("reason"):
        return ": ".join(filter(None, (told["reason"], told.get("message", ""))))
    return ": ".join(filter(None, (status.get("reason", ""), status.get("message", ""))))


def _replica_failure(deployments: Sequence[Mapping[str, Any]]) -> str:
    conditions = [each for one in deployments for each in (one.get("status") or {}).get("conditions") or ()]
    return next(
        (each.get("message", "") for each in conditions if (each.get("type"), each.get("status")) == _FAILED), ""
    )


_FAILED = ("ReplicaFailure", "True")


def _detail(text: str) -> str:
    return f" ({text})" if text else ""
