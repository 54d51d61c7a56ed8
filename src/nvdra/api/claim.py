"""A ResourceClaim as this node reads it: identity, allocation results, configs.

The claim's own JSON is kept beside the values, because the checkpoint stores its status verbatim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from nvdra._core import CoreError, identify_claim
from nvdra._core import decode_claim as _decode_claim
from nvdra._core import decode_status as _decode_status

# Set by the controller that makes claims from templates.
_POD_CLAIM = "resource.kubernetes.io/pod-claim-name"


@dataclass(frozen=True, slots=True)
class ClaimRef:
    """A claim as kubelet names it: enough to find it, but not verified."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.uid}"

    def has_name_of(self, other: ClaimRef | None) -> bool:
        """Whether both have the same namespace and name, with any UID."""
        return other is not None and (self.namespace, self.name) == (other.namespace, other.name)


@dataclass(frozen=True, slots=True)
class Result:
    """One DeviceRequestAllocationResult: a device given to a request."""

    request: str  # "req", or "req/sub" for a subrequest
    driver: str
    pool: str
    device: str
    admin_access: bool = False
    share_id: str | None = None
    consumed_capacity: tuple[tuple[str, str], ...] = ()  # of a shared device: canonical quantities, sorted by name


@dataclass(frozen=True, slots=True)
class OpaqueConfig:
    """One entry of `status.allocation.devices.config`, parameters as the JSON bytes the API server holds."""

    source: str  # "FromClass" or "FromClaim"
    requests: tuple[str, ...]
    driver: str | None  # None: the entry is not opaque
    parameters: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """An allocated ResourceClaim.

    status   `status` as JSON, projected onto the fields of resource.k8s.io/v1 that the checkpoint keeps
             (Go's field order, opaque parameters verbatim); two allocations are equal if these bytes' allocations are.
    results  of every driver, in the allocation's order; this driver's are chosen by `driver`.
    pod_claim   the claim's name in the pod that it was made for from a template; "" for a claim of its own
    """

    ref: ClaimRef
    results: tuple[Result, ...]
    configs: tuple[OpaqueConfig, ...]
    status: bytes
    pod_claim: str = ""


class ClaimError(ValueError):
    """The claim cannot be decoded.

    kind   "unallocated": no device was given to it yet; "malformed": the API server sent something else than a claim
    ref    which claim it is, where the body says so all the same
    """

    def __init__(self, kind: Literal["unallocated", "malformed"], text: str, ref: ClaimRef | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.ref = ref


def decode_claim(body: bytes) -> Claim:
    """The claim in an API object's body, of any served version of resource.k8s.io.

    Raises ClaimError.
    """
    try:
        namespace, name, uid, results, configs, status = _decode_claim(body)
    except CoreError as error:
        raise _refusal(error, claim_ref(body)) from None
    return Claim(ClaimRef(namespace, name, uid), _results(results), _configs(configs), status, _pod_claim(body))


def claim_ref(body: bytes) -> ClaimRef | None:
    """Which claim an API object's body is, whatever else it holds; None if it does not say."""
    named = identify_claim(body)
    return None if named is None else ClaimRef(*named)


def decode_status(status: bytes) -> tuple[tuple[Result, ...], tuple[OpaqueConfig, ...]]:
    """The results and configs in a claim's status, such as the checkpoint keeps.

    Raises ClaimError.
    """
    try:
        results, configs = _decode_status(status)
    except CoreError as error:
        raise _refusal(error) from None
    return _results(results), _configs(configs)


def _pod_claim(body: bytes) -> str:
    if _POD_CLAIM.encode() not in body:
        return ""
    try:
        return str(orjson.loads(body)["metadata"]["annotations"][_POD_CLAIM])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""  # elsewhere in the claim, or not as the API server writes it


def _refusal(error: CoreError, ref: ClaimRef | None = None) -> ClaimError:
    if error.kind == "unallocated":
        return ClaimError("unallocated", str(error), ref)
    return ClaimError("malformed", f"the claim is not readable: {error}", ref)


def _results(
    read: list[tuple[str, str, str, str, bool, str | None, list[tuple[str, str]]]],
) -> tuple[Result, ...]:
    return tuple(Result(*one[:6], tuple(one[6])) for one in read)


def _configs(read: list[tuple[str, list[str], str | None, bytes]]) -> tuple[OpaqueConfig, ...]:
    return tuple(
        OpaqueConfig(source, tuple(requests), driver, parameters) for source, requests, driver, parameters in read
    )
