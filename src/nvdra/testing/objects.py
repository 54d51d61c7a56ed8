"""What FakeKube holds: kinds, objects, what happened to them, and the texts of an API server's refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from nvdra.kube import DRA_GROUP
from nvdra.ports import ApiError
from nvdra.testing.apply import Path


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: how it is called, where it lives, whether its status is written apart."""

    group: str
    plural: str
    kind: str
    namespaced: bool
    versions: tuple[str, ...] = ("v1",)
    has_status: bool = False


def all_kinds(versions: tuple[str, ...]) -> tuple[Kind, ...]:
    return (
        Kind("", "nodes", "Node", False, has_status=True),
        Kind("", "namespaces", "Namespace", False, has_status=True),
        Kind("", "pods", "Pod", True, has_status=True),
        Kind("", "configmaps", "ConfigMap", True),
        Kind("", "secrets", "Secret", True),
        Kind("", "events", "Event", True),
        Kind("apps", "daemonsets", "DaemonSet", True, has_status=True),
        Kind("apps", "deployments", "Deployment", True, has_status=True),
        Kind("coordination.k8s.io", "leases", "Lease", True),
        Kind(DRA_GROUP, "resourceclaims", "ResourceClaim", True, versions, has_status=True),
        Kind(DRA_GROUP, "resourceclaimtemplates", "ResourceClaimTemplate", True, versions),
        Kind(DRA_GROUP, "resourceslices", "ResourceSlice", False, versions),
        Kind(DRA_GROUP, "deviceclasses", "DeviceClass", False, versions),
        Kind("resource.nvidia.com", "computedomains", "ComputeDomain", True, ("v1beta1",), has_status=True),
        Kind("resource.nvidia.com", "computedomaincliques", "ComputeDomainClique", True, ("v1beta1",)),
    )


@dataclass(slots=True)
class Stored:
    """An object. `parts` are its members but apiVersion, kind and metadata, raw, in the shape of `version`.

    managers   who applied which fields; "" has what was written in another way since
    """

    version: str
    metadata: dict[str, Any]
    parts: dict[str, bytes]
    managers: dict[str, set[Path]] = field(default_factory=dict)
    cached: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Happened:
    revision: int
    kind: Kind
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    stored: Stored
    before: Stored | None


REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def api_version(kind: Kind, version: str) -> str:
    return f"{kind.group}/{version}" if kind.group else version


def qualified(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def conflict(kind: Kind, name: str, cause: str) -> ApiError:
    return ApiError(409, "Conflict", cause, about=(kind.plural, name))


def invalid(kind: Kind, name: str, text: str) -> ApiError:
    named = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    return ApiError(422, "Invalid", f'{named} "{name}" is invalid: {text}', about=(kind.plural, name))


def expired(asked: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def away() -> ApiError:
    return ApiError(0, "", "the API server cannot be reached: it is away")


def loaded(raw: bytes | None) -> Any:
    return None if raw is None else orjson.loads(raw)


def seen(stored: Stored) -> dict[str, Any]:
    """What a field selector can look at."""
    return {"metadata": stored.metadata, "spec": loaded(stored.parts.get("spec")) or {}}


def at_path(thing: Any, path: Iterable[str]) -> Any:
    for key in path:
        thing = thing.get(key) if isinstance(thing, Mapping) else None
    return thing
