"""Wire types of resource.nvidia.com/v1beta1: ComputeDomain and ComputeDomainClique, and every name around them.

Objects are read leniently: the API server has validated them, and a controller must survive whatever it lets through.
Names and shapes are the Go driver's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nvdra.api.objects import Meta, mapping, meta_of, objects, text, whole

GROUP = "resource.nvidia.com"
VERSION = "v1beta1"
GROUP_VERSION = f"{GROUP}/{VERSION}"
DRIVER = "compute-domain.nvidia.com"

DOMAIN_LABEL = "resource.nvidia.com/computeDomain"
"""On nodes, pods, DaemonSets, ResourceClaimTemplates and cliques: the UID of their ComputeDomain."""
FINALIZER = DOMAIN_LABEL
CLIQUE_LABEL = "resource.nvidia.com/computeDomain.cliqueID"
"""On cliques, and on daemon pods, where "" stands for a node without fabric."""
TARGET_LABEL = "resource.nvidia.com/computeDomainTarget"
DAEMON_TARGET = "Daemon"
WORKLOAD_TARGET = "Workload"
ASSIGNED_ANNOTATION = "resource.nvidia.com/computeDomain.indices"
ASSIGNED_BY_CONTROLLER = "controller"
"""On daemon pods, by ASSIGNED_ANNOTATION: a controller that assigns indices made them. Without it a daemon inserts
itself into its clique at once, with it after two seconds."""

DAEMON_CLASS = "compute-domain-daemon.nvidia.com"
CHANNEL_CLASS = "compute-domain-default-channel.nvidia.com"
DAEMON_ACCOUNT = "compute-domain-daemon-service-account"
DAEMON_CONTAINER = "compute-domain-daemon"
MAX_NODES_PER_IMEX_DOMAIN = 18
NO_INDEX = -1

READY = "Ready"
NOT_READY = "NotReady"
SINGLE = "Single"
ALL = "All"


def daemon_name(uid: str) -> str:
    """The name of a domain's DaemonSet and of its daemons' ResourceClaimTemplate."""
    return f"computedomain-daemon-{uid}"


def clique_name(uid: str, clique_id: str) -> str:
    """The name of a clique object."""
    return f"{uid}.{clique_id}"


@dataclass(frozen=True, slots=True)
class Member:
    """A node that has joined a domain: an entry of a clique's `daemons` or of a ComputeDomain's `status.nodes`.

    ip       of the daemon's pod
    clique   "" without fabric
    index    NO_INDEX without fabric
    status   READY or NOT_READY; "" in entries of old writers, which counts as ready
    """

    node: str
    ip: str
    clique: str
    index: int
    status: str = NOT_READY

    @property
    def is_ready(self) -> bool:
        return self.status != NOT_READY


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a ComputeDomain, where the installed CRD has conditions."""

    type: str
    status: str
    reason: str
    message: str
    since: str = ""


@dataclass(frozen=True, slots=True)
class ComputeDomain:
    """A ComputeDomain.

    template     name of the workload's ResourceClaimTemplate
    has_spec     the CRD accepts an object without spec
    status       "" if never written
    """

    meta: Meta
    has_spec: bool = True
    num_nodes: int = 0
    template: str = ""
    allocation_mode: str = SINGLE
    status: str = ""
    nodes: tuple[Member, ...] = ()
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """A daemon pod that owns a clique: the clique goes with the last of them."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Clique:
    """A ComputeDomainClique: the daemons of one domain within one NVLink partition."""

    meta: Meta
    daemons: tuple[Member, ...] = ()
    owners: tuple[Owner, ...] = ()

    @property
    def domain(self) -> str:
        """The UID of its ComputeDomain."""
        return self.meta.labels.get(DOMAIN_LABEL, "") or self.meta.name.partition(".")[0]

    @property
    def id(self) -> str:
        return self.meta.labels.get(CLIQUE_LABEL, "") or self.meta.name.partition(".")[2]


def compute_domain(thing: Mapping[str, Any]) -> ComputeDomain:
    """A ComputeDomain from its decoded JSON."""
    spec, status = mapping(thing, "spec"), mapping(thing, "status")
    channel = mapping(spec, "channel")
    return ComputeDomain(
        meta_of(thing),
        bool(channel),
        whole(spec, "numNodes"),
        text(mapping(channel, "resourceClaimTemplate"), "name"),
        text(channel, "allocationMode") or SINGLE,
        text(status, "status"),
        tuple(_member(each, "name") for each in objects(status, "nodes")),
        tuple(_condition(each) for each in objects(status, "conditions")),
    )


def clique(thing: Mapping[str, Any]) -> Clique:
    """A ComputeDomainClique from its decoded JSON."""
    owners = objects(mapping(thing, "metadata"), "ownerReferences")
    return Clique(
        meta_of(thing),
        tuple(_member(each, "nodeName") for each in objects(thing, "daemons")),
        tuple(Owner(text(each, "name"), text(each, "uid")) for each in owners),
    )


def node_wire(member: Member) -> dict[str, Any]:
    """An entry of a ComputeDomain's `status.nodes`."""
    return _wire(member, "name")


def daemon_wire(member: Member) -> dict[str, Any]:
    """An entry of a clique's `daemons`."""
    return _wire(member, "nodeName")


def condition_wire(condition: Condition) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.since,
    }


def owner_wire(owner: Owner) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid}


def clique_wire(uid: str, clique_id: str, members: tuple[Member, ...], owners: tuple[Owner, ...]) -> dict[str, Any]:
    """A new clique object. Add `metadata.resourceVersion` to make the same body a replacement or a patch."""
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "ComputeDomainClique",
        "metadata": {
            "name": clique_name(uid, clique_id),
            "labels": {DOMAIN_LABEL: uid, CLIQUE_LABEL: clique_id},
            "ownerReferences": [owner_wire(owner) for owner in owners],
        },
        "daemons": [daemon_wire(member) for member in members],
    }


def _wire(member: Member, key: str) -> dict[str, Any]:
    made: dict[str, Any] = {key: member.node, "ipAddress": member.ip, "cliqueID": member.clique, "index": member.index}
    return {**made, "status": member.status} if member.status else made


def _member(thing: Mapping[str, Any], key: str) -> Member:
    return Member(
        text(thing, key),
        text(thing, "ipAddress"),
        text(thing, "cliqueID"),
        whole(thing, "index"),
        text(thing, "status"),
    )


def _condition(thing: Mapping[str, Any]) -> Condition:
    keys = ("type", "status", "reason", "message", "lastTransitionTime")
    return Condition(*(text(thing, key) for key in keys))
