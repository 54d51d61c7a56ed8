"""Container edits of channels and daemons: all of them are the claim's own, so nothing is looked up."""

from __future__ import annotations

from collections.abc import Iterable

from nvdra import cdi
from nvdra.domains.devices import DomainDevice
from nvdra.host import DriverRoot

_NOTHING = cdi.Edits()


class DomainEditsProvider:
    """Edits for containers with channels and daemons. The driver's files are in the base document.

    host_root   the driver root as the container runtime sees it
    """

    def __init__(self, root: DriverRoot, host_root: str) -> None:
        self._bare = cdi.Common(_NOTHING, root.path, host_root)

    def is_available(self, devices: Iterable[DomainDevice], *, common: bool = True) -> bool:
        return True

    async def refresh(self, devices: Iterable[DomainDevice], *, common: bool = True) -> None:
        return None

    @property
    def common(self) -> cdi.Common:
        return self._bare

    @property
    def bare(self) -> cdi.Common:
        return self._bare

    def gone(self, document: cdi.Document) -> list[str]:
        """Nothing: runtimes make the nodes from their numbers, and folders are looked at where they are laid."""
        return []

    def edits(self, device: DomainDevice) -> cdi.Edits:
        return _NOTHING
