"""The verdict on a ResourceClaim or ResourceClaimTemplate, by the functions with which the plugins prepare claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nvdra.api import admin_access, configs
from nvdra.api.configs import ConfigError, NoConfig
from nvdra.api.gates import Gates
from nvdra.api.mps_limits import check_limits
from nvdra.webhook import wire
from nvdra.webhook.wire import Devices, Object, ObjectError, Request

GPU_DRIVER = "gpu.nvidia.com"
DRIVERS = frozenset((GPU_DRIVER, "compute-domain.nvidia.com"))
GROUP = "resource.k8s.io"
VERSIONS = ("v1", "v1beta2", "v1beta1")

BAD_REQUEST = "BadRequest"
INVALID = "Invalid"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an object is refused; `reason` is a `metav1.StatusReason`."""

    message: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one review, and its fields for the log line.

    refusal   None: admitted
    note      why the configs were not checked; "" if they were
    """

    uid: str
    resource: str
    namespace: str
    name: str
    operation: str
    refusal: Refusal | None
    note: str = ""

    def body(self) -> bytes:
        """The AdmissionReview to send back."""
        refusal = self.refusal
        return wire.write_review(self.uid, None if refusal is None else (refusal.message, refusal.reason))


@dataclass(frozen=True, slots=True)
class _Kind:
    """The decoder of one resource's objects, and the path of their device spec."""

    read: Callable[[bytes], Object]
    path: str


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "resourceclaims": _Kind(wire.read_claim, "spec.devices"),
        "resourceclaimtemplates": _Kind(wire.read_template, "spec.spec.devices"),
    }
)


def judge(body: bytes, gates: Gates) -> Verdict:
    """The verdict on the AdmissionReview in a request's body. Raises wire.ReviewError if there is none in it."""
    try:
        request = wire.read_review(body)
    except ObjectError as odd:
        text, uid = odd.args
        return Verdict(uid, "", "", "", "", Refusal(text, BAD_REQUEST))
    resource = request.resource or wire.Resource()
    name, note = request.name or "", ""
    refusal: Refusal | None
    try:
        kind = _kind(resource)
        if request.operation not in ("CREATE", "UPDATE"):
            refusal, note = None, "neither created nor updated"
        else:
            found = kind.read(bytes(request.object))
            name = name or found.name
            note = _exemption(request, found, kind)
            refusal = None if note else _refusal(wire.read_devices(found.devices), kind.path, gates)
    except ObjectError as odd:
        refusal = Refusal(str(odd), BAD_REQUEST)
    return Verdict(
        request.uid or "",
        resource.resource or "",
        request.namespace or "",
        name,
        request.operation or "",
        refusal,
        note,
    )


def _kind(resource: wire.Resource) -> _Kind:
    kind = _KINDS.get(resource.resource or "")
    if kind is None or resource.group != GROUP or resource.version not in VERSIONS:
        raise ObjectError(
            "expected resource to be one of the supported versions for resourceclaims or resourceclaimtemplates, "
            f"got {resource}"
        )
    return kind


def _exemption(request: Request, found: Object, kind: _Kind) -> str:
    """Why an object is admitted unchecked: an unchanged spec was admitted before, and rules may be stricter now."""
    if found.is_being_deleted:
        return "being deleted"
    if request.operation == "UPDATE":
        try:
            before = kind.read(bytes(request.old_object)).devices
        except ObjectError:
            return ""
        # The API server encodes both objects alike, so equal specs are equal as text.
        if before == found.devices:
            return "device spec unchanged"
    return ""


def _refusal(devices: Devices, path: str, gates: Gates) -> Refusal | None:
    admin = devices.admin_requests()
    found = []
    for index, config in enumerate(devices.configs or ()):
        opaque = config.opaque
        if opaque is None or opaque.driver not in DRIVERS:
            continue
        reason = _config_refusal(bytes(opaque.parameters), f"{path}.config[{index}].opaque.parameters", gates)
        if reason is None and admin and opaque.driver == GPU_DRIVER:
            kind = configs.kind_of(configs.decode(bytes(opaque.parameters)))
            reason = admin_access.config_refusal(config.requests or (), admin, kind)
            reason = reason and f"object at {path}.config[{index}] is invalid: {reason}"
        if reason is not None:
            found.append(reason)
    if not found:
        return None
    return Refusal(f"{len(found)} configs failed to validate: {'; '.join(found)}", INVALID)


def _config_refusal(parameters: bytes, path: str, gates: Gates) -> str | None:
    try:
        config = configs.decode(parameters)
    except ConfigError as odd:
        return f"error decoding object at {path}: {odd}"
    if isinstance(config, NoConfig):
        return f"expected a recognized configuration type at {path} but got: *v1beta1.{config.kind}"
    try:
        config = configs.normalize(config, gates)
        configs.validate(config, gates)
        configs.check_strategy(config)
        check_limits(config)
    except ConfigError as odd:
        return f"object at {path} is invalid: {odd}"
    return None
