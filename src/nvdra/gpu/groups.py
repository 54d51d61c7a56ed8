"""From opaque configs and results to groups: which devices share which config.

Texts of refusals are the Go driver's, without any prefix but their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache

from nvdra.api.claim import OpaqueConfig, Result
from nvdra.api.configs import (
    Config,
    ConfigError,
    GpuConfig,
    MigDeviceConfig,
    VfioDeviceConfig,
    decode,
    kind_of,
    normalize,
    validate,
)
from nvdra.api.gates import Gates
from nvdra.claims import ConfigRefused, Group
from nvdra.claims import NodeDevice as AnyDevice
from nvdra.gpu.admin import Asked, refused_config
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.matching import MismatchError, match
from nvdra.gpu.mig import MigDevice, MigSpec
from nvdra.gpu.names import VfioName, parse_name
from nvdra.gpu.vfio import VfioGpu

_SOURCES = ("FromClass", "FromClaim")

# Lowest precedence: what applies where users say nothing.
BUILT_IN: tuple[tuple[Config, tuple[str, ...]], ...] = (
    (GpuConfig(), ()),
    (MigDeviceConfig(), ()),
    (VfioDeviceConfig(), ()),
)
_BUILT_IN_KINDS = tuple((requests, kind_of(config)) for config, requests in BUILT_IN)


def groups(
    members: Sequence[tuple[Result, AnyDevice]], configs: Sequence[OpaqueConfig], gates: Gates
) -> tuple[Group, ...]:
    """The results by the config that applies to them, in the order of each group's first result.

    Configs come back with defaults filled in and validated. Results with admin access have groups of their own, with a
    built-in config.
    Raises ConfigRefused.
    """
    try:
        known = _decoded(configs)
        chosen = _chosen(members, [(requests, kind_of(config)) for config, requests in known])
        effective = {index: _effective(known[index][0], gates) for index in dict.fromkeys(chosen)}
    except (ConfigError, MismatchError) as odd:
        raise ConfigRefused(str(odd)) from None
    return _together(members, chosen, effective)


def config_for(request: str, device: str, kind: str, configs: Sequence[OpaqueConfig], gates: Gates) -> Config:
    """The config that applies to one device of a claim, with defaults filled in and validated.

    kind   "gpu" or "mig"
    Raises ConfigError.
    """
    known = _decoded(configs)
    try:
        (index,) = match([(request, device, kind)], [(requests, kind_of(config)) for config, requests in known])
    except MismatchError as odd:
        raise ConfigError(str(odd)) from None
    config = normalize(known[index][0], gates)
    try:
        validate(config, gates)
    except ConfigError as odd:
        raise ConfigError(f"error validating config: {odd}") from None
    return config


def regroup(
    members: Sequence[tuple[Result, AnyDevice]], configs: Sequence[OpaqueConfig], gates: Gates
) -> tuple[Group, ...]:
    """The same of results that were prepared before: nothing is refused, whatever gates are on now.

    A config that this release cannot read, or would not apply to these devices, leaves the built-in one.
    """
    known, kinds = _readable(tuple(configs))
    try:
        chosen = _matched(members, kinds)
    except MismatchError:
        chosen = _matched(members, _BUILT_IN_KINDS)
    return _together(members, chosen, {index: normalize(known[index], gates) for index in chosen})


# As many as `claims.allocation` keeps: a prepared claim is looked at whenever kubelet asks again, and every minute.
@lru_cache(maxsize=256)
def _readable(
    configs: tuple[OpaqueConfig, ...],
) -> tuple[tuple[Config, ...], tuple[tuple[tuple[str, ...], str], ...]]:
    """Configs that can be read, lowest precedence first, and each one's requests and kind."""
    known = list(BUILT_IN)
    for config in sorted((each for each in configs if each.source in _SOURCES), key=_precedence):
        with suppress(ConfigError):
            known.append((decode(config.parameters), config.requests))
    return tuple(config for config, _ in known), tuple((requests, kind_of(config)) for config, requests in known)


def _together(
    members: Sequence[tuple[Result, AnyDevice]], chosen: Sequence[int], configs: Mapping[int, Config]
) -> tuple[Group, ...]:
    """Groups of members with one config, those with admin access apart; `chosen` has each member's index of it."""
    together: dict[tuple[int, bool], list[tuple[Result, AnyDevice]]] = {}
    for member, index in zip(members, chosen, strict=True):
        together.setdefault((index, member[0].admin_access), []).append(member)
    return tuple(Group(configs[index], tuple(shared)) for (index, _), shared in together.items())


def _chosen(members: Sequence[tuple[Result, AnyDevice]], configs: Sequence[tuple[Sequence[str], str]]) -> Sequence[int]:
    chosen = _matched(members, configs)
    if any(result.admin_access for result, _ in members) and (
        why := refused_config([asked(result, device) for result, device in members], configs[len(BUILT_IN) :])
    ):
        raise ConfigError(why)
    return chosen


def _matched(
    members: Sequence[tuple[Result, AnyDevice]], configs: Sequence[tuple[Sequence[str], str]]
) -> Sequence[int]:
    """The index of the config that applies to each member; of a built-in one for admin access."""
    given = [(result.request, result.device, _device_type(device)) for result, device in members]
    chosen = match(given, configs)
    if not any(result.admin_access for result, _ in members):
        return chosen
    built_in = match(given, _BUILT_IN_KINDS)
    return [
        mine if result.admin_access else its for (result, _), its, mine in zip(members, chosen, built_in, strict=True)
    ]


def asked(result: Result, device: AnyDevice | None) -> Asked:
    """A result as the rules of admin access see it; `device` is None where this node does not know it."""
    kind = _device_type(device) if device is not None else ""
    if device is None and isinstance(parse_name(result.device), VfioName):
        kind = "vfio"
    return Asked(result.request, kind, result.admin_access, result.device)


def _device_type(device: AnyDevice) -> str:
    """The device's type in the Go driver's texts."""
    match device:
        case Gpu():
            return "gpu"
        case MigDevice():
            return "mig"
        case MigSpec():
            return "migdyn"
        case VfioGpu():
            return "vfio"
        case _:
            raise TypeError(f"{device!r} is no device of {DRIVER}")


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


def _precedence(config: OpaqueConfig) -> int:
    return _SOURCES.index(config.source)


def _effective(config: Config, gates: Gates) -> Config:
    config = normalize(config, gates)
    try:
        validate(config, gates)
    except ConfigError as odd:
        # "GPU" whatever the kind: the Go driver's text.
        raise ConfigError(f"error validating GPU config: {odd}") from None
    return config
