"""The CDI files of claims: the content each should have now, and whether it has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nvdra import cdi, claims
from nvdra.api import ClaimRef
from nvdra.checkpoint import Checkpoint, Entry
from nvdra.node.claim_files import ClaimFiles
from nvdra.node.edits import EditsMissing, EditsProvider
from nvdra.node.metadata_files import MetadataFiles

REWRITTEN = "Rewrote the CDI file of a prepared claim: it was lost or out of date"

_NO_EDITS = cdi.Edits()


@dataclass(frozen=True, slots=True)
class CdiFiles:
    """Renders and checks claims' CDI files against the node and its driver files as they are now.

    node      the driver's view of the node, as last seen
    metadata  device metadata, which claims have beside their CDI file
    """

    driver: claims.Driver[Any]
    files: ClaimFiles
    edits: EditsProvider
    node: Callable[[], Any]
    metadata: MetadataFiles

    def contents(self, ref: ClaimRef, sealed: claims.Sealed, pod_claim: str | None) -> dict[str, bytes]:
        """All files of a claim, content by path; `is_available` first. Raises EditsMissing and cdi.InvalidDocument.

        pod_claim   as in `Claim`; None: whatever the files on disk say
        """
        own = {self.files.path(ref.uid): self.content(sealed.cdi_devices)}
        return own | self.metadata.contents(ref, sealed.answers, pod_claim)

    def content(self, devices: Mapping[str, claims.SealedDevice]) -> bytes:
        """The content of a file for these devices; `is_available` first. Raises EditsMissing and cdi.InvalidDocument.

        If all devices get the common edits, the file has them once; otherwise each device that gets them has a copy.
        """
        edits = [(name, self._edits(device)) for name, device in devices.items()]
        has_common = [device.has_common for device in devices.values()]
        if all(has_common):
            return cdi.render_claim(self.files.kind, self.edits.common, edits)
        if any(has_common):
            common = self.edits.common.edits
            edits = [(name, common + own if has else own) for (name, own), has in zip(edits, has_common, strict=True)]
        return cdi.render_claim(self.files.kind, self.edits.bare, edits)

    def is_whole(self, uid: str, checkpoint: Checkpoint) -> bool:
        """Whether the claim's file exists and, for a completed claim, is current."""
        entry = checkpoint.entries.get(uid)
        if entry is None or entry.state != "PrepareCompleted":
            return self.files.exists(uid)
        return self.is_current(uid, entry, self.sealed(uid, entry))

    def sealed(self, uid: str, entry: Entry) -> claims.Sealed | None:
        """The sealed claim behind a completed entry; None if this node does not know all its devices now."""
        found = claims.restored(self.driver, ClaimRef(entry.namespace, entry.name, uid), entry, self.node())
        return None if isinstance(found, claims.Missing) else found

    def is_current(self, uid: str, entry: Entry, sealed: claims.Sealed | None) -> bool:
        """Whether a completed claim's files have the content they should have.

        Without `sealed` the content cannot be rendered: then every path that the file names must exist.
        """
        if not any(answer.cdi_ids for answer in claims.answers(entry)):
            return True  # the claim needs no file
        if sealed is None:
            return self._names_what_is_there(uid)
        if not self.is_available(sealed):
            return False
        try:
            ref = ClaimRef(entry.namespace, entry.name, uid)
            is_own = self.files.read(uid) == self.content(sealed.cdi_devices)
            return is_own and self.metadata.are_current(ref, sealed.answers)
        except (OSError, EditsMissing, cdi.InvalidDocument):
            return False

    def is_available(self, sealed: claims.Sealed) -> bool:
        """Whether the claim's file could be written now."""
        return self.edits.is_available(sealed.devices, common=sealed.has_common)

    def _edits(self, device: claims.SealedDevice) -> cdi.Edits:
        own = self.edits.edits(device.device)
        return own if device.added == _NO_EDITS else own + device.added

    def _names_what_is_there(self, uid: str) -> bool:
        try:
            document = cdi.parse(self.files.read(uid))
        except (OSError, ValueError):
            return False
        return not self.edits.gone(document)
