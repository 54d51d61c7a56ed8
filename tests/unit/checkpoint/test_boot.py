"""The boot-id rule."""

from __future__ import annotations

from nvdra.checkpoint import Entry, Record, boot

ENTRIES = {"c1": Entry("PrepareCompleted", b"{}")}


def test_the_same_boot_keeps_the_record() -> None:
    record = Record("b1", ENTRIES)
    booted = boot(record, "b1")
    assert booted.record is record
    assert booted.what == "kept"


def test_a_record_without_boot_id_gets_the_current_one() -> None:
    booted = boot(Record("", ENTRIES), "b1")
    assert booted.record == Record("b1", ENTRIES)
    assert (booted.what, booted.stored, booted.current) == ("injected", "", "b1")


def test_another_boot_empties_the_record() -> None:
    booted = boot(Record("b1", ENTRIES), "b2")
    assert booted.record == Record("b2")
    assert booted.what == "invalidated"
    assert str(booted) == 'Invalidating checkpoint: checkpoint nodeBootID "b1" != current "b2"'
