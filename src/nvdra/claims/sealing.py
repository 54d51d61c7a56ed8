"""Seals claims: makes the entry, the devices of the CDI file, and the answers for kubelet.

The same code makes the CDI devices of a claim that was just prepared (`seal`), of a lost file (`restored`) and of a
lost checkpoint (`adopted`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from nvdra.api.claim import Claim, ClaimRef
from nvdra.cdi import ClaimKind
from nvdra.checkpoint import DomainGroup, Entry, PreparedDevice, PreparedGroup, Unsupported
from nvdra.claims.driver import Driver, Facts, Group, Missing
from nvdra.claims.entries import Allocation, answer_key, answers, prepared_allocation, result_key
from nvdra.claims.outcome import Ready, Sealed, SealedDevice

V = TypeVar("V")

AnyGroup = PreparedGroup | DomainGroup


def seal(driver: Driver[V], ready: Ready) -> Sealed:
    """Seal a claim whose steps are done.

    Groups are in the order of their first result, so that the same claim always gives the same bytes.
    Two results on one device give one CDI device and two answers.
    """
    claim = ready.claim
    entry = Entry(
        state="PrepareCompleted",
        status=claim.status,
        prepared=_told_apart(driver.cdi, (driver.prepared(claim.ref, group, ready.facts) for group in ready.groups)),
        # DROP-IN: better. The Go driver drops both here; with them a completed entry can be checked with one GET.
        name=claim.ref.name,
        namespace=claim.ref.namespace,
    )
    return _sealed(driver, claim.ref.uid, entry, ready.groups, ready.facts)


def restored(driver: Driver[V], claim: ClaimRef, entry: Entry, node: V) -> Sealed | Missing:
    """Seal a completed entry again, for its CDI file; Missing if this node does not know all its devices now."""
    if isinstance(entry.prepared, Unsupported):
        return Missing(min(entry.prepared.device_names, default=""), "this release does not prepare such devices")
    found = driver.restore(claim, prepared_allocation(entry, driver.name), entry, node)
    return found if isinstance(found, Missing) else _sealed(driver, claim.uid, entry, *found)


def adopted(driver: Driver[V], claim: Claim, node: V, pool: str) -> Sealed | Missing:
    """Seal a claim that was prepared and whose entry was lost; Missing as in `restored`."""
    given = Allocation(
        tuple(result for result in claim.results if result.driver == driver.name and result.pool == pool),
        tuple(config for config in claim.configs if config.driver == driver.name),
    )
    found = driver.restore(claim.ref, given, None, node)
    return found if isinstance(found, Missing) else seal(driver, Ready(claim, *found))


def _sealed(driver: Driver[V], uid: str, entry: Entry, groups: Sequence[Group], facts: Facts) -> Sealed:
    # By the names that kubelet was told: the device's own may have changed since.
    told = {answer_key(answer): answer.cdi_ids for answer in answers(entry)}
    prefix = f"{driver.cdi}="
    devices = {
        cdi_id.removeprefix(prefix): SealedDevice(
            driver.concrete(device, facts), driver.edits(group, result, facts), driver.has_common_edits(group)
        )
        for group in groups
        for result, device in group.members
        for cdi_id in told.get(result_key(result), ())
        if cdi_id.startswith(prefix)
    }
    return Sealed(entry, dict(sorted(devices.items())), answers(entry))


def _told_apart(kind: ClaimKind, groups: Iterable[AnyGroup]) -> tuple[AnyGroup, ...]:
    """The groups, with a CDI name of its own for a second share of one device."""
    first: dict[tuple[str, ...], str | None] = {}

    def told(device: PreparedDevice) -> PreparedDevice:
        ids, share = device.cdi_ids, device.share_id
        if not share or first.setdefault(ids, share) == share:
            return device
        return replace(device, cdi_ids=tuple(kind.share_name(cdi_id, share) for cdi_id in ids))

    return tuple(replace(group, devices=tuple(map(told, group.devices))) for group in groups)
