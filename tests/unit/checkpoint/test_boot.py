"""The boot-id rule."""

from __future__ import annotations

from nvdra.checkpoint import Checkpoint, Entry, boot

ENTRIES = {"c1": Entry("PrepareCompleted", b"{}")}


def test_the_same_boot_keeps_the_checkpoint() -> None:
    checkpoint = Checkpoint("b1", ENTRIES)
    booted = boot(checkpoint, "b1")
    assert booted.checkpoint is checkpoint
    assert booted.what == "kept"


def test_a_checkpoint_without_boot_id_gets_the_current_one() -> None:
    booted = boot(Checkpoint("", ENTRIES), "b1")
    assert booted.checkpoint == Checkpoint("b1", ENTRIES)
    assert (booted.what, booted.stored, booted.current) == ("injected", "", "b1")


def test_another_boot_empties_the_checkpoint() -> None:
    booted = boot(Checkpoint("b1", ENTRIES), "b2")
    assert booted.checkpoint == Checkpoint("b2")
    assert booted.what == "invalidated"
    assert str(booted) == 'Invalidating checkpoint: checkpoint nodeBootID "b1" != current "b2"'
