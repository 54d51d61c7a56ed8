"""What a prepared claim leaves behind: its entry, the devices of its CDI file, the answers for kubelet.

One path for every CDI file: a claim that was just prepared, a lost file, a lost checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from nvdra.checkpoint import Entry
from nvdra.claims.driver import Driver, Facts, Group, Missing
from nvdra.claims.entries import answers
from nvdra.claims.outcome import Ready, Sealed, SealedDevice

V = TypeVar("V")


def seal(driver: Driver[V], ready: Ready) -> Sealed:
    """The outcome of a claim whose steps are done.

    Groups are in the order of their first result, so that the same claim gives the same bytes everywhere.
    Two results on one device give one CDI device and an answer each.
    """
    claim = ready.claim
    entry = Entry(
        state="PrepareCompleted",
        status=claim.status,
        prepared=tuple(driver.prepared(claim.ref, group, ready.facts) for group in ready.groups),
        # DROP-IN: better. The Go driver drops both here; with them a completed entry can be checked with one GET.
        name=claim.ref.name,
        namespace=claim.ref.namespace,
    )
    return seal_entry(driver, claim.ref.uid, entry, ready.groups, ready.facts)


def restored(driver: Driver[V], uid: str, entry: Entry, node: V) -> Sealed | None:
    """The outcome of a completed entry, for its CDI file; None if this node does not know all its devices now."""
    found = driver.restore(entry, node)
    return None if isinstance(found, Missing) else seal_entry(driver, uid, entry, *found)


def seal_entry(driver: Driver[V], uid: str, entry: Entry, groups: Sequence[Group], facts: Facts) -> Sealed:
    """The outcome of a claim whose completed entry exists already."""
    devices = {
        # By the name that kubelet was told: the device's own may have changed since.
        driver.cdi.device_name(uid, result.device): SealedDevice(
            driver.concrete(device, facts), driver.edits(group, facts)
        )
        for group in groups
        for result, device in group.members
    }
    return Sealed(entry, dict(sorted(devices.items())), answers(entry))
