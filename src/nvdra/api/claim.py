"""A ResourceClaim as this node reads it: who it is, what it was given, with which configs.

Values only; the claim's own JSON stays beside them, because the record on disk carries its status verbatim.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClaimRef:
    """What kubelet says of a claim: enough to find it, not to trust it."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.uid}"


@dataclass(frozen=True, slots=True)
class Result:
    """One DeviceRequestAllocationResult: a device given to a request."""

    request: str  # "req", or "req/sub" for a subrequest
    driver: str
    pool: str
    device: str
    admin_access: bool = False
    share_id: str | None = None


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
    """

    ref: ClaimRef
    results: tuple[Result, ...]
    configs: tuple[OpaqueConfig, ...]
    status: bytes
