"""Daemon pods, as membership sees them: one pod owns a node's place in a domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nvdra.api.compute_domain import CLIQUE_LABEL, DOMAIN_LABEL, Owner
from nvdra.api.objects import Meta, mapping, meta_of, objects, text


@dataclass(frozen=True, slots=True)
class DaemonPod:
    """A daemon's pod.

    clique      its label: "" without fabric, None before the daemon has said it
    is_leaving  it is being deleted; until it is gone its entry is its own to remove
    """

    meta: Meta
    node: str = ""
    ip: str = ""
    clique: str | None = None
    is_ready: bool = False

    @property
    def domain(self) -> str:
        """The UID of its ComputeDomain."""
        return self.meta.labels.get(DOMAIN_LABEL, "")

    @property
    def is_leaving(self) -> bool:
        return self.meta.is_deleting

    @property
    def owner(self) -> Owner:
        return Owner(self.meta.name, self.meta.uid)


def daemon_pod(thing: Mapping[str, Any]) -> DaemonPod:
    """A daemon's pod from its decoded JSON. A pod that has ended keeps no place: it has no node."""
    meta, status = meta_of(thing), mapping(thing, "status")
    phase = text(status, "phase")
    ready = any(
        text(each, "type") == "Ready" and text(each, "status") == "True" for each in objects(status, "conditions")
    )
    has_ended = phase in ("Succeeded", "Failed")
    return DaemonPod(
        meta,
        "" if has_ended else text(mapping(thing, "spec"), "nodeName"),
        text(status, "podIP"),
        meta.labels.get(CLIQUE_LABEL),
        ready and phase == "Running",
    )


def by_node(pods: Iterable[DaemonPod]) -> dict[str, DaemonPod]:
    """The pod that owns each node's place: one that stays before one that leaves, then the newest."""
    found: dict[str, DaemonPod] = {}
    for pod in pods:
        if pod.node and (pod.node not in found or _rank(pod) > _rank(found[pod.node])):
            found[pod.node] = pod
    return found


def _rank(pod: DaemonPod) -> tuple[bool, str, str]:
    return not pod.is_leaving, pod.meta.created, pod.meta.uid
