"""The CDI files of claims: what each must say now, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nvdra import cdi, claims
from nvdra.checkpoint import Entry, Record
from nvdra.devices import Inventory
from nvdra.node.site import ClaimFiles
from nvdra.node.supply import Supply, SupplyError

REWRITTEN = "CDI file of a prepared claim was lost or out of date and is written anew"


@dataclass(frozen=True, slots=True)
class CdiFiles:
    """Contents of claims' CDI files, by what the node and its driver are now.

    inventory   the devices as last scanned
    """

    files: ClaimFiles
    supply: Supply
    inventory: Callable[[], Inventory]

    def content(self, devices: Mapping[str, claims.Concrete]) -> bytes:
        """What a file for these devices says; they must be at hand. Raises SupplyError and cdi.InvalidDocument."""
        edits = [(name, self.supply.edits(device)) for name, device in devices.items()]
        return cdi.render_claim(self.supply.common, edits)

    def is_whole(self, uid: str, record: Record) -> bool:
        """Whether the claim's file is there and says what it should. Of a claim that is not completed: is there."""
        entry = record.entries.get(uid)
        if entry is None or entry.state != "PrepareCompleted":
            return self.files.exists(uid)
        return self.is_current(uid, entry, claims.cdi_devices(uid, entry, self.inventory()))

    def is_current(self, uid: str, entry: Entry, devices: Mapping[str, claims.Concrete] | None) -> bool:
        """The same of a completed claim.

        devices   what the file is for; None if this node does not know it all: then what the file names must be there
        """
        if not any(answer.cdi_ids for answer in claims.answers(entry)):
            return True  # it needs none
        if devices is None:
            return self._names_what_is_there(uid)
        if not self.supply.is_at_hand(devices.values()):
            return False
        try:
            return self.files.read(uid) == self.content(devices)
        except (OSError, SupplyError, cdi.InvalidDocument):
            return False

    def _names_what_is_there(self, uid: str) -> bool:
        try:
            document = cdi.parse(self.files.read(uid))
        except (OSError, ValueError):
            return False
        return not self.supply.gone(document)
