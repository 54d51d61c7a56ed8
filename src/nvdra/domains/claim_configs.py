"""From the opaque configs of a claim to groups: which domain each device belongs to.

Texts of refusals are the Go driver's where it has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import orjson

from nvdra.api.claim import OpaqueConfig, Result
from nvdra.api.compute_domain import ALL, DRIVER, SINGLE
from nvdra.api.configs import (
    ComputeDomainChannelConfig,
    ComputeDomainDaemonConfig,
    Config,
    ConfigError,
    decode,
    kind_of,
)
from nvdra.checkpoint import DomainGroup, Entry, Unsupported
from nvdra.claims import ConfigRefused, Group, NodeDevice, allocation
from nvdra.domains.devices import Channel, Daemon, is_uid, parse_name

_SOURCES = ("FromClass", "FromClaim")
DomainConfig = ComputeDomainChannelConfig | ComputeDomainDaemonConfig


def groups(members: Sequence[tuple[Result, NodeDevice]], configs: Sequence[OpaqueConfig]) -> tuple[Group, ...]:
    """The results by config; each config has exactly one device. Raises ConfigRefused."""
    known = _decoded(configs)
    made: dict[int, Group] = {}
    for result, device in members:
        at, config = _chosen(result, device, known)
        _check(config)
        if at in made:
            raise ConfigRefused(
                f"config for ComputeDomain {config.domain_id} applies to more than one device: "
                f"{made[at].members[0][1].name} and {device.name}"
            )
        made[at] = Group(config, ((result, device),))
    return tuple(made.values())


def restored(
    results: Iterable[Result], configs: Sequence[OpaqueConfig], entry: Entry | None
) -> list[tuple[Result, Channel | Daemon, DomainConfig]]:
    """The results of a claim that was prepared, each with the config that it was prepared with; nothing is refused.

    A result of a config that cannot be read any more has the domain that the entry names.
    """
    groups = () if entry is None or isinstance(entry.prepared, Unsupported) else entry.prepared
    domains = {
        device.device: group.domain for group in groups if isinstance(group, DomainGroup) for device in group.devices
    }
    made = []
    for result in results:
        device = parse_name(result.device)
        if device is None:
            continue
        config = _lenient(result, device, configs) or _empty(device, domains.get(result.device, ""))
        made.append((result, device, config))
    return made


def domains_of(entry: Entry, kind: str) -> frozenset[str]:
    """UIDs of the domains that the entry, in any state, has devices of; kind "channel" or "daemon"."""
    groups = () if isinstance(entry.prepared, Unsupported) else entry.prepared
    found = {group.domain for group in groups if isinstance(group, DomainGroup) and group.config_type == kind}
    given = allocation(entry.status, DRIVER)
    for _, device, config in restored(given.results, given.configs, entry):
        if isinstance(device, Channel) == (kind == "channel"):
            found.add(config.domain_id)
    return frozenset(filter(is_uid, found))


def _decoded(configs: Sequence[OpaqueConfig]) -> list[tuple[DomainConfig | Config, tuple[str, ...]]]:
    """This driver's configs, lowest precedence first. Raises ConfigRefused."""
    known: list[tuple[Config, tuple[str, ...]]] = []
    prefix = "error getting opaque device configs: "
    for config in configs:
        if config.source not in _SOURCES:
            raise ConfigRefused(f"{prefix}invalid config source: {config.source}")
    for config in sorted(configs, key=lambda each: _SOURCES.index(each.source)):
        if config.driver is None:
            raise ConfigRefused(f"{prefix}only opaque parameters are supported by this driver")
        if config.driver != DRIVER:
            continue
        try:
            known.append((decode(config.parameters), config.requests))
        except ConfigError as odd:
            raise ConfigRefused(f"{prefix}error decoding config parameters: {odd}") from None
    return known


def _chosen(
    result: Result, device: NodeDevice, known: Sequence[tuple[Config, tuple[str, ...]]]
) -> tuple[int, DomainConfig]:
    wanted = ComputeDomainChannelConfig if isinstance(device, Channel) else ComputeDomainDaemonConfig
    for at, (config, requests) in reversed(list(enumerate(known))):
        if _names(requests, result.request):
            if not isinstance(config, wanted):
                raise ConfigRefused(f"cannot apply {kind_of(config)} to request: {result.request}")
            return at, config
    for at, (config, requests) in reversed(list(enumerate(known))):
        if not requests and isinstance(config, wanted):
            return at, config
    return -1, wanted()


def _names(requests: Sequence[str], request: str) -> bool:
    return request in requests or request.partition("/")[0] in requests


def _check(config: DomainConfig) -> None:
    if not config.domain_id:
        raise ConfigRefused("domainID cannot be empty")
    if not is_uid(config.domain_id):
        raise ConfigRefused(f'domainID "{config.domain_id}" is not the UID of a ComputeDomain')
    if isinstance(config, ComputeDomainChannelConfig) and config.allocation_mode not in ("", SINGLE, ALL):
        raise ConfigRefused(f'unknown allocationMode "{config.allocation_mode}": it must be {SINGLE} or {ALL}')


def _lenient(result: Result, device: Channel | Daemon, configs: Sequence[OpaqueConfig]) -> DomainConfig | None:
    """The config that applies, read with unknown fields dropped; None if none can be read."""
    kind = "ComputeDomainChannelConfig" if isinstance(device, Channel) else "ComputeDomainDaemonConfig"
    found: DomainConfig | None = None
    is_named = False
    for config in sorted(configs, key=lambda each: each.source != _SOURCES[0]):
        try:
            value = orjson.loads(config.parameters)
        except orjson.JSONDecodeError:
            continue
        names = _names(config.requests, result.request)
        if not isinstance(value, dict) or value.get("kind") != kind or (config.requests and not names):
            continue
        if is_named and not names:
            continue
        domain, mode = value.get("domainID"), value.get("allocationMode")
        if not isinstance(domain, str) or not is_uid(domain):
            continue
        found, is_named = _empty(device, domain, mode if isinstance(mode, str) else ""), names
    return found


def _empty(device: Channel | Daemon, domain: str, mode: str = "") -> DomainConfig:
    return (
        ComputeDomainChannelConfig(domain, mode) if isinstance(device, Channel) else ComputeDomainDaemonConfig(domain)
    )
