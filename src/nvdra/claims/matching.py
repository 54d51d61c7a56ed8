"""Which config applies to which allocation result.

Order is everything: class entries before claim entries, later before earlier, and what a user names explicitly
does not outrank a later entry for all requests. The driver's own defaults stand in front of all.
"""

from __future__ import annotations

from collections.abc import Sequence

# Config kind to the device types it fits.
_FITS = {
    "GpuConfig": ("gpu",),
    "MigDeviceConfig": ("mig", "migdyn"),
    "VfioDeviceConfig": ("vfio",),
}


class MismatchError(ValueError):
    """A config that names a request whose device it cannot configure; the text is the contract's."""


def match(results: Sequence[tuple[str, str, str]], configs: Sequence[tuple[str, tuple[str, ...]]]) -> list[int]:
    """For each result the index of the config that applies to it, -1 for none.

    results   (request, device name, device type); a request may be "req/sub"
    configs   (kind, requests), lowest precedence first; no requests: every device the kind fits
    Raises MismatchError.
    """
    return [_config_of(result, configs) for result in results]


def _config_of(result: tuple[str, str, str], configs: Sequence[tuple[str, tuple[str, ...]]]) -> int:
    request, device, kind_of_device = result
    base = request.partition("/")[0]
    for index in range(len(configs) - 1, -1, -1):
        kind, requests = configs[index]
        fits = _FITS.get(kind)
        if not requests:
            if fits is not None and kind_of_device in fits:
                return index
        # DROP-IN: better. A config for "req" counts for "req/sub" too, as the API says; the Go driver ignores it.
        elif request in requests or base in requests:
            if fits is not None and kind_of_device not in fits:
                raise MismatchError(
                    f'cannot apply {kind} to device "{device}" of type "{kind_of_device}" (request: {request})'
                )
            return index
    return -1
