"""What a request with `adminAccess: true` may ask for: it looks at devices that others use, and changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def config_refusal(requests: Iterable[str], admin_requests: Collection[str]) -> str | None:
    """Why a config of this driver for these requests cannot be honoured; None if it can.

    requests         that the config names; a config that names none is meant for the claim's other requests
    admin_requests   names of the claim's requests with `adminAccess: true`
    """
    named = sorted({request for request in requests if request.partition("/")[0] in admin_requests})
    if not named:
        return None
    names = ", ".join(f'"{each}"' for each in named)
    return (
        f"request {names} has adminAccess: true, which changes nothing on a device and so takes no config of this "
        "driver: take the request out of the config's list of requests"
    )
