"""Opaque configs: the kinds users write into claims and classes, decoded strictly, defaulted and validated.

The error texts appear in pod events and are part of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, assert_never

from nvdra.api import strict
from nvdra.api.gates import MPS_SUPPORT, TIME_SLICING_SETTINGS, Gates
from nvdra.api.quantity import Quantity

GROUP_VERSION = "resource.nvidia.com/v1beta1"

# How "no kind … is registered" names its table of kinds.
_SCHEME = "nvdra/api/configs"

TIME_SLICING = "TimeSlicing"
MPS = "MPS"
_STRATEGY_GATES = MappingProxyType({TIME_SLICING: TIME_SLICING_SETTINGS, MPS: MPS_SUPPORT})

INTERVALS = MappingProxyType({"Default": 0, "Short": 1, "Medium": 2, "Long": 3})

LEGACY_ONLY = "LegacyOnly"
PREFER_IOMMU_FD = "PreferIommuFD"
_POLICIES = (LEGACY_ONLY, PREFER_IOMMU_FD)


class ConfigError(ValueError):
    """The parameters are invalid. The text is part of the contract."""


@dataclass(frozen=True, slots=True)
class TimeSlicingConfig:
    """`interval` is None where the user gave none."""

    interval: str | None = None


@dataclass(frozen=True, slots=True)
class MpsConfig:
    """Limits of an MPS daemon; None where the user gave none. `per_device_limits` sorted by key (UUID or index)."""

    active_thread_percentage: int | None = None
    pinned_memory_limit: Quantity | None = None
    per_device_limits: tuple[tuple[str, Quantity], ...] = ()
    multi_user: bool | None = None


@dataclass(frozen=True, slots=True)
class GpuSharing:
    strategy: str = ""
    time_slicing: TimeSlicingConfig | None = None
    mps: MpsConfig | None = None


@dataclass(frozen=True, slots=True)
class MigSharing:
    strategy: str = ""
    mps: MpsConfig | None = None


@dataclass(frozen=True, slots=True)
class Iommu:
    backend_policy: str = ""
    enable_api_device: bool | None = None


@dataclass(frozen=True, slots=True)
class GpuConfig:
    sharing: GpuSharing | None = None


@dataclass(frozen=True, slots=True)
class MigDeviceConfig:
    sharing: MigSharing | None = None


@dataclass(frozen=True, slots=True)
class VfioDeviceConfig:
    iommu: Iommu | None = None


@dataclass(frozen=True, slots=True)
class ComputeDomainChannelConfig:
    domain_id: str = ""
    allocation_mode: str = ""


@dataclass(frozen=True, slots=True)
class ComputeDomainDaemonConfig:
    domain_id: str = ""


@dataclass(frozen=True, slots=True)
class NoConfig:
    """A kind of our group that configures no device (ComputeDomain, ComputeDomainClique)."""

    kind: str


Config = (
    GpuConfig | MigDeviceConfig | VfioDeviceConfig | ComputeDomainChannelConfig | ComputeDomainDaemonConfig | NoConfig
)


def kind_of(config: Config) -> str:
    """The kind as users write it."""
    return config.kind if isinstance(config, NoConfig) else type(config).__name__


_TYPE_META: strict.Struct = {"apiVersion": "string", "kind": "string"}
_MPS: strict.Struct = {
    "defaultActiveThreadPercentage": "int",
    "defaultPinnedDeviceMemoryLimit": "quantity",
    "defaultPerDevicePinnedMemoryLimit": strict.MapOf("quantity"),
    "multiUser": "bool",
}
_SHAPES: Mapping[str, strict.Struct] = {
    "GpuConfig": {
        **_TYPE_META,
        "sharing": {"strategy": "string", "timeSlicingConfig": {"interval": "string"}, "mpsConfig": _MPS},
    },
    "MigDeviceConfig": {**_TYPE_META, "sharing": {"strategy": "string", "mpsConfig": _MPS}},
    "VfioDeviceConfig": {**_TYPE_META, "iommu": {"backendPolicy": "string", "enableAPIDevice": "bool"}},
    "ComputeDomainChannelConfig": {**_TYPE_META, "domainID": "string", "allocationMode": "string"},
    "ComputeDomainDaemonConfig": {**_TYPE_META, "domainID": "string"},
}
_READERS = {kind: strict.reader(shape) for kind, shape in _SHAPES.items()}
_NO_CONFIGS = frozenset(("ComputeDomain", "ComputeDomainClique"))


@lru_cache(maxsize=256)
def decode(parameters: bytes) -> Config:
    """The config in opaque parameters, decoded strictly: JSON, exact keys, no unknown and no duplicate fields.

    Raises ConfigError.
    """
    try:
        value = strict.parse(parameters)
        kind, group_version = strict.top_text(value, "kind"), strict.top_text(value, "apiVersion")
    except strict.DecodeError as odd:
        raise ConfigError(f"couldn't get version/kind; json parse error: {odd}") from None
    for name, found in (("Kind", kind), ("apiVersion", group_version)):
        if not found:
            raise ConfigError(f"Object '{name}' is missing in '{parameters.decode(errors='replace')}'")
    if group_version == GROUP_VERSION and kind in _NO_CONFIGS:
        return NoConfig(kind)
    if group_version != GROUP_VERSION or kind not in _READERS:
        raise ConfigError(f'no kind "{kind}" is registered for version "{group_version}" in scheme "{_SCHEME}"')
    try:
        return _config(kind, strict.read(_READERS[kind], value))
    except strict.DecodeError as odd:
        raise ConfigError(str(odd)) from None


def _config(kind: str, fields: Mapping[str, Any]) -> Config:
    match kind:
        case "GpuConfig":
            sharing = fields.get("sharing")
            return GpuConfig(None if sharing is None else _gpu_sharing(sharing))
        case "MigDeviceConfig":
            sharing = fields.get("sharing")
            return MigDeviceConfig(
                None if sharing is None else MigSharing(sharing.get("strategy", ""), _mps(sharing.get("mpsConfig")))
            )
        case "VfioDeviceConfig":
            iommu = fields.get("iommu")
            return VfioDeviceConfig(
                None if iommu is None else Iommu(iommu.get("backendPolicy", ""), iommu.get("enableAPIDevice"))
            )
        case "ComputeDomainChannelConfig":
            return ComputeDomainChannelConfig(fields.get("domainID", ""), fields.get("allocationMode", ""))
    return ComputeDomainDaemonConfig(fields.get("domainID", ""))


def _gpu_sharing(fields: Mapping[str, Any]) -> GpuSharing:
    slicing = fields.get("timeSlicingConfig")
    return GpuSharing(
        strategy=fields.get("strategy", ""),
        time_slicing=None if slicing is None else TimeSlicingConfig(slicing.get("interval")),
        mps=_mps(fields.get("mpsConfig")),
    )


def _mps(fields: Mapping[str, Any] | None) -> MpsConfig | None:
    if fields is None:
        return None
    return MpsConfig(
        active_thread_percentage=fields.get("defaultActiveThreadPercentage"),
        pinned_memory_limit=fields.get("defaultPinnedDeviceMemoryLimit"),
        per_device_limits=tuple(sorted(fields.get("defaultPerDevicePinnedMemoryLimit", {}).items())),
        multi_user=fields.get("multiUser"),
    )


def normalize(config: Config, gates: Gates) -> Config:
    """The config with its defaults filled in. Nothing is defaulted for a strategy whose gate is off."""
    match config:
        case GpuConfig(sharing=GpuSharing() as sharing):
            if sharing.strategy == TIME_SLICING and gates.enabled(TIME_SLICING_SETTINGS):
                # DROP-IN: better. `timeSlicingConfig: {}` ends the Go driver's process; here it is the default.
                asked = sharing.time_slicing or TimeSlicingConfig()
                interval = "Default" if asked.interval is None else asked.interval
                sharing = replace(sharing, time_slicing=TimeSlicingConfig(interval))
            if sharing.strategy == MPS and gates.enabled(MPS_SUPPORT) and sharing.mps is None:
                sharing = replace(sharing, mps=MpsConfig())
            return GpuConfig(sharing)
        case MigDeviceConfig(sharing=MigSharing(strategy="MPS", mps=None) as sharing) if gates.enabled(MPS_SUPPORT):
            return MigDeviceConfig(replace(sharing, mps=MpsConfig()))
        case VfioDeviceConfig(iommu=iommu):
            iommu = iommu or Iommu()
            return VfioDeviceConfig(Iommu(iommu.backend_policy or LEGACY_ONLY, bool(iommu.enable_api_device)))
    return config


def validate(config: Config, gates: Gates) -> None:
    """Refuse invalid values, and values whose gate is off. Raises ConfigError."""
    match config:
        case GpuConfig(sharing=sharing) | MigDeviceConfig(sharing=sharing):
            if sharing is not None:
                _validate_sharing(sharing, gates)
        case VfioDeviceConfig(iommu=iommu):
            if iommu is not None and iommu.backend_policy not in _POLICIES:
                raise ConfigError(
                    f"unknown IOMMU backend policy: {iommu.backend_policy}, "
                    f"supported IOMMU backend policies: {', '.join(_POLICIES)}"
                )
        case ComputeDomainChannelConfig(domain_id=domain_id) | ComputeDomainDaemonConfig(domain_id=domain_id):
            if not domain_id:
                raise ConfigError("domainID cannot be empty")
        case NoConfig():
            pass
        case _:
            assert_never(config)


def _validate_sharing(sharing: GpuSharing | MigSharing, gates: Gates) -> None:
    gate = _STRATEGY_GATES.get(sharing.strategy)
    if gate is None:
        raise ConfigError(
            f"unknown GPU sharing strategy: {sharing.strategy}, "
            f"supported GPU sharing strategies: {', '.join(_STRATEGY_GATES)}"
        )
    if not gates.enabled(gate):
        raise ConfigError(
            f'"{sharing.strategy}" is selected as the GPU sharing strategy, '
            f'but the "{gate}" feature gate is not enabled'
        )
    if sharing.strategy == MPS:
        if sharing.mps is not None:
            _validate_mps(sharing.mps)
    elif isinstance(sharing, GpuSharing) and sharing.time_slicing is not None:
        interval = sharing.time_slicing.interval or ""
        if interval not in INTERVALS:
            raise ConfigError(
                f"unknown time-slice interval: {interval}, supported time-slice intervals: {', '.join(INTERVALS)}"
            )


def check_strategy(config: Config) -> None:
    """Refuse a validated config that has settings of the strategy it did not choose. Raises ConfigError.

    Not a part of `validate`: the Go driver finds this only when it applies the config, and words it so.
    """
    match config:
        case GpuConfig(sharing=GpuSharing(strategy="TimeSlicing", mps=MpsConfig())):
            raise ConfigError("cannot use MpsConfig with the 'TimeSlicing' strategy")
        case GpuConfig(sharing=GpuSharing(strategy="MPS", time_slicing=TimeSlicingConfig())):
            raise ConfigError("cannot use TimeSlicingConfig with the 'MPS' strategy")


def _validate_mps(mps: MpsConfig) -> None:
    percentage = mps.active_thread_percentage
    if percentage is None:
        return
    if percentage < 0:
        raise ConfigError("active thread percentage must not be negative")
    if percentage > 100:
        raise ConfigError("active thread percentage must not be greater than 100")
