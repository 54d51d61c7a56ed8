"""The Deployment of an MPS daemon: its fields, what counts as the same settings, and what its pods say."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra.gpu.mps import MpsSettings, StartMpsDaemon
from nvdra.gpu.mps_deployment import MpsPods, deployment, is_as_wanted, script, why_not_ready

STEP = StartMpsDaemon("c1-abcde", (), ("GPU-0", "GPU-1"), MpsSettings(50, (("GPU-0", "10M"),), True))
PODS = MpsPods(
    "node-a",
    "nvidia",
    "driver:1",
    "/plugins/mps",
    driver_root="/run/nvidia/driver",
    pull_secrets="one, two three",
    pull_policy="Always",
    service_account="plugin",
    feature_gates={"MPSSupport": True, "AllAlpha": False},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists"},),
)


def spec(pods: MpsPods = PODS, *, shm_in_root: bool = True) -> dict[str, Any]:
    return deployment(STEP, pods, shm_in_root=shm_in_root)["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def test_the_deployment_is_the_go_drivers_with_more_patience() -> None:
    made = deployment(STEP, PODS, shm_in_root=True)
    name = "mps-control-daemon-c1-abcde"
    assert made["metadata"] == {"name": name, "namespace": "nvidia", "labels": {"app": name}}
    assert made["spec"]["replicas"] == 1
    assert made["spec"]["selector"] == {"matchLabels": {"app": name}}
    pod = spec()
    assert (pod["serviceAccountName"], pod["nodeName"], pod["hostPID"]) == ("plugin", "node-a", True)
    assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}, {"name": "three"}]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    (container,) = pod["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("driver:1", "Always")
    assert container["securityContext"] == {"privileged": True}
    assert container["command"] == ["sh", "-c"]
    assert container["env"] == [
        {"name": "CUDA_VISIBLE_DEVICES", "value": "GPU-0,GPU-1"},
        {"name": "FEATURE_GATES", "value": "AllAlpha=false,MPSSupport=true,"},
    ]
    probe = container["startupProbe"]
    assert probe["exec"] == {"command": ["cat", "/driver-root/var/log/nvidia-mps/startup.log"]}
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (1, 120)
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert {each["name"]: (each["hostPath"]["path"], mounts[each["name"]]) for each in pod["volumes"]} == {
        "driver-root": ("/run/nvidia/driver", "/driver-root"),
        "mps-shm-directory": ("/plugins/mps/c1-abcde/shm", "/driver-root/dev/shm"),
        "mps-pipe-directory": ("/plugins/mps/c1-abcde/pipe", "/driver-root/tmp/nvidia-mps"),
        "mps-log-directory": ("/plugins/mps/c1-abcde/log", "/driver-root/var/log/nvidia-mps"),
    }


def test_what_is_not_given_is_left_out() -> None:
    pod = spec(MpsPods("node-a", "nvidia", "driver:1", "/m"), shm_in_root=False)
    own = {"automountServiceAccountToken", "terminationGracePeriodSeconds"}
    assert pod.keys() == {"nodeName", "hostPID", "containers", "volumes"} | own
    (container,) = pod["containers"]
    assert "imagePullPolicy" not in container
    assert {"name": "mps-shm-directory", "mountPath": "/dev/shm"} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (MpsSettings(), ["control -d"]),
        (
            MpsSettings(50, (("GPU-0", "10M"), ("GPU-1", "20M")), True),
            [
                "control -d -M",
                "echo set_default_active_thread_percentage 50 | control",
                "echo set_default_device_pinned_mem_limit GPU-0 10M | control",
                "echo set_default_device_pinned_mem_limit GPU-1 20M | control",
            ],
        ),
    ],
)
def test_the_script_gives_the_daemon_its_settings(settings: MpsSettings, lines: list[str]) -> None:
    told = script(settings).splitlines()
    assert [line for line in told if line.startswith(("control -", "echo set_"))] == lines


@pytest.mark.parametrize(
    ("stored", "wanted", "is_same"),
    [
        ({"a": 1, "status": {}}, {"a": 1}, True),
        ({"a": 2}, {"a": 1}, False),
        ({}, {"a": 1}, False),
        ({"a": [{"b": 1, "default": 2}]}, {"a": [{"b": 1}]}, True),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}]}, False),
        ({"a": "1"}, {"a": {"b": 1}}, False),
    ],
)
def test_what_the_api_server_adds_does_not_count(stored: Any, wanted: Any, is_same: bool) -> None:
    assert is_as_wanted(stored, wanted) is is_same


def pod(*containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"metadata": {}, "status": {"containerStatuses": list(containers), **status}}


@pytest.mark.parametrize(
    ("pods", "deployments", "why"),
    [
        ([pod({"ready": True})], [], ""),
        ([], [], "waiting for MPS control daemon to come online"),
        (
            [],
            [{"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "forbidden: quota"}]}}],
            "waiting for MPS control daemon to come online (forbidden: quota)",
        ),
        (
            [{**pod({"ready": True}), "metadata": {"deletionTimestamp": "t"}}],
            [],
            "waiting for MPS control daemon to come online",
        ),
        ([pod(), pod()], [], "unexpected number of pods in deployment: 2"),
        ([pod({}, {})], [], "unexpected number of container statuses in pod"),
        ([pod()], [], "control daemon not yet ready"),
        (
            [pod({"ready": False, "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}})],
            [],
            "control daemon not yet ready (ErrImagePull: no such image)",
        ),
        (
            [pod({"state": {"terminated": {"reason": "Error"}}})],
            [],
            "control daemon not yet ready (Error)",
        ),
        ([pod(reason="Evicted", message="disk")], [], "control daemon not yet ready (Evicted: disk)"),
    ],
)
def test_why_a_daemon_is_not_ready(pods: list[Any], deployments: list[Any], why: str) -> None:
    assert why_not_ready(pods, deployments) == why
