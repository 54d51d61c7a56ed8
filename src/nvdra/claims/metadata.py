"""Device metadata for containers (KEP-5304): names, documents, and the CDI devices that bring them in. Pure.

One file for each request, one JSON document in it for each API version, newest first: a reader takes the first version
that it knows. Source: kubelet's DRA helper library, which the Go driver uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from nvdra.api.claim import ClaimRef
from nvdra.checkpoint import PreparedDevice

VERSIONS = ("v1beta1", "v1alpha1")
FILE = "metadata.json"

_GROUP = "metadata.resource.k8s.io"
_IN_CONTAINER = "/var/run/kubernetes.io/dra-device-attributes"
_CLAIMS, _TEMPLATES = "resourceclaims", "resourceclaimtemplates"
_CDI_VERSION = "0.5.0"


def encode(attributes: dict[str, dict[str, Any]]) -> bytes:
    """Attributes of a device as `PreparedDevice.metadata` keeps them: JSON as Go's encoder writes it."""
    text = orjson.dumps({"Attributes": dict(sorted(attributes.items())), "NetworkData": None})
    return text.replace(b"&", rb"\u0026").replace(b"<", rb"\u003c").replace(b">", rb"\u003e")


def base_request(request: str) -> str:
    """The request of the claim that a result's request belongs to: "req" of "req/sub"."""
    return request.partition("/")[0]


def by_request(answers: Sequence[PreparedDevice]) -> dict[str, list[PreparedDevice]]:
    """The answers by the request's name without its subrequest, in the answers' order."""
    found: dict[str, list[PreparedDevice]] = {}
    for answer in answers:
        for base in dict.fromkeys(map(base_request, answer.requests)):
            found.setdefault(base, []).append(answer)
    return found


def told(driver: str, uid: str, answers: Sequence[PreparedDevice]) -> tuple[PreparedDevice, ...]:
    """The answers for kubelet: the first device of each request brings the request's metadata into the container."""
    first: dict[str, str] = {}

    def added(answer: PreparedDevice) -> PreparedDevice:
        new = [base for base in dict.fromkeys(map(base_request, answer.requests)) if base not in first]
        first.update((base, answer.device) for base in new)
        ids = tuple(f"{_kind(driver)}={_device(uid, base)}" for base in new)
        return replace(answer, cdi_ids=answer.cdi_ids + ids) if ids else answer

    return tuple(map(added, answers))


def document(driver: str, claim: ClaimRef, pod_claim: str, devices: Sequence[PreparedDevice]) -> bytes:
    """The metadata file of one request."""
    body = {
        "metadata": {"name": claim.name, "namespace": claim.namespace, "uid": claim.uid, "generation": 1},
        **({"podClaimName": pod_claim} if pod_claim else {}),
        "requests": [{"name": devices[0].requests[0], "devices": [_of_device(driver, device) for device in devices]}],
    }
    heads = ({"kind": "DeviceMetadata", "apiVersion": f"{_GROUP}/{version}"} for version in VERSIONS)
    return b"".join(orjson.dumps(head | body, option=orjson.OPT_INDENT_2) + b"\n" for head in heads)


def cdi_name(driver: str, uid: str, request: str) -> str:
    """The name of the CDI file that brings a request's metadata into containers."""
    return f"{driver}_metadata_{_device(uid, request)}.json"


def cdi_claim(driver: str, file_name: str) -> str | None:
    """The UID of the claim whose metadata a CDI file of this name brings in; None if it is no such file."""
    prefix = f"{driver}_metadata_"
    if not file_name.startswith(prefix) or not file_name.endswith(".json"):
        return None
    return file_name.removeprefix(prefix).partition("_")[0]


def cdi_file(driver: str, claim: ClaimRef, pod_claim: str, request: str, host_path: str) -> bytes:
    """The CDI file that brings a request's metadata into containers."""
    owner = f"{_TEMPLATES}/{pod_claim}" if pod_claim else f"{_CLAIMS}/{claim.name}"
    mount = {
        "hostPath": host_path,
        "containerPath": f"{_IN_CONTAINER}/{owner}/{request}/{driver}-{FILE}",
        "options": ["ro", "bind"],
    }
    device = {"name": _device(claim.uid, request), "containerEdits": {"mounts": [mount]}}
    spec = {"cdiVersion": _CDI_VERSION, "kind": _kind(driver), "devices": [device]}
    return orjson.dumps(spec, option=orjson.OPT_INDENT_2)


def pod_claim(cdi_file: bytes) -> str | None:
    """The name of the claim in its pod that a CDI file says, "" for a claim of its own; None if it is unreadable."""
    try:
        path = orjson.loads(cdi_file)["devices"][0]["containerEdits"]["mounts"][0]["containerPath"]
        kind, name = path.removeprefix(f"{_IN_CONTAINER}/").split("/")[:2]
    except (orjson.JSONDecodeError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return name if kind == _TEMPLATES else ""


def _of_device(driver: str, device: PreparedDevice) -> dict[str, Any]:
    known: Any = orjson.loads(device.metadata) if device.metadata else {}
    attributes, network = known.get("Attributes"), known.get("NetworkData")
    return {
        "driver": driver,
        "pool": device.pool,
        "name": device.device,
        **({"attributes": dict(sorted(attributes.items()))} if attributes else {}),
        **({"networkData": network} if network else {}),
    }


def _kind(driver: str) -> str:
    return f"{driver}/metadata"


def _device(uid: str, request: str) -> str:
    return f"{uid}_{request}"
