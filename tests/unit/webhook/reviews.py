"""AdmissionReviews as the API server sends them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

GROUP = "resource.nvidia.com/v1beta1"
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
GPU, DOMAIN = "gpu.nvidia.com", "compute-domain.nvidia.com"


def parameters(kind: str = "GpuConfig", **fields: Any) -> dict[str, Any]:
    return {"apiVersion": GROUP, "kind": kind, **fields}


def entry(given: Any, *requests: str, driver: str = GPU) -> dict[str, Any]:
    """An opaque entry of a device spec's `config`."""
    entry: dict[str, Any] = {"opaque": {"driver": driver, "parameters": given}}
    return {"requests": list(requests), **entry} if requests else entry


def spec(*entries: Mapping[str, Any], requests: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    asked = [{"name": "gpu", "exactly": {"deviceClassName": GPU}}] if requests is None else list(requests)
    return {"devices": {"requests": asked, "config": list(entries)}}


def claim(of: Mapping[str, Any], version: str = "v1", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"resource.k8s.io/{version}",
        "kind": "ResourceClaim",
        "metadata": {"name": "c", "namespace": "ns", **metadata},
        "spec": dict(of),
    }


def template(of: Mapping[str, Any], version: str = "v1", **metadata: Any) -> dict[str, Any]:
    return {**claim({"spec": dict(of)}, version, **metadata), "kind": "ResourceClaimTemplate"}


def review(
    subject: Mapping[str, Any] | None,
    *,
    resource: str = "",
    version: str = "v1",
    group: str = "resource.k8s.io",
    operation: str = "CREATE",
    old: Mapping[str, Any] | None = None,
    **fields: Any,
) -> bytes:
    if not resource:
        resource = f"{(subject or {}).get('kind', 'ResourceClaim').lower()}s"
    request = {
        "uid": UID,
        "kind": {"group": group, "version": version, "kind": (subject or {}).get("kind")},
        "resource": {"group": group, "version": version, "resource": resource},
        "namespace": "ns",
        "operation": operation,
        "object": subject,
        "oldObject": old,
        **fields,
    }
    document = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return json.dumps(document, separators=(",", ":")).encode()
