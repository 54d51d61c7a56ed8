"""The fields of an AdmissionReview that a verdict depends on, and the review with the answer in it.

`msgspec` reads typed fields and leaves the rest as bytes: opaque parameters must reach the decoder of configs as they
stand in the claim, duplicate keys included. A null counts as absent, as in Go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
from msgspec import Raw, Struct, field

GROUP_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"


class Resource(Struct, frozen=True):
    group: str | None = None
    version: str | None = None
    resource: str | None = None

    def __str__(self) -> str:
        return f"{{{self.group or ''} {self.version or ''} {self.resource or ''}}}"


class Request(Struct, frozen=True, rename="camel"):
    """`object` and `old_object` are the JSON of the objects; empty where there is none."""

    uid: str | None = None
    resource: Resource | None = None
    operation: str | None = None
    namespace: str | None = None
    name: str | None = None
    object: Raw = Raw()
    old_object: Raw = Raw()


class _Review(Struct, frozen=True, rename="camel"):
    api_version: str | None = None
    kind: str | None = None
    request: Request | None = None


class Metadata(Struct, frozen=True, rename="camel"):
    name: str | None = None
    generate_name: str | None = None
    deletion_timestamp: str | None = None


class _ClaimSpec(Struct, frozen=True):
    devices: Raw = Raw()


class _Claim(Struct, frozen=True, rename="camel"):
    api_version: str | None = None
    kind: str | None = None
    metadata: Metadata | None = None
    spec: _ClaimSpec | None = None


class _TemplateSpec(Struct, frozen=True):
    spec: _ClaimSpec | None = None


class _Template(Struct, frozen=True, rename="camel"):
    api_version: str | None = None
    kind: str | None = None
    metadata: Metadata | None = None
    spec: _TemplateSpec | None = None


class Opaque(Struct, frozen=True):
    driver: str | None = None
    parameters: Raw = Raw(b"null")


class Config(Struct, frozen=True):
    requests: list[str] | None = None
    opaque: Opaque | None = None


class _Exactly(Struct, frozen=True, rename="camel"):
    admin_access: bool | None = None


class _DeviceRequest(Struct, frozen=True, rename="camel"):
    """v1beta1 has the fields of `exactly` beside the name."""

    name: str | None = None
    admin_access: bool | None = None
    exactly: _Exactly | None = None


class Devices(Struct, frozen=True):
    """`spec.devices` of a claim, in any version of resource.k8s.io."""

    requests: list[_DeviceRequest] | None = None
    configs: list[Config] | None = field(default=None, name="config")

    def admin_requests(self) -> frozenset[str]:
        """Names of the requests with `adminAccess: true`."""
        return frozenset(
            request.name or ""
            for request in self.requests or ()
            if request.admin_access or (request.exactly is not None and request.exactly.admin_access)
        )


@dataclass(frozen=True, slots=True)
class Object:
    """A ResourceClaim or ResourceClaimTemplate; `devices` is the JSON of its device spec, empty where it has none."""

    name: str
    is_being_deleted: bool
    devices: bytes


class ReviewError(ValueError):
    """The body is no AdmissionReview. The text is part of the contract."""


class ObjectError(ValueError):
    """The object cannot be decoded."""


_reviews = msgspec.json.Decoder(_Review)
_claims = msgspec.json.Decoder(_Claim)
_templates = msgspec.json.Decoder(_Template)
_devices = msgspec.json.Decoder(Devices)

# As the API server writes it: the UID is the first field of the request.
_UID = re.compile(rb'"request":\{"uid":"([0-9A-Za-z-]{1,128})"')

# Any escape in a JSON text; the group is half a surrogate pair, which Go reads as U+FFFD and msgspec not at all.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)


def read_review(body: bytes) -> Request:
    """The request in an AdmissionReview.

    Raises ReviewError, or ObjectError with the request's UID as its second argument where the object in it is nested
    more deeply than can be read.
    """
    try:
        review = _reviews.decode(body)
    except RecursionError:
        found = _UID.search(body[:4096])
        if found is None:
            raise ReviewError("request could not be decoded: it is nested too deeply") from None
        raise ObjectError("the object is nested too deeply", found[1].decode()) from None
    except ValueError as odd:
        mended = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)
        if mended == body:
            raise ReviewError(f"request could not be decoded: {odd}") from None
        return read_review(mended)
    for name, value in (("Kind", review.kind), ("apiVersion", review.api_version)):
        if not value:
            raise ReviewError(f"request could not be decoded: Object '{name}' is missing")
    if review.kind != KIND or review.api_version != GROUP_VERSION:
        raise ReviewError(f"unsupported group version kind: {review.api_version}, Kind={review.kind}")
    if review.request is None:
        raise ReviewError("the AdmissionReview has no request")
    return review.request


def read_claim(data: bytes) -> Object:
    """The ResourceClaim. Raises ObjectError."""
    try:
        claim = _claims.decode(data)
    except (ValueError, RecursionError) as odd:
        raise ObjectError(f"cannot read the ResourceClaim: {odd}") from None
    return _object(claim, "ResourceClaim", claim.spec)


def read_template(data: bytes) -> Object:
    """The ResourceClaimTemplate. Raises ObjectError."""
    try:
        template = _templates.decode(data)
    except (ValueError, RecursionError) as odd:
        raise ObjectError(f"cannot read the ResourceClaimTemplate: {odd}") from None
    return _object(template, "ResourceClaimTemplate", None if template.spec is None else template.spec.spec)


def read_devices(devices: bytes) -> Devices:
    """The device spec. Raises ObjectError."""
    if not devices or devices == b"null":
        return Devices()
    try:
        return _devices.decode(devices)
    except (ValueError, RecursionError) as odd:
        raise ObjectError(f"cannot read the device spec: {odd}") from None


def _object(found: _Claim | _Template, kind: str, spec: _ClaimSpec | None) -> Object:
    group, _, _ = (found.api_version or "").partition("/")
    if (found.kind, group) != (kind, "resource.k8s.io"):
        raise ObjectError(f"expected a {kind} of resource.k8s.io, got {found.api_version}, Kind={found.kind}")
    metadata = found.metadata or Metadata()
    return Object(
        name=metadata.name or metadata.generate_name or "",
        is_being_deleted=bool(metadata.deletion_timestamp),
        devices=b"" if spec is None else bytes(spec.devices),
    )


class _Status(Struct, frozen=True):
    message: str
    reason: str


class _Response(Struct, frozen=True, omit_defaults=True):
    uid: str
    allowed: bool
    status: _Status | None = None


class _Answer(Struct, frozen=True, rename="camel"):
    kind: str
    api_version: str
    response: _Response


_encoder = msgspec.json.Encoder()


def write_review(uid: str, refusal: tuple[str, str] | None) -> bytes:
    """The AdmissionReview that answers: allowed, or not allowed with (message, reason)."""
    status = None if refusal is None else _Status(*refusal)
    return _encoder.encode(_Answer(KIND, GROUP_VERSION, _Response(uid, refusal is None, status)))
