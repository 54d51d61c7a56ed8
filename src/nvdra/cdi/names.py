"""CDI kinds and names of claims' files and devices, defined once for every driver.

Source: Container Device Interface specification 1.1.0, device naming; the Go driver's file names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SUFFIX = ".yaml"
_SHARE = re.compile(r"-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ClaimKind:
    """The CDI kind of one driver's claims: `vendor` is "k8s.gpu.nvidia.com", the class is always "claim"."""

    vendor: str

    def __str__(self) -> str:
        return f"{self.vendor}/claim"

    def device_name(self, claim_uid: str, device: str) -> str:
        """The name of a claim's device inside the kind."""
        return f"{claim_uid}-{device}"

    def device_of(self, claim_uid: str, name: str) -> str:
        """The claim's device that a name inside the kind stands for; several names stand for shares of one device."""
        return _SHARE.sub("", name.removeprefix(f"{claim_uid}-"))

    def share_name(self, name: str, share_id: str) -> str:
        """The name of one more share of a device, inside the kind or fully qualified."""
        return f"{name}-{share_id}"

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
