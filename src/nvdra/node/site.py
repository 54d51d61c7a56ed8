"""Where and for whom this node prepares, and where its claims' CDI files lie."""

from __future__ import annotations

from dataclasses import dataclass

from nvdra import cdi
from nvdra.api import Gates
from nvdra.ports import Host


@dataclass(frozen=True, slots=True)
class Site:
    """Where and for whom this node prepares."""

    driver: str
    pool: str
    cdi_root: str
    gates: Gates


@dataclass(frozen=True, slots=True)
class ClaimFiles:
    """The CDI files of claims, by UID."""

    host: Host
    cdi_root: str

    def path(self, uid: str) -> str:
        return f"{self.cdi_root}/{cdi.file_name(uid)}"

    def exists(self, uid: str) -> bool:
        return self.host.exists(self.path(uid))

    def read(self, uid: str) -> bytes:
        """Its content. Raises OSError."""
        return self.host.read(self.path(uid))
