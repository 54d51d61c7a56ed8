"""Whether a node is ready in a domain, and if not, why: from the objects that the daemons and the controller write."""

from __future__ import annotations

from collections.abc import Iterable

from nvdra.api.compute_domain import READY, Clique, ComputeDomain
from nvdra.domains.pods import DaemonPod, by_node

# DROP-IN: the Go driver's.
NOT_YET = "error asserting ComputeDomain Ready: current node not ready in ComputeDomain"


def not_ready(
    node: str, domain: ComputeDomain, clique: Clique | None, pods: Iterable[DaemonPod], clique_id: str
) -> str:
    """Why the node is not ready in the domain; "" if it is.

    clique      the object of the node's clique; None if there is none, or the gate ComputeDomainCliques is off
    pods        the domain's daemon pods on this node, as far as they may be looked at
    clique_id   the node's
    """
    members = domain.nodes if clique is None else clique.daemons
    member = next((each for each in members if each.node == node), None)
    owner = by_node(pods).get(node)
    if member is None:
        where = f"{domain.meta}" if clique is None else f"clique {clique.meta.name}"
        return f"its daemon has not joined {where} yet{_pod(owner)}"
    if owner is not None and owner.ip and member.ip and owner.ip != member.ip:
        # The entry is of a daemon that ended without removing it.
        return f"its daemon pod {owner.meta.name} has replaced another one and has not joined yet"
    if member.clique != clique_id and clique is None:
        return f"its daemon joined clique {member.clique!r}, and the node is in {clique_id!r} now"
    if member.status != READY:
        return f"its daemon is not ready{_pod(owner)}"
    return ""


def _pod(pod: DaemonPod | None) -> str:
    return "" if pod is None else f" (pod {pod.meta.namespace}/{pod.meta.name})"
