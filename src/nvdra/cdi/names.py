"""CDI kinds and names of claims' files and devices, defined once for every driver.

Source: Container Device Interface specification 1.1.0, device naming; the Go driver's file names.
"""

from __future__ import annotations

from dataclasses import dataclass

_SUFFIX = ".yaml"


@dataclass(frozen=True, slots=True)
class ClaimKind:
    """The CDI kind of one driver's claims: `vendor` is "k8s.gpu.nvidia.com", the class is always "claim"."""

    vendor: str

    def __str__(self) -> str:
        return f"{self.vendor}/claim"

    def device_name(self, claim_uid: str, device: str) -> str:
        """The name of a claim's device inside the kind."""
        return f"{claim_uid}-{device}"

    def device_id(self, claim_uid: str, device: str) -> str:
        """The fully qualified CDI device, as kubelet gets it."""
        return f"{self}={self.device_name(claim_uid, device)}"

    def file_name(self, claim_uid: str) -> str:
        """The name of a claim's file in the CDI folder."""
        return f"{self.vendor}-claim_{claim_uid.replace('/', '_')}{_SUFFIX}"

    def claim_uid(self, file_name: str) -> str | None:
        """The claim whose file has this name; None if the file is no claim's."""
        prefix = f"{self.vendor}-claim_"
        if not file_name.startswith(prefix) or not file_name.endswith(_SUFFIX):
            return None
        return file_name[len(prefix) : -len(_SUFFIX)] or None


GPU_CLAIMS = ClaimKind("k8s.gpu.nvidia.com")
DOMAIN_CLAIMS = ClaimKind("k8s.compute-domain.nvidia.com")
