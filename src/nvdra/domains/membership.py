"""Who is a member of a clique, with which index: one function for the controller, three for a daemon on its own.

Rules: (clique, index) is unique. An index never changes while its node's daemon lives. An entry that is Ready describes
the daemon pod that owns the node now. All functions are pure; whoever writes their result does so on the
resourceVersion that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from nvdra.api.compute_domain import NOT_READY, READY, Member
from nvdra.domains.pods import DaemonPod, by_node


class CliqueFull(Exception):
    """No index is free; the text is the Go driver's."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"no available indices within maxNodesPerIMEXDomain ({limit})")


@dataclass(frozen=True, slots=True)
class Settled:
    """The members that a clique should have.

    missing     nodes whose entry has no pod
    doubted     nodes whose entry is dropped or described anew: to be decided on pods that were listed after the clique
                was read, because a cache of pods may lag behind it
    left_out    nodes for which no index is free
    """

    members: tuple[Member, ...]
    missing: frozenset[str] = frozenset()
    doubted: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()


def settle(
    members: Sequence[Member],
    pods: Iterable[DaemonPod],
    clique: str,
    limit: int,
    *,
    spared: Set[str] = frozenset(),
    before: Sequence[Member] = (),
) -> Settled:
    """The members of one clique, from its present ones and all daemon pods of the domain.

    limit    indices are 0 to limit-1
    spared   nodes whose entry stays, not Ready, although its pod is gone: the next pod there gets the same index
    before   members as they were last seen, for a clique that was deleted: a daemon that lives keeps its index
    """
    owners = by_node(pods)
    missing: set[str] = set()
    doubted: set[str] = set()
    kept: dict[str, Member] = {}
    for member in members:
        pod = owners.get(member.node)
        if pod is None:
            missing.add(member.node)
            found = replace(member, status=NOT_READY) if member.node in spared else None
        else:
            found = _followed(member, pod, clique)
        if found is None or member.node in kept:
            doubted.add(member.node)
            continue
        if (found.ip, found.clique) != (member.ip, member.clique):
            doubted.add(member.node)
        kept[member.node] = found
    new = [pod for node, pod in owners.items() if node not in kept and _may_join(pod, clique)]
    unique = _unique(kept.values(), limit)
    joined, left_out = _join(unique, sorted(new, key=_age), clique, limit, before)
    return Settled(joined, frozenset(missing), frozenset(doubted), left_out)


def join(members: Sequence[Member], node: str, ip: str, clique: str, limit: int) -> tuple[Member, ...]:
    """The members with a daemon that inserts itself. Its node's entry is used again, else the lowest free index.

    The same members if it is there already. Raises CliqueFull.
    """
    others = [member for member in members if member.node != node]
    taken = {member.index for member in others if member.clique == clique}
    for at, member in enumerate(members):
        if (member.node, member.clique) == (node, clique) and member.index not in taken:
            if member.ip == ip:
                return tuple(members)
            return (*members[:at], replace(member, ip=ip, status=NOT_READY), *members[at + 1 :])
    index = _lowest(taken, limit)
    if index is None:
        raise CliqueFull(limit)
    return (*others, Member(node, ip, clique, index, NOT_READY))


def leave(members: Sequence[Member], node: str, ip: str) -> tuple[Member, ...]:
    """The members without a daemon that ends. The entry of another daemon on its node stays."""
    return tuple(member for member in members if (member.node, member.ip) != (node, ip))


def with_status(members: Sequence[Member], node: str, ip: str, is_ready: bool) -> tuple[Member, ...]:
    """The members with a daemon's status."""
    status = READY if is_ready else NOT_READY
    return tuple(
        replace(member, status=status) if (member.node, member.ip) == (node, ip) else member for member in members
    )


def _followed(member: Member, pod: DaemonPod, clique: str) -> Member | None:
    """The entry as its node's pod makes it; None if the pod is in another clique."""
    if pod.clique is not None and pod.clique != clique:
        return None
    if pod.ip == member.ip:
        return replace(member, status=READY if pod.is_ready else NOT_READY, clique=clique)
    if _may_join(pod, clique):
        return replace(member, ip=pod.ip, clique=clique, status=READY if pod.is_ready else NOT_READY)
    return replace(member, status=NOT_READY)


def _may_join(pod: DaemonPod, clique: str) -> bool:
    return pod.clique == clique and bool(pod.ip) and not pod.is_leaving


def _unique(members: Iterable[Member], limit: int) -> list[Member]:
    """The members with indices that are not there twice. Of two, the first ready one keeps it."""
    members = list(members)
    holders: dict[int, str] = {}
    for member in sorted(members, key=lambda member: not member.is_ready):
        holders.setdefault(member.index, member.node)
    taken = set(holders)
    made = []
    for member in members:
        if holders[member.index] != member.node:
            index = _lowest(taken, limit)
            if index is None:
                continue
            taken.add(index)
            member = replace(member, index=index)
        made.append(member)
    return made


def _join(
    members: Sequence[Member], pods: Iterable[DaemonPod], clique: str, limit: int, before: Sequence[Member]
) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """The members with pods that join, and the nodes for which there is no index."""
    last: Mapping[tuple[str, str], int] = {(each.node, each.ip): each.index for each in before if each.clique == clique}
    taken = {member.index for member in members}
    joined, left_out = list(members), []
    # Daemons that had an index before come first: a new one must not take it.
    for pod in sorted(pods, key=lambda pod: (pod.node, pod.ip) not in last):
        index = last.get((pod.node, pod.ip))
        if index is None or index in taken or not 0 <= index < limit:
            index = _lowest(taken, limit)
        if index is None:
            left_out.append(pod.node)
            continue
        taken.add(index)
        joined.append(Member(pod.node, pod.ip, clique, index, READY if pod.is_ready else NOT_READY))
    return tuple(joined), tuple(left_out)


def _lowest(taken: Set[int], limit: int) -> int | None:
    return next((index for index in range(limit) if index not in taken), None)


def _age(pod: DaemonPod) -> tuple[str, str]:
    return pod.meta.created, pod.node
