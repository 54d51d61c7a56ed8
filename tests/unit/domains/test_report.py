"""What nvdra domains says of a domain: the first step that each node waits for."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra.api.compute_domain import DOMAIN_LABEL, FINALIZER, TARGET_LABEL
from nvdra.domains.report import Report, Snapshot, reports
from tests.unit.domains.pods import CLIQUE, UID, pod_body

CREATED = "2026-11-30T10:00:00Z"
LABELS = {DOMAIN_LABEL: UID}


def domain(**changes: Any) -> dict[str, Any]:
    metadata = {"name": "domain", "namespace": "team", "uid": UID, "creationTimestamp": CREATED}
    metadata |= {"finalizers": [FINALIZER]} | changes.pop("metadata", {})
    spec = {"numNodes": 0, "channel": {"resourceClaimTemplate": {"name": "channel"}}}
    return {"metadata": metadata, "spec": spec, "status": {"status": "NotReady"}, **changes}


def entry(node: str, ip: str, status: str = "Ready") -> dict[str, Any]:
    return {"nodeName": node, "ipAddress": ip, "cliqueID": CLIQUE, "index": 0, "status": status}


def clique(*daemons: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": f"{UID}.{CLIQUE}", "uid": "c", "labels": LABELS}, "daemons": list(daemons)}


def node(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "labels": LABELS}}


def shared_claim(pods: int) -> dict[str, Any]:
    config = {"opaque": {"driver": "compute-domain.nvidia.com", "parameters": {"domainID": UID}}}
    return {
        "metadata": {"name": f"shared-{pods}", "namespace": "team", "uid": str(pods)},
        "spec": {"devices": {"config": [config]}},
        "status": {"reservedFor": [{"resource": "pods", "name": f"p{at}", "uid": str(at)} for at in range(pods)]},
    }


TEMPLATE = {"metadata": {"name": "channel", "uid": "t", "labels": LABELS | {TARGET_LABEL: "Workload"}}}
SET = {"metadata": {"name": f"computedomain-daemon-{UID}", "uid": "s", "labels": LABELS}}


def report(thing: dict[str, Any], **changes: Any) -> Report:
    there: dict[str, Any] = {"daemon_sets": [SET], "templates": [TEMPLATE], "pods": [], "cliques": [], "nodes": []}
    (found,) = reports(Snapshot([thing], **{**there, **changes}))
    return found


def told(found: Report) -> str:
    """The only thing that it tells."""
    findings = [*found.findings, *(each.finding for each in found.nodes if each.finding is not None)]
    assert len(findings) == 1, findings
    return findings[0].step


def waiting(reason: str) -> dict[str, Any]:
    body = pod_body("n1", "", clique=None, ready=False, phase="Pending")
    body["status"]["containerStatuses"] = [{"state": {"waiting": {"reason": reason, "message": "cannot pull"}}}]
    return body


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"nodes": [node("n1")]}, "it has the domain's label, but no daemon pod"),
        (
            {"nodes": [node("n1")], "pods": [waiting("ErrImagePull")]},
            "its daemon does not run: ErrImagePull: cannot pull",
        ),
        (
            {"nodes": [node("n1")], "pods": [pod_body("n1", "10.0.0.1", clique=None, ready=False)]},
            "its daemon has not said its NVLink partition",
        ),
        (
            {"nodes": [node("n1")], "pods": [pod_body("n1", "10.0.0.1", ready=False)]},
            "its daemon has no index in its clique",
        ),
        (
            {
                "nodes": [node("n1")],
                "pods": [pod_body("n1", "10.0.0.1", ready=False)],
                "cliques": [clique(entry("n1", "10.0.0.1", "NotReady"))],
            },
            "its IMEX daemon is not ready",
        ),
        (
            {
                "nodes": [node("n1")],
                "pods": [pod_body("n1", "10.0.0.1")],
                "cliques": [clique(entry("n1", "10.0.0.1", "NotReady"))],
            },
            "its daemon is ready, but its entry does not say so",
        ),
        (
            {"nodes": [node("n1")], "pods": [pod_body("n1", "10.0.0.1", leaving=True)]},
            "its daemon is ending",
        ),
        (
            {"cliques": [clique(entry("n1", "10.0.0.1"))]},
            "its daemon is gone, and so is its label: its entry will be removed",
        ),
    ],
)
def test_the_first_step_that_a_node_waits_for(changes: dict[str, Any], step: str) -> None:
    assert told(report(domain(), **changes)) == step


def test_a_ready_node_waits_for_nothing() -> None:
    pods, cliques = [pod_body("n1", "10.0.0.1")], [clique(entry("n1", "10.0.0.1"))]
    found = report(domain(), pods=pods, cliques=cliques, nodes=[node("n1")])
    assert [(each.node, each.index, each.status, each.finding) for each in found.nodes] == [("n1", 0, "Ready", None)]
    assert found.findings == ()


@pytest.mark.parametrize(
    ("thing", "changes", "step"),
    [
        (domain(metadata={"finalizers": []}), {}, "no controller has worked on it"),
        (domain(spec={}), {}, "it has no spec.channel.resourceClaimTemplate.name"),
        (
            domain(metadata={"deletionTimestamp": CREATED}),
            {},
            f"it is being deleted; left: finalizer {FINALIZER}",
        ),
        (
            domain(),
            {"claims": [shared_claim(255), shared_claim(256)]},
            "ResourceClaim team/shared-256 is shared by 256 pods: Kubernetes lets no more pods share a claim",
        ),
        (domain(), {"templates": []}, "its ResourceClaimTemplate team/channel is missing"),
        (
            domain(spec={"numNodes": 2, "channel": {"resourceClaimTemplate": {"name": "channel"}}}),
            {},
            "2 of 2 nodes (spec.numNodes) have not joined",
        ),
        (domain(), {"templates": None, "nodes": None, "pods": None, "cliques": None, "daemon_sets": []}, ""),
    ],
)
def test_what_the_domain_itself_waits_for(thing: dict[str, Any], changes: dict[str, Any], step: str) -> None:
    found = report(thing, **changes)
    assert (told(found) if step else found.findings) == (step or ())
