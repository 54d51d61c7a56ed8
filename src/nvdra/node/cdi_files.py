"""The CDI files of claims: what each must say now, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nvdra import cdi, claims
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.node.claim_files import ClaimFiles
from nvdra.node.edits import EditsMissing, EditsProvider

REWRITTEN = "CDI file of a prepared claim was lost or out of date and is written anew"

_NO_EDITS = cdi.Edits()


@dataclass(frozen=True, slots=True)
class CdiFiles:
    """Contents of claims' CDI files, by what the node and its driver files are now.

    node   the driver's view of the node, as last seen
    """

    driver: claims.Driver[Any]
    files: ClaimFiles
    edits: EditsProvider
    node: Callable[[], Any]

    def content(self, devices: Mapping[str, claims.SealedDevice]) -> bytes:
        """What a file for these devices says; they must be at hand. Raises EditsMissing and cdi.InvalidDocument."""
        edits = [(name, self._edits(device)) for name, device in devices.items()]
        return cdi.render_claim(self.files.kind, self.edits.common, edits)

    def is_whole(self, uid: str, checkpoint: Checkpoint) -> bool:
        """Whether the claim's file is there and says what it should. Of a claim that is not completed: is there."""
        entry = checkpoint.entries.get(uid)
        if entry is None or entry.state != "PrepareCompleted":
            return self.files.exists(uid)
        return self.is_current(uid, entry, self.sealed(uid, entry))

    def sealed(self, uid: str, entry: Entry) -> claims.Sealed | None:
        """What a completed claim's file is for; None if this node does not know all its devices now."""
        return claims.restored(self.driver, uid, entry, self.node())

    def is_current(self, uid: str, entry: Entry, sealed: claims.Sealed | None) -> bool:
        """The same of a completed claim; without `sealed`, what the file names must be there."""
        if not any(answer.cdi_ids for answer in claims.answers(entry)):
            return True  # it needs none
        if sealed is None:
            return self._names_what_is_there(uid)
        if not self.edits.is_available(concrete(sealed)):
            return False
        try:
            return self.files.read(uid) == self.content(sealed.cdi_devices)
        except (OSError, EditsMissing, cdi.InvalidDocument):
            return False

    def _edits(self, device: claims.SealedDevice) -> cdi.Edits:
        own = self.edits.edits(device.device)
        return own if device.added == _NO_EDITS else own + device.added

    def _names_what_is_there(self, uid: str) -> bool:
        try:
            document = cdi.parse(self.files.read(uid))
        except (OSError, ValueError):
            return False
        return not self.edits.gone(document)


def concrete(sealed: claims.Sealed) -> tuple[claims.NodeDevice, ...]:
    """The devices that containers of the claim are given."""
    return tuple(each.device for each in sealed.cdi_devices.values())
