"""Who a daemon is: what its container was told by CDI and by its DaemonSet."""

from __future__ import annotations

from dataclasses import dataclass


class DaemonFailed(Exception):
    """The daemon cannot go on.

    status   exit status: 2 the API server refused, 3 a file cannot be written, 4 IMEX cannot be started
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """One daemon.

    domain, name, namespace   UID, name and namespace of its ComputeDomain
    clique                    the node's clique id
    limit                     most nodes of an IMEX domain
    """

    domain: str
    name: str
    namespace: str
    clique: str
    node: str
    ip: str
    pod_uid: str
    pod_name: str
    pod_namespace: str
    limit: int
