"""Why a ComputeDomain is as it is: for each node the step that it waits for, since when, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvdra.api.compute_domain import (
    DOMAIN_LABEL,
    FINALIZER,
    READY,
    TARGET_LABEL,
    WORKLOAD_TARGET,
    ComputeDomain,
    Member,
    clique,
    compute_domain,
    daemon_name,
)
from nvdra.api.objects import Meta, mapping, meta_of, objects, text
from nvdra.domains.pods import DaemonPod, by_node, daemon_pod

Object = Mapping[str, Any]

MOST_PODS_OF_A_CLAIM = 256  # status.reservedFor, by the API of Kubernetes


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a domain or a node waits for.

    node    "" for the domain itself
    since   as the API server writes times; "" if unknown
    """

    node: str
    step: str
    since: str
    advice: str


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node of a domain. finding: what it waits for; None if its daemon is ready."""

    node: str
    clique: str
    index: int | None
    status: str
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class Report:
    """A domain with everything that keeps it from working."""

    domain: ComputeDomain
    nodes: tuple[NodeReport, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The objects of a cluster that reports are made from, decoded; lists of None could not be read."""

    domains: Sequence[Object]
    daemon_sets: Sequence[Object] | None
    templates: Sequence[Object] | None
    pods: Sequence[Object] | None
    cliques: Sequence[Object] | None
    nodes: Sequence[Object] | None
    claims: Sequence[Object] | None = None


def reports(snapshot: Snapshot) -> list[Report]:
    """A report of each domain, by namespace and name."""
    domains = sorted((compute_domain(each) for each in snapshot.domains), key=lambda each: str(each.meta))
    deleted = {meta_of(each).uid: text(mapping(each, "metadata"), "deletionTimestamp") for each in snapshot.domains}
    return [_report(domain, snapshot, deleted[domain.meta.uid]) for domain in domains]


def _report(domain: ComputeDomain, snapshot: Snapshot, deleted: str) -> Report:
    uid = domain.meta.uid
    pods = {text(mapping(each, "metadata"), "uid"): each for each in _of(snapshot.pods, uid)}
    owners = by_node(daemon_pod(each) for each in pods.values())
    cliques = [clique(each) for each in snapshot.cliques or () if clique(each).domain == uid]
    members = {member.node: member for each in cliques for member in each.daemons}
    members |= {member.node: member for member in domain.nodes if member.node not in members}
    labelled = {meta_of(each).name: each for each in _of(snapshot.nodes, uid)}
    names = sorted({*owners, *members, *labelled})
    found = [
        _node(name, members.get(name), owners.get(name), pods, labelled.get(name), domain, snapshot) for name in names
    ]
    return Report(domain, tuple(found), tuple(_whole(domain, snapshot, deleted, found)))


def _whole(domain: ComputeDomain, snapshot: Snapshot, deleted: str, found: Sequence[NodeReport]) -> Iterable[Finding]:
    """What the domain itself waits for."""
    meta = domain.meta
    if deleted:
        left = [f"finalizer {each}" for each in meta.finalizers]
        advice = (
            "the controller removes its objects, node labels and finalizer; without a controller: nvdra domains remove"
        )
        yield Finding("", f"it is being deleted; left: {', '.join(left) or 'nothing'}", deleted, advice)
        return
    if not domain.has_spec:
        advice = "delete it and make another one; a spec cannot be added"
        yield Finding("", "it has no spec.channel.resourceClaimTemplate.name", meta.created, advice)
        return
    if FINALIZER not in meta.finalizers:
        advice = "see whether the controller runs and leads: kubectl get deployments,leases -A | grep controller"
        yield Finding("", "no controller has worked on it", meta.created, advice)
        return
    yield from _conditions(domain)
    is_made = any(_target(each) == WORKLOAD_TARGET for each in _of(snapshot.templates, meta.uid))
    if snapshot.templates is not None and not is_made:
        step = f"its ResourceClaimTemplate {meta.namespace}/{domain.template} is missing"
        advice = f"kubectl -n {meta.namespace} get events --field-selector involvedObject.name={meta.name}"
        yield Finding("", step, meta.created, advice)
    yield from _full_claims(meta.uid, snapshot)
    waiting = domain.num_nodes - len(domain.nodes)
    if waiting > 0:
        step = f"{waiting} of {domain.num_nodes} nodes (spec.numNodes) have not joined"
        advice = (
            "a node joins with its first workload pod: see whether all of them are scheduled (nvdra claim explain), "
            f"and that their claims use the template {domain.template}"
        )
        yield Finding("", step, meta.created, advice)
    if found and snapshot.daemon_sets is not None and not _of(snapshot.daemon_sets, meta.uid):
        advice = "see the controller's log: it makes the DaemonSet before anything else"
        yield Finding("", f"its DaemonSet {daemon_name(meta.uid)} is missing", meta.created, advice)


