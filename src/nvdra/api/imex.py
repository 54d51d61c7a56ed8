"""How IMEX daemons are managed: modes and isolation, and which of them may be asked for. Texts are the Go driver's."""

from __future__ import annotations

from nvdra.api.gates import HOST_MANAGED_IMEX_DAEMON, Gates

DRIVER_MANAGED = "driverManaged"
HOST_MANAGED = "hostManaged"
DOMAIN_ISOLATION = "domain"


class ImexError(ValueError):
    """Settings of IMEX that cannot be used; the text is for people."""


def check_imex(mode: str, isolation: str, gates: Gates) -> None:
    """Raises ImexError unless the mode and the isolation can be used together with the gates."""
    text = _fault(mode, isolation, gates)
    if text:
        raise ImexError(f"imex configuration validation failed: {text}")


def _fault(mode: str, isolation: str, gates: Gates) -> str:
    if mode not in (DRIVER_MANAGED, HOST_MANAGED):
        return f'unknown imex.mode "{mode}"'
    if mode == HOST_MANAGED and not gates.enabled(HOST_MANAGED_IMEX_DAEMON):
        return f'imex.mode="{mode}" requires the HostManagedIMEXDaemon feature gate to be enabled'
    if isolation == "channel":
        return 'imex.isolation="channel" is not supported yet: per-workload IMEX channel allocation is not implemented'
    if isolation not in ("", DOMAIN_ISOLATION):
        return f'unknown imex.isolation "{isolation}": must be "domain" or "channel"'
    return ""
