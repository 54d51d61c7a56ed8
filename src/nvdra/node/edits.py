"""The protocol by which the driver-neutral node gets a driver's container edits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from nvdra import cdi


class EditsMissing(Exception):
    """A file or device node that containers need is missing on this node; a later try may find it."""


class EditsProvider(Protocol):
    """Supplies the container edits of a driver's devices. Devices are the driver's own values.

    `common` says whether edits that the driver's devices have in common are wanted too.
    """

    def is_available(self, devices: Iterable[Any], *, common: bool = True) -> bool:
        """Whether a CDI file for these devices could be written now, without `refresh`."""
        ...

    async def refresh(self, devices: Iterable[Any], *, common: bool = True) -> None:
        """Look up the files and device nodes that containers with these devices need. Raises EditsMissing."""
        ...

    @property
    def common(self) -> cdi.Common:
        """Renders files whose devices all have the driver's common edits; needs `is_available`."""
        ...

    @property
    def bare(self) -> cdi.Common:
        """Renders files without edits in common."""
        ...

    def gone(self, document: cdi.Document) -> list[str]:
        """Paths of a CDI document that are missing on the node, or are device nodes with another number."""
        ...

    def edits(self, device: Any) -> cdi.Edits:
        """The device's own edits. Raises EditsMissing if they have not been looked up."""
        ...
