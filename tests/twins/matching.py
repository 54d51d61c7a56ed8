"""Config matching in Python: the oracle of the native form, and what its speed is measured against."""

from __future__ import annotations

from collections.abc import Sequence

# Config kind to the device types it fits.
_FITS = {
    "GpuConfig": ("gpu",),
    "MigDeviceConfig": ("mig", "migdyn"),
    "VfioDeviceConfig": ("vfio",),
}


def match_configs(
    results: Sequence[tuple[str, str, str]], configs: Sequence[tuple[Sequence[str], str]]
) -> list[int] | tuple[int | None, str]:
    """For each result the index of its config, or the config that was named for the first without and why."""
    chosen: list[int] = []
    for result in results:
        found = _config_of(*result, configs)
        if isinstance(found, tuple):
            return found
        chosen.append(found)
    return chosen


def _config_of(
    request: str, device: str, device_kind: str, configs: Sequence[tuple[Sequence[str], str]]
) -> int | tuple[int | None, str]:
    main, slash, _ = request.partition("/")
    for index in range(len(configs) - 1, -1, -1):
        requests, kind = configs[index]
        fits = device_kind in _FITS.get(kind, ())
        if request in requests:
            if fits:
                return index
            return index, f'cannot apply {kind} to device "{device}" of type "{device_kind}" (request: {request})'
        # DROP-IN: better. A config for "req" counts for "req/sub" too, as the API says; the Go driver ignores it.
        # Subrequests may be of different device types: one that it does not fit was not meant.
        if fits and (not requests or (slash and main in requests)):
            return index
    return None, f'no config applies to device "{device}" of type "{device_kind}" (request: {request})'
