"""Which config applies to which allocation result.

Order is everything: class entries before claim entries, later before earlier, and what a user names explicitly
does not outrank a later entry for all requests. The driver's own defaults stand in front of all.
"""

from __future__ import annotations

from collections.abc import Sequence

from nvdra._core import match_configs

# What configures devices of this driver at all; which device types each fits is the native rule's.
_KINDS = frozenset(("GpuConfig", "MigDeviceConfig", "VfioDeviceConfig"))


class MismatchError(ValueError):
    """A config that names a request whose device it cannot configure; the text is the contract's."""


def match(results: Sequence[tuple[str, str, str]], configs: Sequence[tuple[Sequence[str], str]]) -> list[int]:
    """For each result the index of the config that applies to it.

    results   (request, device name, device type); a request may be "req/sub"
    configs   (requests, kind), lowest precedence first; no requests: every device the kind fits
    Raises MismatchError.
    """
    found = match_configs(results, configs)
    if isinstance(found, list):
        return found
    index, text = found
    if index is not None and configs[index][1] not in _KINDS:
        text = "runtime object is not a recognized configuration"
    raise MismatchError(text)
