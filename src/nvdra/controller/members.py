"""Membership of a live domain: its cliques and its nodes, written where they differ from what its daemons' pods say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from nvdra import telemetry
from nvdra.api.compute_domain import (
    DOMAIN_LABEL,
    Clique,
    ComputeDomain,
    Member,
    Owner,
    clique_name,
    clique_wire,
    daemon_wire,
    owner_wire,
)
from nvdra.api.gates import COMPUTE_DOMAIN_CLIQUES, GateError, parse
from nvdra.controller.caches import DaemonSet, Namespace
from nvdra.controller.context import Context
from nvdra.controller.patches import patch
from nvdra.controller.settings import CLIQUES, PODS
from nvdra.domains.membership import Settled, settle
from nvdra.domains.pods import DaemonPod, by_node, daemon_pod
from nvdra.domains.status import members_of_cliques, nodes
from nvdra.kube import document


@dataclass(frozen=True, slots=True)
class Membership:
    """The nodes of a domain, and those for which its cliques have no room."""

    nodes: tuple[Member, ...]
    left_out: tuple[str, ...] = ()


class Members:
    """Keeps cliques and nodes of domains as their daemons' pods say."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._missing: dict[str, dict[str, float]] = {}  # by domain: node → since when its entry has no pod

    def forget(self, uid: str) -> None:
        """Forget a domain that is gone."""
        self._missing.pop(uid, None)

    async def settle(self, domain: ComputeDomain, daemons: DaemonSet) -> Membership:
        """The domain's members; cliques are written. Raises ApiError; a conflict means that its view was old."""
        uid = domain.meta.uid
        limit, has_cliques = self._of(daemons)
        members: list[Member] = []
        left_out: list[str] = []
        missing: set[str] = set()
        pods: list[DaemonPod] = []
        for namespace in self._context.caches.namespaces:
            of_domain = namespace.pods.of(uid)
            pods += of_domain
            if has_cliques:
                for clique_id, clique in self._cliques(namespace, uid, of_domain).items():
                    settled = await self._settle_clique(domain, namespace, clique_id, clique, limit)
                    members += settled.members
                    left_out += settled.left_out
                    missing |= settled.missing
        if has_cliques:
            found = [Clique(domain.meta, (member,)) for member in members]
            members = list(members_of_cliques(found, pods))
        else:
            for settled in await self._settle_nodes(domain, pods, limit):
                members += settled.members
                left_out += settled.left_out
                missing |= settled.missing
        self._spare(uid, missing)
        return Membership(nodes(members, pods), tuple(left_out))

    def _of(self, daemons: DaemonSet) -> tuple[int, bool]:
        """The limit and the use of cliques that this domain's daemons were made with."""
        settings, environment = self._context.settings.daemons, daemons.environment
        try:
            limit = int(environment.get("MAX_NODES_PER_IMEX_DOMAIN", settings.max_nodes))
        except ValueError:
            limit = settings.max_nodes
        # Daemons of a newer release may have gates that this one does not know.
        gates = dict(each.split("=", 1) for each in environment.get("FEATURE_GATES", "").split(",") if "=" in each)
        said = gates.get(COMPUTE_DOMAIN_CLIQUES)
        try:
            has_cliques = parse(f"{COMPUTE_DOMAIN_CLIQUES}={said}").enabled(COMPUTE_DOMAIN_CLIQUES) if said else None
        except GateError:
            has_cliques = None
        return limit, settings.gates[COMPUTE_DOMAIN_CLIQUES] if has_cliques is None else has_cliques

    @staticmethod
    def _cliques(namespace: Namespace, uid: str, pods: Sequence[DaemonPod]) -> dict[str, Clique | None]:
        """The cliques that the domain has or should have in a namespace."""
        found: dict[str, Clique | None] = {pod.clique: None for pod in by_node(pods).values() if pod.clique}
        return found | {clique.id: clique for clique in namespace.cliques.of(uid)}

    async def _settle_clique(
        self, domain: ComputeDomain, namespace: Namespace, clique_id: str, clique: Clique | None, limit: int
    ) -> Settled:
        uid = domain.meta.uid
        present = () if clique is None else clique.daemons
        before = domain.nodes if clique is None else ()
        spared = self._spared(uid)
        pods = namespace.pods.of(uid)
        settled = settle(present, pods, clique_id, limit, spared=spared, before=before)
        if settled.doubted:
            pods = await self._fresh(uid, namespace.name)
            settled = settle(present, pods, clique_id, limit, spared=spared, before=before)
        at_node = by_node(pods)
        owners = [at_node[member.node].owner for member in settled.members if member.node in at_node]
        if clique is None:
            if settled.members:
                body = clique_wire(uid, clique_id, settled.members, tuple(owners))
                namespace.cliques.put(await self._context.kube.create(CLIQUES, orjson.dumps(body), namespace.name))
                telemetry.info(1, "Created clique", clique=clique_name(uid, clique_id), members=len(settled.members))
        elif settled.members != clique.daemons or not set(owners) <= set(clique.owners):
            await self._write(namespace, clique, settled.members, owners)
        return settled

    async def _write(
        self, namespace: Namespace, clique: Clique, members: Sequence[Member], owners: Sequence[Owner]
    ) -> None:
        # Without any owner nothing would ever delete the clique: the last ones stay until there are others.
        kept = owners or clique.owners
        body = {
            "metadata": {"ownerReferences": [owner_wire(owner) for owner in kept]},
            "daemons": [daemon_wire(member) for member in members],
        }
        namespace.cliques.put(await patch(self._context.kube, CLIQUES, clique.meta, body))
        gone = sorted({member.node for member in clique.daemons} - {member.node for member in members})
        if gone:
            telemetry.info(1, "Removed daemons from clique", clique=str(clique.meta), nodes=gone)
        telemetry.info(4, "Updated clique", clique=str(clique.meta), members=len(members))

    async def _settle_nodes(self, domain: ComputeDomain, pods: Sequence[DaemonPod], limit: int) -> list[Settled]:
        """Members of a domain without clique objects, whose daemons write `status.nodes`."""
        uid, spared = domain.meta.uid, self._spared(domain.meta.uid)
        made: list[Settled] = []
        ids = {member.clique for member in domain.nodes} | {pod.clique for pod in by_node(pods).values() if pod.clique}
        for clique_id in sorted(ids - {""}):
            present = [member for member in domain.nodes if member.clique == clique_id]
            settled = settle(present, pods, clique_id, limit, spared=spared)
            if settled.doubted:
                fresh = [pod for each in self._context.caches.namespaces for pod in await self._fresh(uid, each.name)]
                settled = settle(present, fresh, clique_id, limit, spared=spared)
            made.append(settled)
        return made

    async def _fresh(self, uid: str, namespace: str) -> list[DaemonPod]:
        """The domain's daemon pods as they are now: an entry is dropped or changed on these alone."""
        page = await self._context.kube.list(PODS, namespace, label_selector=f"{DOMAIN_LABEL}={uid}")
        return [daemon_pod(document(each)) for each in page.items]

    def _spared(self, uid: str) -> set[str]:
        """Nodes whose entry stays although its pod is gone: not yet known, or for a short time."""
        now = self._context.clock.now()
        known = self._missing.get(uid, {})
        at_nodes = {pod.node for pod in self._context.caches.pods(uid)}
        listed = {member.node for clique in self._context.caches.cliques(uid) for member in clique.daemons}
        domain = self._context.caches.domain(uid)
        listed |= {member.node for member in domain.nodes} if domain is not None else set()
        return {node for node in listed - at_nodes if now < known.get(node, now) + self._context.settings.spare_s}

    def _spare(self, uid: str, missing: set[str]) -> None:
        now, known = self._context.clock.now(), self._missing.get(uid, {})
        since = {node: known.get(node, now) for node in missing}
        spare_s = self._context.settings.spare_s
        ends = [at + spare_s for at in since.values() if at + spare_s > now]
        if ends:
            self._context.again(uid, min(ends) - now)
        if since:
            self._missing[uid] = since
        else:
            self._missing.pop(uid, None)
