"""Container edits, as the neutral node asks a driver's provider for them."""

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

    def is_at_hand(self, devices: Iterable[Any], *, common: bool = True) -> bool:
        """Whether a CDI file for these devices could be written now: `refresh` would find nothing missing."""
        ...

    async def refresh(self, devices: Iterable[Any], *, common: bool = True) -> None:
        """Look up what containers with these devices need. Raises EditsMissing."""
        ...

    @property
    def common(self) -> cdi.Common:
        """Renders files whose devices all have the driver's common edits; these must be at hand."""
        ...

    @property
    def bare(self) -> cdi.Common:
        """Renders files without edits in common."""
        ...

    def gone(self, document: cdi.Document) -> list[str]:
        """Paths that a CDI document names and that are not there, device nodes with another number among them."""
        ...

    def edits(self, device: Any) -> cdi.Edits:
        """The device's own edits; it must be at hand. Raises EditsMissing."""
        ...
