"""The files that the IMEX daemon of a domain reads: its configuration, the list of nodes, the hosts file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nvdra.api.compute_domain import Member

CONFIG = "imexd.cfg"
TEMPLATE = f"{CONFIG}.tmpl"
NODES = "nodes.cfg"
FOLDER = "/imexd"

_COMMAND_ADDRESS = "{{ .IMEXCmdBindInterfaceIP }}"
_NODES_FILE = "{{ .IMEXDaemonNodesConfigPath }}"

# DROP-IN: keys, values and order are the Go driver's.
_SETTINGS: Mapping[str, str] = {
    "LOG_LEVEL": "4",
    "LOG_FILE_NAME": "",
    "STATS_FILE_NAME": "/var/log/nvidia-imex-stats.log",
    "LOG_APPEND_TO_LOG": "0",
    "LOG_FILE_MAX_SIZE": "1024",
    "LOG_MAX_ROTATE_COUNT": "10",
    "LOG_USE_SYSLOG": "0",
    "DAEMONIZE": "0",
    "BIND_INTERFACE_IP": "",
    "SERVER_PORT": "50000",
    "IMEX_NODE_CONFIG_FILE": _NODES_FILE,
    "NETWORK_INTERFACE": "",
    "IMEX_WAIT_FOR_QUORUM": "RECOVERY",
    "IMEX_ENABLE_AUTH_ENCRYPTION": "0",
    "IMEX_AUTH_ENCRYPTION_MODE": "SSL_TLS",
    "IMEX_AUTH_SOURCE": "",
    "IMEX_SERVER_KEY": "",
    "IMEX_SERVER_CERT": "",
    "IMEX_SERVER_CERT_AUTH": "",
    "IMEX_CLIENT_KEY": "",
    "IMEX_CLIENT_CERT": "",
    "IMEX_CLIENT_CERT_AUTH": "",
    "IMEX_SECURITY_TARGET_OVERRIDE": "",
    "IMEX_GSS_SERVICE_NAME": "host",
    "IMEX_GSS_TIMEOUT_SEC": "30",
    "IMEX_GSS_RETRY_INTERVAL_SEC": "5",
    "IMEX_GSS_SEC_CONTEXT_LIFETIME_SEC": "-1",
    "IMEX_GSS_SHUTDOWN_ON_FAILURE": "0",
    "IMEX_CMD_ENABLED": "1",
    "IMEX_CMD_BIND_INTERFACE_IP": _COMMAND_ADDRESS,
    "IMEX_CMD_PORT": "50005",
    "IMEX_CMD_UNIX_DOMAIN_PATH": "",
    "IMEX_NODE_DISCONNECTED_GRACE_TIME": "-1",
}
_FIXED = frozenset(
    (
        "DAEMONIZE",
        "SERVER_PORT",
        "IMEX_NODE_CONFIG_FILE",
        "IMEX_CMD_ENABLED",
        "IMEX_CMD_BIND_INTERFACE_IP",
        "IMEX_CMD_PORT",
        "IMEX_CMD_UNIX_DOMAIN_PATH",
    )
)

DAEMON_NAME = "compute-domain-daemon-"
_COMMENT = "# Compute Domain Daemon mappings"


def settings(text: str) -> Mapping[str, str]:
    """The IMEX settings in `KEY=value,KEY=value`. Raises ValueError for an unknown one, or one that daemons rely on."""
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = item.partition("=")
        if not equals or "\n" in value:
            raise ValueError(f'"{item}" is not KEY=value')
        if key not in _SETTINGS or key in _FIXED:
            free = ", ".join(name for name in _SETTINGS if name not in _FIXED)
            raise ValueError(f'IMEX setting "{key}" cannot be set; these can: {free}')
        found[key] = value
    return found


def template(changed: Mapping[str, str]) -> str:
    """The configuration's template, with some settings changed. The daemon fills the two places in it."""
    lines = [f"{key}={changed.get(key, value)}" for key, value in _SETTINGS.items()]
    return "\n".join(("# IMEX of a ComputeDomain; the daemon fills in what stands in braces.", *lines, ""))


def config(template: str, pod_ip: str, folder: str) -> str:
    """The configuration, from a template of this driver or of the Go driver."""
    return template.replace(_COMMAND_ADDRESS, pod_ip).replace(_NODES_FILE, f"{folder}/{NODES}")


def dns_name(index: int) -> str:
    return f"{DAEMON_NAME}{index:04d}"


def named_nodes(limit: int) -> str:
    """The node list of DNS mode: a name for every index. It never changes."""
    return "".join(f"{dns_name(index)}\n" for index in range(limit))


def listed_nodes(members: Iterable[Member]) -> str:
    """The node list of IP mode, in the order of indices."""
    return "".join(f"{member.ip}\n" for member in sorted(members, key=lambda each: (each.index, each.ip)))


def hosts(present: str, members: Iterable[Member]) -> str:
    """The hosts file with the members' names, in the order of indices; lines of others stay as they are.

    Repeated updates with the same members give the same text.
    """
    kept = [line.rstrip() for line in present.splitlines() if DAEMON_NAME not in line and line.strip() != _COMMENT]
    while kept and not kept[-1]:
        kept.pop()
    named = [
        f"{member.ip}\t{dns_name(member.index)}" for member in sorted(members, key=lambda each: each.index) if member.ip
    ]
    return "\n".join((*kept, *((_COMMENT, *named) if named else ()), ""))
