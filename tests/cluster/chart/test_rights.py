"""Rights: exactly these and no more, each with its reason; and the policy that keeps a node to its own slices."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.cluster.chart.rendering import ALL_PROGRAMS, CHART, GPUS, NAME, Helm

READ = ("get", "list", "watch")
Rights = set[tuple[str, str, str, str]]
"""Verb, group, resource, name (empty: any)."""


def rights(role: dict[str, Any]) -> Rights:
    return {
        (verb, group, resource, name)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }


def granted(group: str, resource: str, *verbs: str, name: str = "") -> Rights:
    return {(verb, group, resource, name) for verb in verbs}


SLICES = granted("resource.k8s.io", "resourceslices", *READ, "create", "update", "delete")
CLAIMS = granted("resource.k8s.io", "resourceclaims", "get", "list")
OF_GPUS = CLAIMS | SLICES | granted("", "nodes", "get")
OF_COMPUTE_DOMAINS = (
    CLAIMS
    | SLICES
    | granted("", "nodes", *READ, "update", "patch")
    | granted("resource.nvidia.com", "computedomains", *READ)
    | granted("", "pods", *READ)
)
STATUS = granted("resource.k8s.io", "resourceclaims/status", "patch") | granted(
    "resource.k8s.io", "resourceclaims/driver", "associated-node:patch", name="gpu.nvidia.com"
)
EVENTS = granted("", "events", "create", "patch")
USERS = {"claimStatus": True, "claimEvents": True}
CLIQUES = granted("resource.nvidia.com", "computedomaincliques", *READ)
MPS = granted("apps", "deployments", *READ, "create", "update", "patch", "delete") | granted("", "pods", *READ)


@pytest.mark.parametrize(
    ("values", "programs", "of_cluster", "of_namespace"),
    [
        (GPUS, ALL_PROGRAMS[:1], OF_GPUS, None),
        (GPUS | {"claimStatus": True}, ALL_PROGRAMS[:1], OF_GPUS | STATUS, None),
        (GPUS | {"claimEvents": True}, ALL_PROGRAMS[:1], OF_GPUS | EVENTS, None),
        ({"resources.gpus.enabled": False} | USERS, ALL_PROGRAMS, OF_COMPUTE_DOMAINS, CLIQUES),
        (GPUS | {"coexistenceGuard": "enforce", "topologyAttributes": True}, ALL_PROGRAMS[:1], OF_GPUS, None),
        (GPUS | {"featureGates.MPSSupport": True}, ALL_PROGRAMS[:1], OF_GPUS, MPS),
        (GPUS, ALL_PROGRAMS, OF_COMPUTE_DOMAINS, CLIQUES),
        (GPUS | {"featureGates.MPSSupport": True}, ALL_PROGRAMS, OF_COMPUTE_DOMAINS, CLIQUES | MPS),
        (GPUS | {"resources.computeDomains.enabled": False}, ALL_PROGRAMS, OF_GPUS, None),
        (
            {"resources.gpus.enabled": False, "featureGates.MPSSupport": True},
            ALL_PROGRAMS,
            OF_COMPUTE_DOMAINS,
            CLIQUES,
        ),
    ],
)
def test_of_the_kubelet_plugin(
    helm: Helm, values: dict[str, Any], programs: tuple[str, ...], of_cluster: Rights, of_namespace: Rights | None
) -> None:
    rendered = helm.render(values, programs=programs)
    assert rights(rendered.all("ClusterRole")[f"{NAME}-clusterrole-kubeletplugin"]) == of_cluster
    role = rendered.all("Role").get(f"{NAME}-role-kubeletplugin")
    assert (rights(role) if role else None) == of_namespace
    binding = rendered.all("ClusterRoleBinding")[f"{NAME}-clusterrole-binding-kubeletplugin"]
    (subject,) = binding["subjects"]
    assert subject["name"] == rendered.pod["serviceAccountName"]


def test_of_the_controller(helm: Helm) -> None:
    rendered = helm.render(programs=ALL_PROGRAMS)
    assert rights(rendered.all("ClusterRole")[f"{NAME}-clusterrole-controller"]) == (
        granted("resource.nvidia.com", "computedomains", "list", "watch", "patch")
        | granted("resource.nvidia.com", "computedomains/status", "patch")
        | granted("resource.k8s.io", "resourceclaimtemplates", *READ, "create", "patch", "delete")
        | granted("", "nodes", *READ, "patch")
        | granted("", "events", "create", "patch")
        | granted("apiextensions.k8s.io", "customresourcedefinitions", "get", name="computedomains.resource.nvidia.com")
    )
    of_namespace = (
        granted("apps", "daemonsets", *READ, "create", "patch", "delete")
        | granted("", "pods", "list", "watch")
        | granted("resource.nvidia.com", "computedomaincliques", "list", "watch", "create", "patch", "delete")
    )
    lease = granted("coordination.k8s.io", "leases", "create") | granted(
        "coordination.k8s.io", "leases", "get", "update", name=f"{NAME}-controller"
    )
    assert rights(rendered.all("Role")[f"{NAME}-role-controller"]) == of_namespace | lease
    variable = [{"name": "ADDITIONAL_NAMESPACES", "value": "other"}]
    several = helm.render(GPUS | {"controller.containers.computeDomain.env": variable}, programs=ALL_PROGRAMS)
    # The lease is in the driver's own namespace alone.
    assert rights(several.all("Role")[f"other/{NAME}-role-controller"]) == of_namespace
    deployment = rendered.all("Deployment")[f"{NAME}-controller"]
    (subject,) = rendered.all("ClusterRoleBinding")[f"{NAME}-clusterrole-binding-controller-gpu"]["subjects"]
    assert subject["name"] == deployment["spec"]["template"]["spec"]["serviceAccountName"]


def test_of_the_daemon(helm: Helm) -> None:
    rendered = helm.render(programs=ALL_PROGRAMS)
    verbs = (*READ, "update", "patch")
    assert rights(rendered.all("ClusterRole")["compute-domain-daemon-role"]) == (
        granted("resource.nvidia.com", "computedomains", *verbs)
        | granted("resource.nvidia.com", "computedomains/status", *verbs)
        | granted("resource.nvidia.com", "computedomaincliques", *verbs, "create")
        | granted("", "pods", *READ, "patch")
    )


def test_the_webhook_has_none(helm: Helm) -> None:
    rendered = helm.render(GPUS | {"webhook.enabled": True}, programs=ALL_PROGRAMS)
    deployment = rendered.all("Deployment")[f"{NAME}-webhook"]
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    assert account in rendered.all("ServiceAccount")
    bound = {subject["name"] for each in rendered.objects if "roleRef" in each for subject in each.get("subjects", ())}
    assert account not in bound


def test_nothing_is_granted_wholesale(helm: Helm) -> None:
    rendered = helm.render(GPUS | {"featureGates.MPSSupport": True}, programs=ALL_PROGRAMS)
    for each in rendered.objects:
        for verb, group, resource, _ in rights(each) if "rules" in each and "Role" in each["kind"] else ():
            assert "*" not in (verb, group, resource)
            assert resource not in ("secrets", "pods/exec", "serviceaccounts/token", "nodes/proxy")
            assert verb not in ("escalate", "bind", "impersonate", "deletecollection")


def test_each_rule_says_who_needs_it() -> None:
    for template in sorted((CHART / "templates").glob("rbac-*.yaml")):
        lines = template.read_text().splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("- apiGroups:")]
        assert starts
        for start in starts:
            # A rule for the same reason may follow its sibling directly.
            above = next(
                line
                for line in reversed(lines[:start])
                if not re.match(r"\{\{-? (end|if|range)|  (resources|verbs|resourceNames): |- apiGroups:", line)
            )
            assert above.startswith("# "), f"{template.name}:{start + 1} has no reason: {above}"


@pytest.mark.parametrize(
    ("values", "user"),
    [
        (GPUS, f"system:serviceaccount:gpu:dra-{NAME}-service-account-kubeletplugin"),
        (GPUS | {"serviceAccount.name": "mine"}, "system:serviceaccount:gpu:mine-kubeletplugin"),
        (GPUS | {"serviceAccount.create": False}, "system:serviceaccount:gpu:default-kubeletplugin"),
        (
            GPUS | {"namespaceOverride": "other", "fullnameOverride": "full"},
            "system:serviceaccount:other:full-service-account-kubeletplugin",
        ),
    ],
)
def test_the_policy_of_slices_names_the_user_that_the_plugin_runs_as(
    helm: Helm, values: dict[str, Any], user: str
) -> None:
    rendered = helm.render(values)
    policy, binding = rendered.one("ValidatingAdmissionPolicy"), rendered.one("ValidatingAdmissionPolicyBinding")
    assert policy["metadata"]["name"] == binding["metadata"]["name"] == f"resourceslices-policy-{NAME}"
    assert binding["spec"] == {"policyName": f"resourceslices-policy-{NAME}", "validationActions": ["Deny"]}
    (condition,) = policy["spec"]["matchConditions"]
    assert condition == {"name": "isRestrictedUser", "expression": f'request.userInfo.username == "{user}"'}
    daemon_set = rendered.one("DaemonSet")
    account = daemon_set["spec"]["template"]["spec"]["serviceAccountName"]
    assert user == f"system:serviceaccount:{daemon_set['metadata']['namespace']}:{account}"


def test_the_policy_of_slices(helm: Helm) -> None:
    spec = helm.render().one("ValidatingAdmissionPolicy")["spec"]
    assert spec["failurePolicy"] == "Fail"
    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert rule == {
        "apiGroups": ["resource.k8s.io"],
        "apiVersions": ["v1", "v1beta1", "v1beta2"],
        "operations": ["CREATE", "UPDATE", "DELETE"],
        "resources": ["resourceslices"],
    }
    nobody, foreign = spec["validations"]
    assert nobody["message"] == (
        "no node association found for user, this user must run in a pod on a node and "
        "ServiceAccountTokenPodNodeInfo must be enabled"
    )
    assert "may not modify cluster or node resourceslices" in foreign["messageExpression"]
    # Slices of all nodes or of a selector have no nodeName: nothing in the policy lets them through.
    text = str(spec)
    assert "allNodes" not in text
    assert "nodeSelector" not in text
