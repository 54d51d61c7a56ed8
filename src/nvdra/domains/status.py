"""The status of a ComputeDomain: its nodes, whether it is Ready, and the reason in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nvdra.api.compute_domain import NO_INDEX, NOT_READY, READY, Clique, Member
from nvdra.domains.pods import DaemonPod, by_node

_NAMED = 5  # nodes that a message names
_HOW = "a node joins with its first workload pod"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a domain is Ready.

    reason    one word, for conditions and Events
    message   for people
    """

    status: str
    reason: str
    message: str


def members_of_cliques(cliques: Iterable[Clique], pods: Iterable[DaemonPod]) -> tuple[Member, ...]:
    """One entry for each node of the domain's cliques. Of a node in two of them, the entry that its pod is in."""
    owners = by_node(pods)
    found: dict[str, Member] = {}
    for clique in sorted(cliques, key=lambda each: each.id):
        for member in clique.daemons:
            pod = owners.get(member.node)
            is_own = pod is not None and pod.clique == clique.id
            if member.node not in found or is_own:
                found[member.node] = member
    return tuple(found.values())


def without_fabric(pods: Iterable[DaemonPod]) -> tuple[Member, ...]:
    """Entries of nodes without fabric, which are in no clique."""
    return tuple(
        Member(pod.node, pod.ip, "", NO_INDEX, READY if pod.is_ready else NOT_READY)
        for pod in by_node(pods).values()
        if pod.clique == "" and pod.ip
    )


def nodes(fabric: Iterable[Member], pods: Iterable[DaemonPod]) -> tuple[Member, ...]:
    """`status.nodes`: members of cliques and nodes without fabric, each node once, in a stable order."""
    found = {member.node: member for member in fabric if member.clique}
    for member in without_fabric(pods):
        found.setdefault(member.node, member)
    return tuple(
        sorted(found.values(), key=lambda member: (member.clique == "", member.clique, member.index, member.node))
    )


def verdict(num_nodes: int, found: Sequence[Member], *, is_host_managed: bool = False) -> Verdict:
    """The domain's status by the Go driver's rule: as many nodes as asked for, and none that is not Ready."""
    if is_host_managed:
        return Verdict(READY, "HostManaged", "IMEX runs as a service of the hosts; the driver does not watch it")
    waiting = [member.node for member in found if not member.is_ready]
    if waiting:
        count = f"{len(found) - len(waiting)} of {len(found)} nodes are Ready"
        return Verdict(NOT_READY, "NodesNotReady", f"{count}; not Ready: {_named(waiting)}")
    if len(found) < num_nodes:
        text = (
            f"{len(found)} of {num_nodes} nodes (spec.numNodes) have joined; a node joins with its first workload pod"
        )
        return Verdict(NOT_READY, "WaitingForNodes", text)
    if not found:
        return Verdict(READY, "NoNodes", "no node has joined; a node joins with its first workload pod")
    return Verdict(READY, "AllNodesReady", f"all {len(found)} nodes are Ready")


def _place(member: Member) -> tuple[bool, str, int, str]:
    return member.clique == "", member.clique, member.index, member.node


def _named(names: Sequence[str]) -> str:
    shown = sorted(names)[:_NAMED]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
