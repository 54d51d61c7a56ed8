"""Wire types of Kubernetes and the driver's API: claims, results, opaque configs, feature gates, quantities."""

from nvdra.api.claim import (
    Claim,
    ClaimError,
    ClaimRef,
    OpaqueConfig,
    Result,
    claim_ref,
    decode_claim,
    decode_status,
)
from nvdra.api.configs import ConfigError
from nvdra.api.gates import GateError, Gates

__all__ = [
    "Claim",
    "ClaimError",
    "ClaimRef",
    "ConfigError",
    "GateError",
    "Gates",
    "OpaqueConfig",
    "Result",
    "claim_ref",
    "decode_claim",
    "decode_status",
]
