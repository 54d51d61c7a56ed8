"""The CDI files of one driver's claims on this node."""

from __future__ import annotations

from dataclasses import dataclass

from nvdra.cdi import ClaimKind
from nvdra.host import meant_for
from nvdra.ports import Host


@dataclass(frozen=True, slots=True)
class ClaimFiles:
    """The CDI files of claims, by UID."""

    host: Host
    cdi_root: str
    kind: ClaimKind

    def path(self, uid: str) -> str:
        return f"{self.cdi_root}/{self.kind.file_name(uid)}"

    def exists(self, uid: str) -> bool:
        return self.host.exists(self.path(uid))

    def read(self, uid: str) -> bytes:
        """The content of the claim's file. Raises OSError."""
        return self.host.read(self.path(uid))

    def uids(self) -> tuple[str, ...]:
        """UIDs of claims that have a file."""
        return tuple(uid for name in self._names() if (uid := self.kind.claim_uid(name)) is not None)

    def temporary(self) -> tuple[str, ...]:
        """Paths of files that a killed writer left beside the real ones."""
        return tuple(f"{self.cdi_root}/{name}" for name in self._names() if self._is_temporary(name))

    def _is_temporary(self, name: str) -> bool:
        real = meant_for(name)
        return real is not None and self.kind.claim_uid(real) is not None

    def _names(self) -> list[str]:
        try:
            return self.host.list(self.cdi_root)
        except FileNotFoundError:
            return []
