"""What a value does to the objects, as a value of its own; and lenses on the objects."""

from __future__ import annotations

import subprocess
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from tests.cluster.chart.rendering import NAME, Rendered

AFFINITY: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
LABELS = {"mine": "yes"}


@dataclass(frozen=True, slots=True)
class Effect:
    """What a value does: set to `value` (with `also`), `seen` finds `wanted`, and without it something else."""

    name: str
    value: Any
    seen: Callable[[Rendered], Any]
    wanted: Any
    also: Mapping[str, Any] = field(default_factory=dict)


def kubelet_plugin(*path: str) -> Callable[[Rendered], Any]:
    return lambda r: at(r.one("DaemonSet"), path)


def controller(*path: str) -> Callable[[Rendered], Any]:
    return lambda r: at(r.all("Deployment").get(f"{NAME}-controller"), path)


def webhook(*path: str) -> Callable[[Rendered], Any]:
    return lambda r: at(r.all("Deployment").get(f"{NAME}-webhook"), path)


def container(name: str, *path: str) -> Callable[[Rendered], Any]:
    return lambda r: at(r.container(name), path)


def env(variable: str, name: str = "gpus") -> Callable[[Rendered], Any]:
    return lambda r: r.env(name).get(variable)


def object_of(kind: str, *path: str, name: str = "") -> Callable[[Rendered], Any]:
    def see(rendered: Rendered) -> Any:
        found = rendered.all(kind)
        return at(found.get(name) if name else next(iter(found.values()), None), path)

    return see


def at(node: Any, path: tuple[str, ...]) -> Any:
    """What is there, or None."""
    for part in path:
        if node is None:
            return None
        node = node[int(part)] if isinstance(node, list) else node.get(part)
    return node


def host_path(name: str) -> Callable[[Rendered], Any]:
    return lambda r: {v["name"]: v.get("hostPath", {}).get("path") for v in r.pod["volumes"]}.get(name)


def port(name: str, of: str) -> Callable[[Rendered], Any]:
    return lambda r: {p["name"]: p["containerPort"] for p in r.container(of).get("ports", ())}.get(name)


def egress(component: str) -> Callable[[Rendered], Any]:
    def see(rendered: Rendered) -> Any:
        policy = rendered.all("NetworkPolicy").get(f"{NAME}-{component}")
        return policy and [
            [(p["protocol"], p["port"]) for p in rule["ports"]] for rule in policy["spec"]["egress"] if "to" not in rule
        ]

    return see


TEMPLATE = ("spec", "template")
POD = (*TEMPLATE, "spec")
DNS = [("UDP", 53), ("TCP", 53)]
FULL = f"dra-{NAME}"


def component(values: str, see: Callable[..., Callable[[Rendered], Any]], also: Mapping[str, Any]) -> list[Effect]:
    """The values that every workload has."""
    return [
        Effect(f"{values}.priorityClassName", "mine", see(*POD, "priorityClassName"), "mine", also),
        Effect(f"{values}.podAnnotations", LABELS, see(*TEMPLATE, "metadata", "annotations"), LABELS, also),
        Effect(f"{values}.podSecurityContext", {"fsGroup": 7}, see(*POD, "securityContext"), {"fsGroup": 7}, also),
        Effect(f"{values}.nodeSelector", LABELS, see(*POD, "nodeSelector"), LABELS, also),
        Effect(
            f"{values}.tolerations",
            [{"key": "mine", "operator": "Exists"}],
            see(*POD, "tolerations"),
            [{"key": "mine", "operator": "Exists"}],
            also,
        ),
    ]


def of_container(values: str, name: str, also: Mapping[str, Any] = {}) -> list[Effect]:
    return [
        Effect(f"{values}.securityContext", {"runAsUser": 7}, container(name, "securityContext", "runAsUser"), 7, also),
        Effect(
            f"{values}.resources",
            {"requests": {"cpu": "7m"}},
            container(name, "resources", "requests", "cpu"),
            "7m",
            also,
        ),
    ]


def monitor(
    values: str, name: str, ports: list[str], interval: str, also: Mapping[str, Any] = MappingProxyType({})
) -> list[Effect]:
    on = {**also, f"{values}.podMonitor.enabled": True}
    endpoints = [{"port": each, "path": "/metrics"} for each in ports]
    slow = [each | {"interval": interval} for each in endpoints]
    see = object_of("PodMonitor", "spec", "podMetricsEndpoints", name=name)
    label = object_of("PodMonitor", "metadata", "labels", "mine", name=name)
    return [
        Effect(f"{values}.podMonitor.enabled", True, see, endpoints, also),
        Effect(f"{values}.podMonitor.labels", LABELS, label, "yes", on),
        Effect(f"{values}.podMonitor.interval", interval, see, slow, on),
    ]


def valid_days(rendered: Rendered) -> int | None:
    """For how long the certificate is made that helm makes, in days."""
    secret = at(next(iter(rendered.all("Secret").values()), None), ("data", "tls.crt"))
    if secret is None:
        return None
    command = ["openssl", "x509", "-noout", "-dates", "-dateopt", "iso_8601"]
    told = subprocess.run(command, input=b64decode(secret), capture_output=True, check=True).stdout.decode()
    begin, end = (datetime.fromisoformat(line.partition("=")[2].strip()) for line in told.split("\n")[:2])
    return (end - begin).days
