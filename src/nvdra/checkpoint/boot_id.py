"""The boot id rule: claims prepared before a reboot count as unprepared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from nvdra.checkpoint.content import Checkpoint


@dataclass(frozen=True, slots=True)
class Booted:
    """The checkpoint to continue with, and the fate of the one on disk.

    what      "kept": written in this boot; "injected": it named none, this one was put in;
              "invalidated": written in another boot, so `checkpoint` is empty
    stored    the boot id on disk, "" if there was none
    current   the boot id now
    """

    checkpoint: Checkpoint
    what: Literal["kept", "injected", "invalidated"]
    stored: str
    current: str

    def __str__(self) -> str:
        match self.what:
            case "kept":
                return f'Keeping checkpoint of boot "{self.current}"'
            case "injected":
                return f'Checkpoint without nodeBootID: taken as of boot "{self.current}"'
            case "invalidated":
                return f'Invalidating checkpoint: checkpoint nodeBootID "{self.stored}" != current "{self.current}"'


def boot(checkpoint: Checkpoint, boot_id: str) -> Booted:
    """Applies the boot id rule to the checkpoint found by a program that starts in boot `boot_id`."""
    if checkpoint.boot_id == boot_id:
        return Booted(checkpoint, "kept", checkpoint.boot_id, boot_id)
    if not checkpoint.boot_id:
        return Booted(replace(checkpoint, boot_id=boot_id), "injected", "", boot_id)
    return Booted(Checkpoint(boot_id), "invalidated", checkpoint.boot_id, boot_id)
