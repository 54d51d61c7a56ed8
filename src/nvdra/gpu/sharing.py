"""How this node lets claims share devices, and which step and edits an MPS config comes to under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nvdra.api.claim import Claim, ClaimRef, Result
from nvdra.api.configs import Config, ConfigError
from nvdra.api.gates import MPS_SUPPORT, Gates
from nvdra.cdi import Edits
from nvdra.checkpoint import Checkpoint, Entry, PreparedGroup, Unsupported
from nvdra.claims import ConfigRefused, Facts, Group, Refuse, allocation
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.groups import config_for
from nvdra.gpu.mps import StartMpsDaemon, daemon_fact, is_shared_id, mps_config, mps_edits, mps_step
from nvdra.gpu.names import MigName, parse_name
from nvdra.gpu.shares import NOT_SHARED, Shares, consumed_mib

_DONE = "PrepareCompleted"


@dataclass(frozen=True, slots=True)
class Sharing:
    """Options of the node.

    mps_under_shares   claims that share a device may share its MPS daemon; else MPS and shares exclude each other
    mps_folder         of all daemons, on the host
    """

    shares: Shares = NOT_SHARED
    mps_under_shares: bool = False
    mps_folder: str = "/mps"


UNSHARED = Sharing()


def daemons(
    claim: ClaimRef, groups: Iterable[Group], gates: Gates, sharing: Sharing
) -> tuple[StartMpsDaemon, ...] | Refuse:
    """One daemon for each group whose config asks for MPS."""
    if not gates.enabled(MPS_SUPPORT):
        return ()
    found: dict[str, StartMpsDaemon] = {}
    for group in groups:
        if mps_config(group.config) is not None and sharing.shares.is_active and not sharing.mps_under_shares:
            return _refused(
                "MPS sharing is not supported when consumable shares is enabled (option --mps-under-shares allows it)"
            )
        try:
            step = mps_step(claim.uid, group, is_shared=sharing.shares.is_active)
        except ConfigRefused as odd:
            return _refused(str(odd))
        if step is not None:
            found[step.id] = step
    return tuple(found[each] for each in sorted(found))


def daemon_facts(claim: ClaimRef, groups: Iterable[Group], entry: Entry | None, sharing: Sharing) -> Facts:
    """Which daemon serves each device of a claim that was prepared before: the entry's word, or the configs'."""
    if entry is not None:
        prepared = () if isinstance(entry.prepared, Unsupported) else entry.prepared
        return {
            daemon_fact(device.uuid): group.mps_daemon_id
            for group in prepared
            if isinstance(group, PreparedGroup) and group.mps_daemon_id
            for device in group.devices
        }
    facts: dict[str, str] = {}
    for group in groups:
        try:
            step = mps_step(claim.uid, group, is_shared=sharing.shares.is_active)
        except ConfigRefused:
            continue  # then no daemon was started either
        if step is not None:
            facts |= {daemon_fact(uuid): step.id for uuid in step.uuids}
    return facts


def is_wanted_daemon(daemon: str, checkpoint: Checkpoint) -> bool:
    """Whether a claim may need a daemon that has a folder: an entry names it, or is one that it may be started for."""
    return any(
        daemon in daemons_of(entry) or daemon.startswith(f"{uid}-") or (is_shared_id(daemon) and entry.state != _DONE)
        for uid, entry in checkpoint.entries.items()
    )


def daemons_of(entry: Entry) -> Mapping[str, PreparedGroup]:
    """Groups of an entry that have an MPS daemon, by its id."""
    groups = () if isinstance(entry.prepared, Unsupported) else entry.prepared
    return {g.mps_daemon_id: g for g in groups if isinstance(g, PreparedGroup) and g.mps_daemon_id}


def daemon_of(group: Group, facts: Facts) -> str:
    """The id of the group's daemon; "" if it has none."""
    uuids = (getattr(device, "uuid", "") for result, device in group.members if not result.admin_access)
    return next((str(facts[daemon_fact(uuid)]) for uuid in uuids if daemon_fact(uuid) in facts), "")


def sharing_edits(group: Group, result: Result, facts: Facts, sharing: Sharing) -> Edits:
    """What the group's daemon adds to containers with this result's device."""
    daemon = daemon_of(group, facts)
    if not daemon:
        return Edits()
    return mps_edits(f"{sharing.mps_folder}/{daemon}", consumed_mib(result))


def share_refused(claim: Claim, result: Result, uid: str, other: Entry, gates: Gates) -> str:
    """Why two claims cannot share a device that both were allocated; "" if they can: their configs are the same.

    The texts are the Go driver's.
    """
    kind = "mig" if isinstance(parse_name(result.device), MigName) else "gpu"
    theirs = allocation(other.status, DRIVER)
    configs: list[Config] = []
    for what, results, given in (
        (f"existing prepared claim {uid}", theirs.results, theirs.configs),
        (f"incoming claim {claim.ref.uid}", claim.results, claim.configs),
    ):
        request = next((r.request for r in _results(results, result.device, result.request)), "")
        try:
            configs.append(config_for(request, result.device, kind, given, gates))
        except ConfigError as odd:
            return f"error resolving config for {what} on device {result.device}: {odd}"
    if configs[0] == configs[1]:
        return ""
    return f"requested device {result.device} has conflicting configuration with already prepared claim {uid}"


def differing_shares(groups: Sequence[Group]) -> str:
    """Why the shares that one claim has of one device cannot be used together; "" if they can."""
    configs: dict[str, object] = {}
    for group in groups:
        for result, device in group.members:
            if not result.admin_access and configs.setdefault(device.name, group.config) != group.config:
                return (
                    f"requested device {device.name} has conflicting configuration: shares of one device in one claim "
                    "take the same config"
                )
    return ""


def _results(results: Iterable[Result], device: str, request: str) -> list[Result]:
    """Exclusive results for a device, the one of this request first."""
    found = [r for r in results if r.driver == DRIVER and r.device == device and not r.admin_access]
    return sorted(found, key=lambda r: r.request != request)


def _refused(text: str) -> Refuse:
    return Refuse(f"prepare devices failed: error applying config: {text}", permanent=True)
