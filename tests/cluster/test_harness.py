"""The cluster itself, without the driver: what the other tests take for granted."""

from __future__ import annotations

import json

import pytest

from tests.cluster.harness.api import pod_phase, wait_until
from tests.cluster.harness.cluster import STAY, Cluster, pod
from tests.cluster.harness.control_plane import V1_32, V1_37

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("up", [V1_37, V1_32], indirect=True, ids=["1.37", "1.32"])
def test_a_pod_runs_and_reaches_the_api_server_at_its_service_address(up: Cluster) -> None:
    connect = 'nc -w 5 "$KUBERNETES_SERVICE_HOST" "$KUBERNETES_SERVICE_PORT" -e /bin/true'
    script = f"{connect} && echo reached; {STAY}"
    up.api.create(pod("reach", script))
    wait_until("the pod to run", lambda: pod_phase(up.api.get("Pod", "reach")) == "Running", 60, up.tails)
    wait_until("its log", lambda: up.api.logs("reach", "main") == "reached\n", 15, every_s=0.5)
    assert up.exec("reach", "id", "-u") == "0\n"
    up.api.delete("Pod", "reach")
    wait_until("the pod to be gone", lambda: up.api.find("Pod", "reach") is None, 30)


@pytest.mark.parametrize("up", [V1_32], indirect=True, ids=["1.32"])
def test_kubernetes_1_32_knows_claims_as_v1beta1_only(up: Cluster) -> None:
    served = [each["version"] for each in json.loads(up.api.call("GET", "apis/resource.k8s.io"))["versions"]]
    assert [version for version in served if not version.startswith("v1alpha")] == ["v1beta1"]
