"""The pods: what is in them by default is the Go driver's chart, with the differences named here."""

from __future__ import annotations

import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra.programs.webhook.certificate import load
from tests.cluster.chart.rendering import ALL_PROGRAMS, CHART, GPUS, NAME, Helm

COMMON_ENV = {
    "HTTP_ENDPOINT": ":8080",
    "METRICS_PATH": "/metrics",
    "LOG_VERBOSITY": "4",
    "MASK_NVIDIA_DRIVER_PARAMS": "",
    "NVIDIA_DRIVER_ROOT": "/",
    "NVIDIA_VISIBLE_DEVICES": "void",
    "CDI_ROOT": "/var/run/cdi",
    "NVIDIA_MIG_CONFIG_DEVICES": "all",
    "NODE_NAME": "spec.nodeName",
    "NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
    "KUBELET_REGISTRAR_DIRECTORY_PATH": "/var/lib/kubelet/plugins_registry",
    "KUBELET_PLUGINS_DIRECTORY_PATH": "/var/lib/kubelet/plugins",
}
IMAGE = f"dra-driver-nvidia/dra-driver-nvidia-gpu:v{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"


def mounts(container: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    """Path → read-only, propagation."""
    return {
        each["mountPath"]: (each.get("readOnly", False), each.get("mountPropagation", ""))
        for each in container["volumeMounts"]
    }


def test_without_compute_domains_the_plugin_of_gpus_alone(helm: Helm) -> None:
    rendered = helm.render(GPUS | {"resources.computeDomains.enabled": False})
    kinds = sorted(each["kind"] for each in rendered.objects)
    assert kinds == [
        "ClusterRole",
        "ClusterRoleBinding",
        "DaemonSet",
        "DeviceClass",
        "DeviceClass",
        "DeviceClass",
        "ServiceAccount",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ]
    daemon_set = rendered.one("DaemonSet")
    assert daemon_set["metadata"]["name"] == f"{NAME}-kubelet-plugin"
    assert daemon_set["spec"]["selector"]["matchLabels"] == {f"{NAME}-component": "kubelet-plugin"}
    assert daemon_set["spec"]["template"]["metadata"]["labels"] == {
        "app.kubernetes.io/name": NAME,
        "app.kubernetes.io/instance": "dra",
        f"{NAME}-component": "kubelet-plugin",
    }
    pod = rendered.pod
    assert [each["name"] for each in pod["containers"]] == ["gpus"]
    assert pod["priorityClassName"] == "system-node-critical"
    assert not pod.get("hostNetwork")
    assert not pod.get("hostPID")


def test_container_gpus(helm: Helm) -> None:
    rendered = helm.render()
    container = rendered.container()
    assert container["image"] == IMAGE
    assert container["command"] == ["bash", "-c"]
    assert container["args"][0].splitlines()[-1] == "exec gpu-kubelet-plugin -v $(LOG_VERBOSITY)"
    assert rendered.env() == COMMON_ENV | {
        "SERVICE_ACCOUNT_NAME": "spec.serviceAccountName",
        "IMAGE_NAME": IMAGE,
        "IMAGE_PULL_POLICY": "IfNotPresent",
        "HEALTHCHECK_PORT": "51516",
    }
    assert mounts(container) == {
        "/var/lib/kubelet/plugins_registry": (False, ""),
        "/var/lib/kubelet/plugins": (False, "Bidirectional"),
        "/var/run/cdi": (False, ""),
        "/tmp": (False, ""),
        "/driver-root": (False, ""),
    }
    grpc = {"port": 51516, "service": "liveness"}
    assert container["startupProbe"] == {
        "grpc": grpc,
        "periodSeconds": 1,
        "failureThreshold": 600,
        "timeoutSeconds": 10,
    }
    assert container["livenessProbe"] == {
        "grpc": grpc,
        "periodSeconds": 30,
        "failureThreshold": 3,
        "timeoutSeconds": 10,
    }
    assert "readinessProbe" not in container
    assert container["securityContext"] == {"privileged": True, "readOnlyRootFilesystem": True}


@pytest.mark.parametrize(("container", "key"), [("gpus", "gpus"), ("compute-domains", "computeDomains")])
def test_a_users_variable_takes_the_place_of_the_charts(helm: Helm, container: str, key: str) -> None:
    """A second entry of the name would do on an install, and be lost in an upgrade's patch, which is made by name."""
    own = [{"name": "LOG_VERBOSITY", "value": "6"}, {"name": "POD_UID", "value": ""}, {"name": "MINE", "value": "1"}]
    without = helm.render(programs=ALL_PROGRAMS).container(container)["env"]
    rendered = helm.render(GPUS | {f"kubeletPlugin.containers.{key}.env": own}, programs=ALL_PROGRAMS)
    kept = [each for each in without if each["name"] not in ("LOG_VERBOSITY", "POD_UID")]
    assert len(kept) == len(without) - 2
    assert rendered.container(container)["env"] == [*kept, *own]


def test_init_container(helm: Helm) -> None:
    rendered = helm.render()
    container = rendered.container("init-container")
    assert container["command"] == ["bash", "/usr/bin/kubelet-plugin-prestart.sh"]
    assert rendered.env("init-container") == {
        "NVIDIA_DRIVER_ROOT": "/",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "KUBELET_REGISTRAR_DIRECTORY_PATH": "/var/lib/kubelet/plugins_registry",
        "KUBELET_PLUGINS_DIRECTORY_PATH": "/var/lib/kubelet/plugins",
    }
    assert mounts(container) == {"/driver-root-parent": (True, "")}
    assert container["securityContext"] == {"privileged": True}


@pytest.mark.parametrize(
    ("root", "parent"),
    [
        ("/", "/"),
        ("/run/nvidia/driver", "/run/nvidia"),
        ("/run/nvidia/driver/", "/run/nvidia"),
        ("/driver", "/"),
        ("/home/kubernetes/bin/nvidia", "/home/kubernetes/bin"),
    ],
)
def test_driver_root_and_its_parent(helm: Helm, root: str, parent: str) -> None:
    rendered = helm.render(GPUS | {"nvidiaDriverRoot": root})
    paths = {each["name"]: each.get("hostPath") for each in rendered.pod["volumes"]}
    assert paths["driver-root"] == {"path": root, "type": "DirectoryOrCreate"}
    assert paths["driver-root-parent"] == {"path": parent, "type": "DirectoryOrCreate"}
    assert rendered.env()["NVIDIA_DRIVER_ROOT"] == root
    assert rendered.env("init-container")["NVIDIA_DRIVER_ROOT"] == root
    # Where another pod mounts the driver later, the mount must show here.
    wanted = (True, "") if root == "/" else (False, "HostToContainer")
    assert mounts(rendered.container("init-container"))["/driver-root-parent"] == wanted
    # Of / no later mount is wanted, and on some hosts it is no shared mount: a pod that asked would not start.
    assert mounts(rendered.container())["/driver-root"] == (False, wanted[1])


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, {"maxSurge": 1, "maxUnavailable": 0}),
        ({"maxUnavailable": "100%"}, {"maxUnavailable": "100%"}),
        ({"maxUnavailable": 1}, {"maxUnavailable": 1}),
        ({"maxUnavailable": "0%"}, {"maxSurge": 1, "maxUnavailable": "0%"}),
        ({"maxUnavailable": "0"}, {"maxSurge": 1, "maxUnavailable": "0"}),
        ({"maxUnavailable": 2, "maxSurge": 3}, {"maxUnavailable": 2}),
        ({"maxSurge": "50%"}, {"maxSurge": "50%", "maxUnavailable": 0}),
    ],
)
def test_update_strategy(helm: Helm, asked: dict[str, Any], wanted: dict[str, Any]) -> None:
    rendered = helm.render(GPUS | {"kubeletPlugin.updateStrategy": {"rollingUpdate": asked}})
    strategy = rendered.one("DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": wanted}


