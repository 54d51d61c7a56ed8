"""The objects that a ComputeDomain needs: the daemons' DaemonSet and claim template, the workload's claim template.

Source: the Go driver's templates, field by field. tests/golden/compute_domain has what its controller made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvdra.api.compute_domain import (
    ASSIGNED_ANNOTATION,
    ASSIGNED_BY_CONTROLLER,
    CHANNEL_CLASS,
    DAEMON_ACCOUNT,
    DAEMON_CLASS,
    DAEMON_CONTAINER,
    DAEMON_TARGET,
    DOMAIN_LABEL,
    DRIVER,
    FINALIZER,
    GROUP_VERSION,
    MAX_NODES_PER_IMEX_DOMAIN,
    SINGLE,
    TARGET_LABEL,
    WORKLOAD_TARGET,
    ComputeDomain,
    daemon_name,
)
from nvdra.api.objects import mapping, objects, text


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """What all daemons have of the controller's options.

    namespace   the driver's, where the daemons run
    gates       every known gate
    """

    namespace: str
    image: str
    gates: Mapping[str, bool]
    log_verbosity: int = 0
    max_nodes: int = MAX_NODES_PER_IMEX_DOMAIN
    pull_secrets: tuple[str, ...] = ()


def daemon_set(uid: str, settings: DaemonSettings) -> dict[str, Any]:
    """The DaemonSet whose pods run on the nodes that carry the domain's label."""
    labels = {DOMAIN_LABEL: uid}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "namespace": settings.namespace,
            "name": daemon_name(uid),
            "finalizers": [FINALIZER],
            "labels": labels,
        },
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {ASSIGNED_ANNOTATION: ASSIGNED_BY_CONTROLLER}},
                "spec": _pod(uid, settings),
            },
        },
    }


def daemon_claim_template(uid: str, namespace: str) -> dict[str, Any]:
    """The ResourceClaimTemplate of the daemons' claims."""
    config = {"apiVersion": GROUP_VERSION, "kind": "ComputeDomainDaemonConfig", "domainID": uid}
    return _claim_template(uid, namespace, daemon_name(uid), DAEMON_TARGET, "daemon", DAEMON_CLASS, config)


def workload_claim_template(domain: ComputeDomain, *, is_host_managed: bool = False) -> dict[str, Any]:
    """The ResourceClaimTemplate that the user named, in the domain's namespace."""
    meta = domain.meta
    config = {
        "apiVersion": GROUP_VERSION,
        "kind": "ComputeDomainChannelConfig",
        "domainID": meta.uid,
        "allocationMode": SINGLE if is_host_managed else domain.allocation_mode,
    }
    return _claim_template(meta.uid, meta.namespace, domain.template, WORKLOAD_TARGET, "channel", CHANNEL_CLASS, config)


def gates_text(gates: Mapping[str, bool]) -> str:
    """Every gate in byte order, with the trailing comma of the Go driver's template."""
    return "".join(f"{name}={'true' if gates[name] else 'false'}," for name in sorted(gates))


def daemon_environment(thing: Mapping[str, Any]) -> dict[str, str]:
    """The plain variables of a DaemonSet's daemons, and under "image" their image."""
    for container in objects(mapping(mapping(mapping(thing, "spec"), "template"), "spec"), "containers"):
        if text(container, "name") == DAEMON_CONTAINER:
            variables = {text(each, "name"): text(each, "value") for each in objects(container, "env")}
            return {**variables, "image": text(container, "image")}
    return {}


def _claim_template(
    uid: str, namespace: str, name: str, target: str, request: str, device_class: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "finalizers": [FINALIZER],
            "labels": {DOMAIN_LABEL: uid, TARGET_LABEL: target},
        },
        "spec": {
            "spec": {
                "devices": {
                    "requests": [{"name": request, "exactly": {"deviceClassName": device_class}}],
                    "config": [{"requests": [request], "opaque": {"driver": DRIVER, "parameters": dict(config)}}],
                }
            }
        },
    }


def _pod(uid: str, settings: DaemonSettings) -> dict[str, Any]:
    secrets = {"imagePullSecrets": [{"name": name} for name in settings.pull_secrets]} if settings.pull_secrets else {}
    return {
        "serviceAccountName": DAEMON_ACCOUNT,
        **secrets,
        "nodeSelector": {DOMAIN_LABEL: uid},
        "containers": [
            {
                "name": DAEMON_CONTAINER,
                "image": settings.image,
                "command": ["compute-domain-daemon", "-v", "$(LOG_VERBOSITY)", "run"],
                "env": _environment(settings),
                "resources": {"claims": [{"name": DAEMON_CONTAINER}]},
                # Every second and for twenty minutes: a daemon that waits for its fabric must not be restarted for it.
                "startupProbe": _probe(1, 1200),
                "livenessProbe": _probe(60, 20),
                "readinessProbe": _probe(10, 1),
            }
        ],
        # Wherever a workload runs, its daemon must run too.
        "tolerations": [
            {"operator": "Exists", "effect": effect} for effect in ("NoSchedule", "NoExecute", "PreferNoSchedule")
        ],
        "resourceClaims": [{"name": DAEMON_CONTAINER, "resourceClaimTemplateName": daemon_name(uid)}],
    }


def _environment(settings: DaemonSettings) -> Sequence[Mapping[str, Any]]:
    fields = {
        "NODE_NAME": "spec.nodeName",
        "POD_IP": "status.podIP",
        "POD_UID": "metadata.uid",
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
    }
    return [
        {"name": "LOG_VERBOSITY", "value": str(settings.log_verbosity)},
        {"name": "MAX_NODES_PER_IMEX_DOMAIN", "value": str(settings.max_nodes)},
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        # Said, because runtimes give a container that says nothing all GPUs of its image's environment.
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
        {"name": "FEATURE_GATES", "value": gates_text(settings.gates)},
    ]


def _probe(period_s: int, failures: int) -> dict[str, Any]:
    return {
        "exec": {"command": ["compute-domain-daemon", "-v", "$(LOG_VERBOSITY)", "check"]},
        "periodSeconds": period_s,
        "timeoutSeconds": 10,
        "failureThreshold": failures,
        "successThreshold": 1,
    }
