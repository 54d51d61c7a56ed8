"""`helm template` as a function, and what must hold for anything that it renders."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[3] / "deploy" / "helm" / "dra-driver-nvidia-gpu"
ALL_PROGRAMS = (
    "gpu-kubelet-plugin",
    "compute-domain-controller",
    "compute-domain-daemon",
    "compute-domain-kubelet-plugin",
    "webhook",
)
RELEASED = (
    "compute-domain-controller",
    "compute-domain-daemon",
    "compute-domain-kubelet-plugin",
    "gpu-kubelet-plugin",
    "webhook",
)
"""What the image of this release has, as the chart says."""
WITHOUT_DOMAINS = ("gpu-kubelet-plugin", "webhook")
NAME = "dra-driver-nvidia-gpu"
OPENSHIFT = "security.openshift.io/v1/SecurityContextConstraints"
GPUS = {"gpuResourcesEnabledOverride": True}
"""What an install needs at the least."""

Object = dict[str, Any]


class Refused(Exception):
    """Helm refused the values; the text is what a user sees."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects of one rendering."""

    objects: tuple[Object, ...]

    def all(self, kind: str) -> dict[str, Object]:
        """Name → object of that kind; `namespace/name` where several namespaces have one."""
        of_kind = [each for each in self.objects if each["kind"] == kind]
        names = Counter(each["metadata"]["name"] for each in of_kind)

        def label(each: Object) -> str:
            name: str = each["metadata"]["name"]
            return name if names[name] == 1 else f"{each['metadata']['namespace']}/{name}"

        return {label(each): each for each in of_kind}

    def one(self, kind: str) -> Object:
        (found,) = (each for each in self.objects if each["kind"] == kind)
        return found

    @property
    def pod(self) -> Object:
        """The pod's spec of the kubelet plugin."""
        spec: Object = self.one("DaemonSet")["spec"]["template"]["spec"]
        return spec

    def container(self, name: str = "gpus") -> Object:
        """A container of any of the workloads, init containers included."""
        for each in self.objects:
            if each["kind"] in ("DaemonSet", "Deployment"):
                spec = each["spec"]["template"]["spec"]
                for container in (*spec.get("initContainers", ()), *spec["containers"]):
                    if container["name"] == name:
                        found: Object = container
                        return found
        raise LookupError(f"no container {name}")

    def env(self, container: str = "gpus") -> dict[str, Any]:
        """Variable → value, or the field that it is taken from; the last one of a name, as Kubernetes does."""
        return {
            each["name"]: each["value"] if "value" in each else each["valueFrom"]["fieldRef"]["fieldPath"]
            for each in self.container(container)["env"]
        }


class Helm:
    """The chart rendered by the helm at `program`; `scratch` takes copies of it."""

    def __init__(self, program: Path, scratch: Path) -> None:
        self.program = program
        self._scratch = scratch
        self._rendered: dict[str, Rendered] = {}

    def run(self, *arguments: str) -> str:
        done = subprocess.run([str(self.program), *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def render(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        programs: Iterable[str] = RELEASED,
        api_versions: Iterable[str] = ("resource.k8s.io/v1",),
        release: str = "dra",
        namespace: str = "gpu",
        chart: Path | None = None,
    ) -> Rendered:
        """The objects for these values ("a.b" names nested ones) on top of the chart's, held to `sound`."""
        chart = chart or self.with_programs(programs)
        text = yaml.safe_dump(nested(values if values is not None else GPUS))
        file = self._scratch / "values.yaml"
        arguments = ["template", release, str(chart), "--namespace", namespace, "--values", str(file)]
        arguments += ["--kube-version", "1.37.2"]
        for version in api_versions:
            arguments += ["--api-versions", version]
        # Most tests compare with one and the same rendering.
        asked = "\n".join((*arguments, text))
        if asked not in self._rendered:
            file.write_text(text)
            rendered = self.run(*arguments)
            objects = tuple(each for each in yaml.load_all(rendered, _Strict) if each is not None)
            sound(objects, namespace)
            self._rendered[asked] = Rendered(objects)
        return self._rendered[asked]

    def notes(self, values: Mapping[str, Any], programs: Iterable[str] = RELEASED) -> str:
        """What a user reads after an install. Helm renders it only for a cluster; so it is made a template here."""
        copy = self._scratch / "noted"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.with_programs(programs), copy)
        notes = (copy / "templates" / "NOTES.txt").read_text()
        probe = 'kind: Notes\nmetadata: {name: notes}\ntext: {{ include "probe" . | quote }}\n'
        (copy / "templates" / "probe.yaml").write_text('{{ define "probe" }}' + notes + "{{ end }}" + probe)
        file = self._scratch / "notes-values.yaml"
        file.write_text(yaml.safe_dump(nested(values)))
        arguments = ["template", "dra", str(copy), "--namespace", "gpu", "--kube-version", "1.37.2"]
        text = self.run(*arguments, "--values", str(file), "--show-only", "templates/probe.yaml")
        rendered: str = yaml.safe_load(text)["text"]
        return rendered

    def with_programs(self, programs: Iterable[str]) -> Path:
        """The chart as it will be once the image has these programs, and they carry out every feature gate."""
        wanted = " ".join(programs)
        if wanted == " ".join(RELEASED):
            return CHART
        copy = self._scratch / wanted.replace(" ", "+")
        if not copy.exists():
            shutil.copytree(CHART, copy)
            description = (copy / "Chart.yaml").read_text()
            changed = re.sub(r"(dra-driver-nvidia-gpu/programs): .*", rf"\1: {wanted}", description)
            assert changed != description
            (copy / "Chart.yaml").write_text(changed)
            table = copy / "templates" / "_gates.tpl"
            built = re.sub(
                r"^unbuilt:.*?(?=\{\{- end)", "unbuilt: {}\n", table.read_text(), flags=re.DOTALL | re.MULTILINE
            )
            table.write_text(built)
        return copy


def nested(values: Mapping[str, Any]) -> Object:
    """{"a.b": 1} → {"a": {"b": 1}}."""
    tree: Object = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]  # type: ignore[no-untyped-call]
        twice = [key for key, count in Counter(keys).items() if count > 1]
        assert not twice, f"{twice} twice, {node.start_mark}"
        return super().construct_mapping(node, deep)


