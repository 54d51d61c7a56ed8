"""Rules for requests with `adminAccess: true`: they give access to devices in use and never change them."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def takes_no_config(request: str, kind: str) -> str:
    """The text that refuses a config of this kind for a request with admin access, at admission and on the node."""
    return (
        f"request {request} has adminAccess: true, which never changes a GPU, so {kind} cannot be applied to it: "
        "let the requests of that config name only requests without adminAccess"
    )


def config_refusal(requests: Iterable[str], admin_requests: Collection[str], kind: str) -> str | None:
    """Why a config of this driver cannot apply to these requests; None if it can.

    requests         named by the config; a config without requests applies to the claim's other requests
    admin_requests   names of the claim's requests with `adminAccess: true`
    kind             of the config
    """
    for request in requests:
        if request.partition("/")[0] in admin_requests:
            return takes_no_config(request, kind)
    return None