def test_on_delete_has_no_rolling_update(helm: Helm) -> None:
    rendered = helm.render(GPUS | {"kubeletPlugin.updateStrategy.type": "OnDelete"})
    assert rendered.one("DaemonSet")["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_containers_of_one_pod_do_not_share_the_file_of_their_stacks(helm: Helm) -> None:
    rendered = helm.render(programs=ALL_PROGRAMS)
    folders = [
        mount["subPath"]
        for container in rendered.pod["containers"]
        for mount in container["volumeMounts"]
        if mount["mountPath"] == "/tmp"
    ]
    assert sorted(folders) == ["compute-domains", "gpus"]


def test_container_compute_domains(helm: Helm) -> None:
    rendered = helm.render(programs=ALL_PROGRAMS)
    container = rendered.container("compute-domains")
    assert [each["name"] for each in rendered.pod["containers"]] == ["compute-domains", "gpus"]
    assert container["command"] == ["bash", "-c"]
    assert container["args"][0].splitlines()[-1] == "exec compute-domain-kubelet-plugin -v $(LOG_VERBOSITY)"
    assert rendered.env("compute-domains") == COMMON_ENV | {
        "HTTP_ENDPOINT": ":8081",
        "IMEX_MODE": "driverManaged",
        "IMEX_ISOLATION": "domain",
        "IMEX_HOST_SOCKET_PATH": "/etc/nvidia-imex/imex_ctrl.sock",
        "HEALTHCHECK_PORT": "51515",
        "GPU_CLIQUE_LABEL_ENABLED": "false",
    }
    assert mounts(container)["/driver-root"] == (True, "")
    assert container["livenessProbe"]["periodSeconds"] == 10
    assert container["startupProbe"]["grpc"] == {"port": 51515, "service": "liveness"}
    assert container["securityContext"] == {"privileged": True}


def test_container_compute_domain(helm: Helm) -> None:
    rendered = helm.render(programs=ALL_PROGRAMS)
    deployment = rendered.all("Deployment")[f"{NAME}-controller"]
    assert deployment["spec"]["selector"]["matchLabels"] == {f"{NAME}-component": "controller"}
    container = rendered.container("compute-domain")
    assert container["command"] == ["compute-domain-controller", "-v", "$(LOG_VERBOSITY)"]
    assert list(rendered.env("compute-domain").items()) == [
        ("HTTP_ENDPOINT", ":8080"),
        ("METRICS_PATH", "/metrics"),
        ("PPROF_PATH", ""),
        ("LOG_VERBOSITY", "4"),
        ("LOG_VERBOSITY_CD_DAEMON", "4"),
        ("POD_NAME", "metadata.name"),
        ("NAMESPACE", "metadata.namespace"),
        ("IMAGE_NAME", IMAGE),
        ("NVIDIA_VISIBLE_DEVICES", "void"),
        ("IMEX_MODE", "driverManaged"),
        ("IMEX_ISOLATION", "domain"),
        ("LEADER_ELECTION_ENABLED", "false"),
        ("LEADER_ELECTION_LEASE_LOCK_NAME", f"{NAME}-controller"),
        ("LEADER_ELECTION_LEASE_LOCK_NAMESPACE", "gpu"),
        ("LEADER_ELECTION_LEASE_DURATION", "15s"),
        ("LEADER_ELECTION_RENEW_DEADLINE", "10s"),
        ("LEADER_ELECTION_RETRY_PERIOD", "2s"),
    ]


def test_only_compute_domains(helm: Helm) -> None:
    rendered = helm.render({"resources.gpus.enabled": False}, programs=ALL_PROGRAMS)
    assert [each["name"] for each in rendered.pod["containers"]] == ["compute-domains"]
    assert set(rendered.all("DeviceClass")) == {
        "compute-domain-daemon.nvidia.com",
        "compute-domain-default-channel.nvidia.com",
    }


def test_neither(helm: Helm) -> None:
    off = {"resources.gpus.enabled": False, "resources.computeDomains.enabled": False}
    rendered = helm.render(off, programs=ALL_PROGRAMS)
    assert sorted(each["kind"] for each in rendered.objects) == [
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ]


def test_passthrough_mounts_the_host(helm: Helm) -> None:
    rendered = helm.render(GPUS | {"featureGates": {"PassthroughSupport": True}}, programs=ALL_PROGRAMS)
    found = mounts(rendered.container())
    assert found["/host-root"] == (True, "HostToContainer")
    assert found["/lib/modules/"] == (True, "HostToContainer")
    assert found["/sys/"] == found["/proc/"] == (False, "Bidirectional")
    assert rendered.env()["HOST_ROOT"] == "/host-root"
    assert rendered.env()["FEATURE_GATES"] == "PassthroughSupport=true,"
    paths = {each["name"]: each["hostPath"] for each in rendered.pod["volumes"] if "hostPath" in each}
    assert {name: paths[name]["path"] for name in ("host-root", "lib-modules", "sysfs", "procfs")} == {
        "host-root": "/",
        "lib-modules": "/lib/modules/",
        "sysfs": "/sys/",
        "procfs": "/proc/",
    }
    assert paths["host-root"]["type"] == "Directory"
    assert "/host-root" not in mounts(rendered.container("compute-domains"))


def test_a_gate_can_be_on_by_its_group(helm: Helm) -> None:
    gates = {"AllAlpha": True, "DynamicMIG": False, "NVMLDeviceHealthCheck": False}
    assert "/host-root" in mounts(helm.render(GPUS | {"featureGates": gates}, programs=ALL_PROGRAMS).container())
    named = gates | {"PassthroughSupport": False, "DeviceMetadata": False}
    rendered = helm.render(GPUS | {"featureGates": named}, programs=ALL_PROGRAMS)
    assert "/host-root" not in mounts(rendered.container())


@pytest.mark.parametrize(("port", "variable"), [(0, "0"), (-1, "-1"), ("51999", "51999")])
def test_probes_need_a_port_that_is_known(helm: Helm, port: int | str, variable: str) -> None:
    rendered = helm.render(GPUS | {"kubeletPlugin.containers.gpus.healthcheckPort": port})
    container = rendered.container()
    assert rendered.env()["HEALTHCHECK_PORT"] == variable
    is_known = int(port) > 0
    assert ("livenessProbe" in container) == ("startupProbe" in container) == is_known
    assert ("gpu-health" in [each["name"] for each in container["ports"]]) == is_known


def test_webhook(helm: Helm) -> None:
    rendered = helm.render(GPUS | {"webhook.enabled": True, "featureGates.TimeSlicingSettings": True})
    deployment = rendered.all("Deployment")[f"{NAME}-webhook"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    container = rendered.container("webhook")
    assert container["command"] == ["webhook"]
    assert container["args"] == [
        "--tls-cert-file=/cert/tls.crt",
        "--tls-private-key-file=/cert/tls.key",
        "--port=443",
        "-v=4",
    ]
    assert rendered.env("webhook") == {
        "FEATURE_GATES": "TimeSlicingSettings=true,",
        "HTTP_ENDPOINT": ":8080",
        "METRICS_PATH": "/metrics",
    }
    ready = {"path": "/readyz", "port": "webhook", "scheme": "HTTPS"}
    assert container["livenessProbe"] == {"httpGet": ready, "failureThreshold": 5}
    assert container["readinessProbe"] == {"httpGet": ready, "failureThreshold": 3}
    pod = deployment["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "cert", "secret": {"secretName": f"{NAME}-webhook-cert"}}]
    assert pod["automountServiceAccountToken"] is False
    assert "topologySpreadConstraints" not in pod
    service = rendered.one("Service")
    assert service["metadata"]["name"] == f"{NAME}-webhook"
    assert service["spec"]["ports"] == [{"name": "https", "port": 443, "targetPort": "webhook"}]
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert rendered.one("Issuer")["metadata"]["name"] == f"dra-{NAME}-webhook-issuer"
    certificate = rendered.one("Certificate")["spec"]
    assert certificate["dnsNames"] == [f"{NAME}-webhook.gpu.svc"]
    assert certificate["issuerRef"] == {"kind": "Issuer", "name": f"dra-{NAME}-webhook-issuer"}
    configuration = rendered.one("ValidatingWebhookConfiguration")
    assert configuration["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": f"gpu/{NAME}-webhook-cert"}
    (entry,) = configuration["webhooks"]
    conditions = {each["name"]: each["expression"] for each in entry.pop("matchConditions")}
    assert conditions["not-in-the-drivers-namespace"] == "request.namespace != 'gpu'"
    assert list(conditions) == [
        "not-in-the-drivers-namespace",
        "not-being-deleted",
        "has-parameters-of-this-driver",
    ]
    assert entry == {
        "name": "gpu.nvidia.com",
        "clientConfig": {
            "service": {
                "namespace": "gpu",
                "name": f"{NAME}-webhook",
                "port": 443,
                "path": "/validate-resource-claim-parameters",
            }
        },
        "rules": [
            {
                "apiGroups": ["resource.k8s.io"],
                "apiVersions": ["v1beta1", "v1beta2", "v1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["resourceclaims", "resourceclaimtemplates"],
                "scope": "Namespaced",
            }
        ],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 5,
    }


def test_several_webhooks_are_never_all_away(helm: Helm) -> None:
    two = GPUS | {"webhook.enabled": True, "webhook.replicas": 2}
    rendered = helm.render(two)
    pod = rendered.all("Deployment")[f"{NAME}-webhook"]["spec"]["template"]
    budget = rendered.one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert spread["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    mine = helm.render(two | {"webhook.affinity": {"podAntiAffinity": {}}})
    assert "topologySpreadConstraints" not in mine.all("Deployment")[f"{NAME}-webhook"]["spec"]["template"]["spec"]
    one = helm.render(GPUS | {"webhook.enabled": True})
    assert not one.all("PodDisruptionBudget")


def test_the_go_drivers_strategy_is_not_taken_at_its_word(helm: Helm) -> None:
    """Its chart has the value and renders it nowhere: all pods at once would refuse claims meanwhile."""
    upstream = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    rendered = helm.render(GPUS | {"webhook.enabled": True, "webhook.strategy": upstream})
    strategy = rendered.all("Deployment")[f"{NAME}-webhook"]["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_webhook_with_a_certificate_of_helms(helm: Helm, tmp_path: Path) -> None:
    tls = {"webhook.enabled": True, "webhook.tls.mode": "self-signed", "webhook.tls.selfSigned.validityDays": 30}
    rendered = helm.render(GPUS | tls)
    assert not rendered.all("Issuer")
    assert not rendered.all("Certificate")
    secret = rendered.one("Secret")
    assert secret["type"] == "kubernetes.io/tls"
    (volume,) = rendered.all("Deployment")[f"{NAME}-webhook"]["spec"]["template"]["spec"]["volumes"]
    assert volume["secret"] == {"secretName": secret["metadata"]["name"]}
    (entry,) = rendered.one("ValidatingWebhookConfiguration")["webhooks"]
    assert entry["clientConfig"]["caBundle"] == secret["data"]["ca.crt"]
    for name, data in secret["data"].items():
        (tmp_path / name).write_bytes(b64decode(data))
    # As the API server asks: the authority, the Service's name, the purpose.
    verify = ["openssl", "verify", "-CAfile", "ca.crt", "-purpose", "sslserver"]
    verify += ["-verify_hostname", f"{NAME}-webhook.gpu.svc", "tls.crt"]
    assert subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "tls.crt: OK\n"
    pair = load(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert pair.names == (f"{NAME}-webhook.gpu.svc", f"{NAME}-webhook.gpu")
    assert pair.expires is not None
    # Renewed in the last third.
    renew_after = int(secret["metadata"]["annotations"][f"{NAME}/renew-after"])
    assert abs(pair.expires - renew_after - 10 * 86400) < 3600


def test_webhook_with_a_certificate_of_the_users(helm: Helm) -> None:
    tls = {"mode": "secret", "secret": {"name": "mine", "caBundle": "Q0E="}}
    rendered = helm.render(GPUS | {"webhook.enabled": True, "webhook.tls": tls}, programs=ALL_PROGRAMS)
    (volume,) = rendered.all("Deployment")[f"{NAME}-webhook"]["spec"]["template"]["spec"]["volumes"]
    assert volume["secret"] == {"secretName": "mine"}
    assert not rendered.all("Issuer")
    assert not rendered.all("Certificate")
    configuration = rendered.one("ValidatingWebhookConfiguration")
    assert "annotations" not in configuration["metadata"]
    assert configuration["webhooks"][0]["clientConfig"]["caBundle"] == "Q0E="


@pytest.mark.parametrize(("issuer", "kind"), [("clusterissuer", "ClusterIssuer"), ("issuer", "Issuer")])
def test_webhook_with_an_issuer_of_the_users(helm: Helm, issuer: str, kind: str) -> None:
    settings = {"issuerType": issuer, "issuerName": "mine", "dnsNames": ["other.test"]}
    values = GPUS | {"webhook.enabled": True, "webhook.tls.certManager": settings}
    rendered = helm.render(values, programs=ALL_PROGRAMS)
    assert not rendered.all("Issuer")
    certificate = rendered.one("Certificate")["spec"]
    assert certificate["issuerRef"] == {"kind": kind, "name": "mine"}
    assert certificate["dnsNames"] == [f"{NAME}-webhook.gpu.svc", "other.test"]