_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_VERSIONS = {
    "Certificate": "cert-manager.io/v1",
    "ClusterRole": "rbac.authorization.k8s.io/v1",
    "ConfigMap": "v1",
    "ClusterRoleBinding": "rbac.authorization.k8s.io/v1",
    "DaemonSet": "apps/v1",
    "Deployment": "apps/v1",
    "Issuer": "cert-manager.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PriorityClass": "scheduling.k8s.io/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "Secret": "v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "ValidatingAdmissionPolicy": "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicyBinding": "admissionregistration.k8s.io/v1",
    "ValidatingWebhookConfiguration": "admissionregistration.k8s.io/v1",
}
_OF_THE_CLUSTER = {
    "ClusterRole",
    "ClusterRoleBinding",
    "DeviceClass",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
}


def sound(objects: Iterable[Object], namespace: str) -> None:
    """Holds any rendering: kinds, names, labels, references from one object to another."""
    objects = list(objects)
    identities = Counter((o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects)
    assert [each for each, count in identities.items() if count > 1] == []
    for each in objects:
        kind, metadata = each["kind"], each["metadata"]
        if kind == "DeviceClass":
            assert each["apiVersion"].startswith("resource.k8s.io/v1")
        else:
            assert each["apiVersion"] == _VERSIONS[kind]
        assert ("namespace" in metadata) == (kind not in _OF_THE_CLUSTER), kind
        # RBAC takes path segments as names, everything else DNS names.
        if not kind.startswith(("Role", "ClusterRole")):
            assert _DNS_NAME.fullmatch(metadata["name"]), metadata["name"]
        assert {"helm.sh/chart", "app.kubernetes.io/name", "app.kubernetes.io/instance"} <= metadata["labels"].keys()
        assert all(_LABEL.fullmatch(value) for value in metadata["labels"].values()), metadata["labels"]
        assert None not in metadata.values()
    for each in objects:
        if each["kind"] in ("DaemonSet", "Deployment"):
            _sound_workload(each, objects)
        if each["kind"].endswith("Binding") and "roleRef" in each:
            _sound_binding(each, objects)


def _sound_workload(workload: Object, objects: list[Object]) -> None:
    template = workload["spec"]["template"]
    selector, labels = workload["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]
    assert selector
    assert selector.items() <= labels.items()
    pod = template["spec"]
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    used = {mount["name"] for container in containers for mount in container.get("volumeMounts", ())}
    assert used == volumes
    ports = [port for container in containers for port in container.get("ports", ())]
    names = [port["name"] for port in ports]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 15 for name in names)
    numbers = [port["containerPort"] for port in ports]
    assert all(isinstance(number, int) for number in numbers)
    assert len(set(numbers)) == len(numbers), "two containers of a pod listen on one port"
    for container in containers:
        for variable in container.get("env", ()):
            assert "valueFrom" in variable or isinstance(variable["value"], str), variable
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
        assert len(set(paths)) == len(paths)
        security = container.get("securityContext", {})
        bidirectional = [m for m in container.get("volumeMounts", ()) if m.get("mountPropagation") == "Bidirectional"]
        assert not bidirectional or security.get("privileged"), "Kubernetes grants it to privileged containers only"


def _sound_binding(binding: Object, objects: list[Object]) -> None:
    role = binding["roleRef"]
    if not role["name"].startswith("system:"):
        namespace = binding["metadata"].get("namespace") if role["kind"] == "Role" else None
        assert any(
            (o["kind"], o["metadata"]["name"], o["metadata"].get("namespace"))
            == (role["kind"], role["name"], namespace)
            for o in objects
        ), role
    accounts = {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects if o["kind"] == "ServiceAccount"}
    assert binding["subjects"]
    for subject in binding["subjects"]:
        assert (subject["namespace"], subject["name"]) in accounts, subject
