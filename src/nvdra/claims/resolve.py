"""From opaque configs and results to groups: which devices share which config.

Texts of refusals are the Go driver's, without any prefix but their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from nvdra.api.claim import OpaqueConfig, Result
from nvdra.api.configs import (
    Config,
    ConfigError,
    GpuConfig,
    MigDeviceConfig,
    decode,
    kind_of,
    normalize,
    validate,
)
from nvdra.api.gates import Gates
from nvdra.claims.admin import Asked, refused_config
from nvdra.claims.entries import DRIVER
from nvdra.claims.matching import match
from nvdra.claims.outcome import D, Group
from nvdra.devices import Device, Gpu, MigDevice, MigSpec, VfioName, parse_name

_SOURCES = ("FromClass", "FromClaim")

# Lowest precedence: what applies where users say nothing.
BUILT_IN: tuple[tuple[Config, tuple[str, ...]], ...] = ((GpuConfig(), ()), (MigDeviceConfig(), ()))


def groups(members: Sequence[tuple[Result, D]], configs: Sequence[OpaqueConfig], gates: Gates) -> tuple[Group[D], ...]:
    """The results by the config that applies to them, in the order of each group's first result.

    Configs come back with defaults filled in and validated. Results for administrators have groups of their own, with
    a built-in config.
    Raises ConfigError or MismatchError.
    """
    known = _decoded(configs)
    chosen = _chosen(members, [(requests, kind_of(config)) for config, requests in known])
    together: dict[tuple[int, bool], list[tuple[Result, D]]] = {}
    for member, index in zip(members, chosen, strict=True):
        together.setdefault((index, member[0].admin_access), []).append(member)
    return tuple(Group(_effective(known[index][0], gates), tuple(shared)) for (index, _), shared in together.items())


def _chosen(members: Sequence[tuple[Result, D]], configs: Sequence[tuple[Sequence[str], str]]) -> Sequence[int]:
    given = [(result.request, result.device, device_type(device)) for result, device in members]
    chosen = match(given, configs)
    if not any(result.admin_access for result, _ in members):
        return chosen
    if why := refused_config([asked(result, device) for result, device in members], configs[len(BUILT_IN) :]):
        raise ConfigError(why)
    built_in = match(given, configs[: len(BUILT_IN)])
    return [
        mine if result.admin_access else its for (result, _), its, mine in zip(members, chosen, built_in, strict=True)
    ]


def asked(result: Result, device: Device | None) -> Asked:
    """A result as the rules of administrative access see it; `device` is None where this node does not know it."""
    kind = device_type(device) if device is not None else ""
    if device is None and isinstance(parse_name(result.device), VfioName):
        kind = "vfio"
    return Asked(result.request, kind, result.admin_access, result.device)


def device_type(device: Device) -> str:
    """What the Go driver's texts call it."""
    match device:
        case Gpu():
            return "gpu"
        case MigDevice():
            return "mig"
        case MigSpec():
            return "migdyn"


def _decoded(configs: Sequence[OpaqueConfig]) -> list[tuple[Config, tuple[str, ...]]]:
    """This driver's configs, lowest precedence first: built in, then of classes, then of the claim."""
    for config in configs:
        if config.source not in _SOURCES:
            raise ConfigError(f"error getting opaque device configs: invalid config source: {config.source}")
    known = list(BUILT_IN)
    for source in _SOURCES:
        for config in configs:
            if config.source != source:
                continue
            if config.driver is None:
                raise ConfigError(
                    "error getting opaque device configs: only opaque parameters are supported by this driver"
                )
            if config.driver != DRIVER:
                continue
            try:
                known.append((decode(config.parameters), config.requests))
            except ConfigError as odd:
                raise ConfigError(
                    f"error getting opaque device configs: error decoding config parameters: {odd}"
                ) from None
    return known


def _effective(config: Config, gates: Gates) -> Config:
    config = normalize(config, gates)
    try:
        validate(config, gates)
    except ConfigError as odd:
        # "GPU" whatever the kind: the Go driver's text.
        raise ConfigError(f"error validating GPU config: {odd}") from None
    return config
