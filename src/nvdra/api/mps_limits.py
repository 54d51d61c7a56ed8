"""Memory limits of MPS daemons: what a text of a config means, before any device is known and after.

The texts are the Go driver's.
"""

from __future__ import annotations

import re

from nvdra.api.configs import Config, ConfigError, GpuConfig, MigDeviceConfig
from nvdra.api.quantity import Quantity

_MI = 2**20
_MOST = 2**63 // _MI
_INDEX = re.compile(r"[+-]?[0-9]+", re.ASCII)
_UUID = re.compile(r"(GPU|MIG)-", re.ASCII)


def limit(quantity: Quantity) -> str:
    """A limit as the daemon takes it, "1024M"; "" if it is less than that of one mebibyte."""
    mebibytes = min(quantity.whole() // _MI, _MOST)
    return f"{mebibytes}M" if mebibytes > 0 else ""


def index(key: str) -> int:
    """The index that a device's key stands for. Raises ConfigError."""
    if not _INDEX.fullmatch(key):
        raise ConfigError(f"invalid device: unable to parse key as an integer: {key}")
    return int(key)


def default_limit(quantity: Quantity) -> str:
    """The limit of every device. Raises ConfigError."""
    if not (text := limit(quantity)):
        raise ConfigError(f"invalid limit: default value set too low: {quantity}")
    return text


def device_limit(key: str, quantity: Quantity) -> str:
    """The limit of one device. Raises ConfigError."""
    if not (text := limit(quantity)):
        raise ConfigError(f"invalid limit: value set too low: {key}: {quantity}")
    return text


def check_limits(config: Config) -> None:
    """Refuse limits that mean nothing, whatever devices the claim is allocated. Raises ConfigError."""
    sharing = config.sharing if isinstance(config, GpuConfig | MigDeviceConfig) else None
    if sharing is None or sharing.mps is None:
        return
    if sharing.mps.pinned_memory_limit is not None:
        default_limit(sharing.mps.pinned_memory_limit)
    for key, quantity in sharing.mps.per_device_limits:
        if not _UUID.match(key) and index(key) < 0:
            raise ConfigError(f"invalid device: invalid device index: {key}")
        device_limit(key, quantity)
