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
from nvdra.claims import ConfigRefused, Group
from nvdra.claims import Device as AnyDevice
from nvdra.gpu.extents import DRIVER
from nvdra.gpu.gpu import Gpu
from nvdra.gpu.matching import MismatchError, match
from nvdra.gpu.mig import MigDevice, MigSpec

_SOURCES = ("FromClass", "FromClaim")

# Lowest precedence: what applies where users say nothing.
BUILT_IN: tuple[tuple[Config, tuple[str, ...]], ...] = ((GpuConfig(), ()), (MigDeviceConfig(), ()))


def groups(
    members: Sequence[tuple[Result, AnyDevice]], configs: Sequence[OpaqueConfig], gates: Gates
) -> tuple[Group, ...]:
    """The results by the config that applies to them, in the order of each group's first result.

    Configs come back with defaults filled in and validated.
    Raises ConfigRefused.
    """
    try:
        return _groups(members, configs, gates)
    except (ConfigError, MismatchError) as odd:
        raise ConfigRefused(str(odd)) from None


def _groups(
    members: Sequence[tuple[Result, AnyDevice]], configs: Sequence[OpaqueConfig], gates: Gates
) -> tuple[Group, ...]:
    known = _decoded(configs)
    chosen = match(
        [(result.request, result.device, _device_type(device)) for result, device in members],
        [(requests, kind_of(config)) for config, requests in known],
    )
    together: dict[int, list[tuple[Result, AnyDevice]]] = {}
    for member, index in zip(members, chosen, strict=True):
        together.setdefault(index, []).append(member)
    return tuple(Group(_effective(known[index][0], gates), tuple(shared)) for index, shared in together.items())


def _device_type(device: AnyDevice) -> str:
    """The device's type in the Go driver's texts."""
    match device:
        case Gpu():
            return "gpu"
        case MigDevice():
            return "mig"
        case MigSpec():
            return "migdyn"
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


def _effective(config: Config, gates: Gates) -> Config:
    config = normalize(config, gates)
    try:
        validate(config, gates)
    except ConfigError as odd:
        # "GPU" whatever the kind: the Go driver's text.
        raise ConfigError(f"error validating GPU config: {odd}") from None
    return config
