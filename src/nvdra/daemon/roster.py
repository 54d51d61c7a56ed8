"""The two objects that members are written in: a ComputeDomainClique, and in the legacy mode the ComputeDomain itself.

Both are written on the resourceVersion that the change was made from, so two daemons never get one index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from nvdra.api.compute_domain import (
    GROUP,
    VERSION,
    Member,
    Owner,
    clique,
    clique_name,
    clique_wire,
    compute_domain,
    daemon_wire,
    node_wire,
    owner_wire,
)
from nvdra.daemon.identity import Identity
from nvdra.ports import ApiError, Kube, Resource

CLIQUES = Resource(GROUP, VERSION, "computedomaincliques", namespaced=True)
DOMAINS = Resource(GROUP, VERSION, "computedomains", namespaced=True)


@dataclass(frozen=True, slots=True)
class Seen:
    """The object as it was read. `wanted_nodes` is of a ComputeDomain."""

    members: tuple[Member, ...] = ()
    resource_version: str = ""
    owners: tuple[Owner, ...] = ()
    wanted_nodes: int = 0


class Roster(Protocol):
    """Where members are written."""

    @property
    def resource(self) -> Resource: ...
    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def kind(self) -> str:
        """As log lines call it."""
        ...

    def seen(self, thing: Mapping[str, Any]) -> Seen | None:
        """The members in a decoded object; None if it is not the daemon's."""
        ...

    async def write(self, seen: Seen | None, members: Sequence[Member]) -> None:
        """Write the members on what was seen; None: there is no object yet. Raises ApiError."""
        ...


class CliqueRoster:
    """The daemon's ComputeDomainClique. Daemon pods own it: it goes with the last of them."""

    resource = CLIQUES
    kind = "CDClique"

    def __init__(self, kube: Kube, me: Identity) -> None:
        self._kube = kube
        self._me = me
        self.name = clique_name(me.domain, me.clique)
        self.namespace = me.pod_namespace

    def seen(self, thing: Mapping[str, Any]) -> Seen | None:
        found = clique(thing)
        return Seen(found.daemons, found.meta.resource_version, found.owners)

    async def write(self, seen: Seen | None, members: Sequence[Member]) -> None:
        me = self._me
        own = Owner(me.pod_name, me.pod_uid)
        if seen is None:
            body = clique_wire(me.domain, me.clique, tuple(members), (own,))
            await self._kube.create(CLIQUES, orjson.dumps(body), self.namespace)
            return
        metadata: dict[str, Any] = {"resourceVersion": seen.resource_version}
        is_member = any((each.node, each.ip) == (me.node, me.ip) for each in members)
        if is_member and all(owner.uid != own.uid for owner in seen.owners):
            metadata["ownerReferences"] = [owner_wire(owner) for owner in (*seen.owners, own)]
        body = {"metadata": metadata, "daemons": [daemon_wire(member) for member in members]}
        await self._kube.patch(CLIQUES, self.name, orjson.dumps(body), self.namespace)


class StatusRoster:
    """The ComputeDomain's `status.nodes`, without the gate ComputeDomainCliques."""

    resource = DOMAINS
    kind = "ComputeDomain"

    def __init__(self, kube: Kube, me: Identity) -> None:
        self._kube = kube
        self._domain = me.domain
        self.name, self.namespace = me.name, me.namespace

    def seen(self, thing: Mapping[str, Any]) -> Seen | None:
        found = compute_domain(thing)
        if found.meta.uid != self._domain:
            return None
        return Seen(found.nodes, found.meta.resource_version, wanted_nodes=found.num_nodes)

    async def write(self, seen: Seen | None, members: Sequence[Member]) -> None:
        if seen is None:
            raise ApiError(404, "NotFound", f"ComputeDomain {self.namespace}/{self.name} is gone")
        body = {
            "metadata": {"resourceVersion": seen.resource_version},
            "status": {"nodes": [node_wire(member) for member in members]},
        }
        await self._kube.patch(DOMAINS, self.name, orjson.dumps(body), self.namespace, subresource="status")