def _full_claims(uid: str, snapshot: Snapshot) -> Iterable[Finding]:
    """Claims of the domain that no further pod can share."""
    for each in snapshot.claims or ():
        configs = objects(mapping(mapping(each, "spec"), "devices"), "config")
        domains = {text(mapping(mapping(config, "opaque"), "parameters"), "domainID") for config in configs}
        count = len(objects(mapping(each, "status"), "reservedFor"))
        if uid in domains and count >= MOST_PODS_OF_A_CLAIM:
            step = (
                f"ResourceClaim {meta_of(each)} is shared by {count} pods: Kubernetes lets no more pods share a claim"
            )
            advice = "give each pod a claim of its own, by resourceClaimTemplateName"
            yield Finding("", step, meta_of(each).created, advice)


def _conditions(domain: ComputeDomain) -> Iterable[Finding]:
    for condition in domain.conditions:
        if condition.type == "TemplatesCreated" and condition.status == "False":
            yield Finding("", condition.message, condition.since, "the message says what to do")


def _node(
    name: str,
    member: Member | None,
    pod: DaemonPod | None,
    pods: Mapping[str, Object],
    labelled: Object | None,
    domain: ComputeDomain,
    snapshot: Snapshot,
) -> NodeReport:
    thing = {} if pod is None else pods[pod.meta.uid]
    clique_id = member.clique if member is not None else (pod.clique or "") if pod is not None else ""
    index = None if member is None else member.index
    status = (member.status or READY) if member is not None else "NotReady"
    waiting = _waits_for(member, pod, thing, labelled, domain, snapshot)
    finding = None if waiting is None else Finding(name, *waiting)
    return NodeReport(name, clique_id, index, status, finding)


def _waits_for(
    member: Member | None,
    pod: DaemonPod | None,
    thing: Object,
    labelled: Object | None,
    domain: ComputeDomain,
    snapshot: Snapshot,
) -> tuple[str, str, str] | None:
    """The first step that is missing on a node, since when, and what to do; None if its daemon is ready."""
    since = domain.meta.created
    if pod is None:
        if labelled is None and snapshot.nodes is not None:
            return "its daemon is gone, and so is its label: its entry will be removed", since, "wait two seconds"
        step = "it has the domain's label, but no daemon pod"
        return step, since, f"kubectl describe daemonset -A -l {DOMAIN_LABEL}={domain.meta.uid}"
    meta = pod.meta
    where = f"-n {meta.namespace} {meta.name}"
    if pod.is_leaving:
        return "its daemon is ending", _since(thing, meta), f"kubectl describe pod {where}"
    if not pod.ip:
        return f"its daemon does not run: {_why(thing)}", _since(thing, meta), f"kubectl describe pod {where}"
    if pod.clique is None:
        return "its daemon has not said its NVLink partition", _since(thing, meta), f"kubectl logs {where}"
    if pod.clique and (member is None or member.ip != pod.ip or member.clique != pod.clique):
        advice = "see the controller's log and the Events of the ComputeDomain (CliqueFull: too many nodes)"
        return "its daemon has no index in its clique", _since(thing, meta), advice
    if not pod.is_ready:
        advice = f"kubectl logs {where}; kubectl exec {where} -- nvidia-imex-ctl -c /imexd/imexd.cfg -N"
        return "its IMEX daemon is not ready", _since(thing, meta), advice
    if member is not None and not member.is_ready:
        return "its daemon is ready, but its entry does not say so", _since(thing, meta), "see the controller's log"
    return None


def _since(thing: Object, meta: Meta) -> str:
    """When the pod's readiness changed last."""
    conditions = objects(mapping(thing, "status"), "conditions")
    times = [text(each, "lastTransitionTime") for each in conditions if text(each, "type") == "Ready"]
    return next(filter(None, times), meta.created)


def _why(thing: Object) -> str:
    """Why a pod has no address yet, as its status says it."""
    status = mapping(thing, "status")
    for each in objects(status, "containerStatuses"):
        waiting = mapping(mapping(each, "state"), "waiting")
        if waiting:
            return ": ".join(filter(None, (text(waiting, "reason"), text(waiting, "message"))))
    for each in objects(status, "conditions"):
        if text(each, "status") == "False" and text(each, "message"):
            return text(each, "message")
    return text(status, "phase") or "it has no status"


def _of(things: Sequence[Object] | None, uid: str) -> list[Object]:
    return [each for each in things or () if meta_of(each).labels.get(DOMAIN_LABEL) == uid]


def _target(thing: Object) -> str:
    return meta_of(thing).labels.get(TARGET_LABEL, "")
