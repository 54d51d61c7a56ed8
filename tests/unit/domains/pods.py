"""Daemon pods for tests, as the API server shows them."""

from __future__ import annotations

from typing import Any

from nvdra.api.compute_domain import CLIQUE_LABEL, DOMAIN_LABEL
from nvdra.domains.pods import DaemonPod, daemon_pod

UID = "1f2e3d4c-0000-4000-8000-000000000001"
CLIQUE = "9f410827-489f-46fd-8203-51266ca08eb7.32766"


def pod_body(
    node: str,
    ip: str,
    *,
    clique: str | None = CLIQUE,
    ready: bool = True,
    leaving: bool = False,
    phase: str = "Running",
    age: int = 0,
    domain: str = UID,
) -> dict[str, Any]:
    labels = {DOMAIN_LABEL: domain} | ({} if clique is None else {CLIQUE_LABEL: clique})
    metadata: dict[str, Any] = {"name": f"daemon-{node}-{ip}", "namespace": "driver", "uid": f"uid-{node}-{ip}"}
    metadata |= {"labels": labels, "creationTimestamp": f"2026-11-30T10:{age:02}:00Z"}
    if leaving:
        metadata["deletionTimestamp"] = "2026-11-30T11:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": metadata,
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "podIP": ip, "conditions": conditions},
    }


def pod(node: str, ip: str, **about: Any) -> DaemonPod:
    return daemon_pod(pod_body(node, ip, **about))
