"""What the chart refuses, in the Go driver's first lines, and what it says about parts that are off."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra.api import gates
from tests.cluster.chart.rendering import ALL_PROGRAMS, GPUS, WITHOUT_DOMAINS, Helm, Refused

WEBHOOK = GPUS | {"webhook.enabled": True}
IMEX = "resources.computeDomains.imex"
SHARES = {**GPUS, "featureGates.ConsumableShares": True}
UNSUPPORTED_CHANNEL = (
    f"{IMEX}.isolation=channel is not supported yet: per-workload IMEX channel allocation is not implemented. "
    'Use the default, "domain".'
)


def refusal(helm: Helm, values: dict[str, Any], **options: Any) -> str:
    """What a user reads."""
    with pytest.raises(Refused) as refused:
        helm.render(values, **options)
    return str(refused.value)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            GPUS | {"namespace": "mine"},
            "\nValue 'namespace' set to mine\n"
            "Setting an explicit 'namespace' in values.yaml or via --set on the command line is no longer supported.\n"
            "Use --namespace (with --create-namespace as necessary) instead.\n",
        ),
        (
            GPUS | {"nvidiaCtkPath": "/usr/bin/nvidia-ctk"},
            "\nSetting a user-defined nvidiaCtkPath is no longer supported. "
            "It can simply be removed without consequence.\n",
        ),
        (WEBHOOK | {"webhook.tls": None}, "\nWebhook TLS configuration is required when webhook is enabled.\n"),
        (WEBHOOK | {"webhook.tls.mode": ""}, "\nWebhook TLS mode is required when webhook is enabled.\n"),
        (WEBHOOK | {"webhook.tls.mode": None}, "\nWebhook TLS mode is required when webhook is enabled.\n"),
        (
            WEBHOOK | {"webhook.tls.mode": "hope"},
            "\nInvalid webhook TLS mode: hope\nWebhook TLS mode must be either 'cert-manager' or 'secret'.\n"
            "Or 'self-signed': helm makes the certificate.",
        ),
        (
            WEBHOOK | {"webhook.tls.certManager": None},
            "\nCert-manager configuration is required when using cert-manager mode.\n",
        ),
        (
            WEBHOOK | {"webhook.tls.certManager.issuerType": ""},
            "\nCert-manager issuer type is required when using cert-manager mode.\n",
        ),
        (
            WEBHOOK | {"webhook.tls.certManager.issuerType": "acme"},
            "\nInvalid cert-manager issuer type: acme\nIssuer type must be 'selfsigned', 'clusterissuer', or 'issuer'.",
        ),
        (
            WEBHOOK | {"webhook.tls.certManager.issuerType": "issuer"},
            "\nCert-manager issuer name is required when issuer type is not 'selfsigned'.\n",
        ),
        (
            WEBHOOK | {"webhook.tls.mode": "secret", "webhook.tls.secret": None},
            "\nSecret configuration is required when using secret mode.\n",
        ),
        (
            WEBHOOK | {"webhook.metrics": {"enabled": False, "podMonitor": {"enabled": True}}},
            "\nwebhook.metrics.podMonitor.enabled=true, but webhook.metrics.enabled=false: ",
        ),
        (WEBHOOK | {"webhook.tls.mode": "secret"}, "\nSecret name is required when using secret mode.\n"),
        (
            GPUS | {f"{IMEX}.mode": "hostManaged"},
            f"{IMEX}.mode=hostManaged requires featureGates.HostManagedIMEXDaemon=true",
        ),
        (
            GPUS | {f"{IMEX}.mode": "mine"},
            f'unknown {IMEX}.mode "mine": must be "driverManaged" or "hostManaged"',
        ),
        (GPUS | {f"{IMEX}.isolation": "channel"}, UNSUPPORTED_CHANNEL),
        (GPUS | {f"{IMEX}.isolation": "mine"}, f'unknown {IMEX}.isolation "mine": must be "domain" or "channel"'),
        (GPUS | {"featureGates.Foo": True}, "\nunrecognized feature gate: Foo\n"),
        (GPUS | {"featureGates.DynamicMIG": "maybe"}, "\ninvalid value of DynamicMIG=maybe, err: "),
        (
            GPUS | {"featureGates.ContextualLogging": False},
            "\ncannot set feature gate ContextualLogging to false, feature is locked to true",
        ),
        (
            GPUS | {"featureGates.IMEXDaemonsWithDNSNames": False},
            "\nfeature gate ComputeDomainCliques requires IMEXDaemonsWithDNSNames to also be enabled",
        ),
        *(
            (
                GPUS | {"featureGates": {one: True, other: "t"}},
                f"\nfeature gate {one} is currently mutually exclusive with {other}",
            )
            for one, relation, other in gates.special()
            if relation == "excludes"
        ),
        (
            GPUS | {"featureGates.AllAlpha": True},
            "\nfeature gate DynamicMIG is currently mutually exclusive with PassthroughSupport",
        ),
        (
            GPUS | {"featureGates.DeviceMetadata": True},
            "\nfeature gate DeviceMetadata requires PassthroughSupport to also be enabled",
        ),
        (
            GPUS | {"additionalXidsToIgnore": "94;95"},
            '\ninvalid value for --additional-xids-to-ignore: "94;95" (must be a comma list of numbers)\n',
        ),
        (
            GPUS | {"mpsComputeMode": "none"},
            '\ninvalid value for --mps-compute-mode: "none" (must be exclusive or unchanged)\n',
        ),
        (
            GPUS | {"mpsUnderShares": True},
            "\nmpsUnderShares needs featureGates.MPSSupport=true and featureGates.ConsumableShares=true\n",
        ),
        (
            GPUS | {"coexistenceGuard": "sometimes"},
            'invalid value for --coexistence-guard: "sometimes" (must be off, warn or enforce)',
        ),
        (
            GPUS | {"kubeletPlugin.metrics.profilePath": "/p", "kubeletPlugin.metrics.enabled": False},
            "kubeletPlugin.metrics.profilePath is set, but kubeletPlugin.metrics.enabled=false",
        ),
        (
            GPUS | {"consumableShares": "memory"},
            "\n--consumable-shares requires feature gate ConsumableShares to be enabled\n",
        ),
        *(
            (
                SHARES | {"consumableShares": text},
                f'\ninvalid value for --consumable-shares: "{text}" '
                "(must be 'disabled', 'memory', 'unlimited', or a positive integer)\n",
            )
            for text in ("some", "0", "-3", "1.5")
        ),
    ],
)
def test_refusal(helm: Helm, values: dict[str, Any], text: str) -> None:
    assert text in refusal(helm, values, programs=ALL_PROGRAMS)


@pytest.mark.parametrize(
    "gate", ["TimeSlicingSettings", "DynamicMIG", "DRAListTypeAttributes", "HostManagedIMEXDaemon"]
)
def test_a_gate_that_the_programs_take_renders(helm: Helm, gate: str) -> None:
    assert helm.render(GPUS | {"featureGates": {gate: True}}).env()["FEATURE_GATES"] == f"{gate}=true,"


@pytest.mark.parametrize(
    "path",
    ["/", "/usr/bin", "/etc", "/opt/nvdra", "/tmp", "/var/run", "/proc", "/driver-root/cdi", "cdi", "/etc/../usr"],
)
def test_a_cdi_folder_that_leads_into_the_image_is_refused(helm: Helm, path: str) -> None:
    assert f"cdiRoot={path.rstrip('/')} " in refusal(helm, GPUS | {"cdiRoot": path})


@pytest.mark.parametrize("path", ["/etc/cdi", "/run/cdi/", "/var/run/cdi", "/var/lib/rancher/cdi"])
def test_a_cdi_folder_is_one_value_in_all_places(helm: Helm, path: str) -> None:
    rendered = helm.render(GPUS | {"cdiRoot": path}, programs=ALL_PROGRAMS)
    (volume,) = (each for each in rendered.pod["volumes"] if each["name"] == "cdi")
    for name in ("gpus", "compute-domains"):
        (mount,) = (each for each in rendered.container(name)["volumeMounts"] if each["name"] == "cdi")
        assert {volume["hostPath"]["path"], mount["mountPath"], rendered.env(name)["CDI_ROOT"]} == {path.rstrip("/")}


def test_a_cdi_folder_of_a_variable_alone_is_refused(helm: Helm) -> None:
    variable = [{"name": "CDI_ROOT", "value": "/etc/cdi"}]
    values = GPUS | {"kubeletPlugin.containers.gpus.env": variable}
    assert "env sets CDI_ROOT=/etc/cdi, which leads into the image" in refusal(helm, values)
    helm.render(values | {"cdiRoot": "/etc/cdi"})


@pytest.mark.parametrize("name", ["kubeletRegistrarDirectoryPath", "kubeletPluginsDirectoryPath"])
def test_one_folder_of_kubelet_moved_alone_is_refused(helm: Helm, name: str) -> None:
    text = refusal(helm, GPUS | {f"kubeletPlugin.{name}": "/data/kubelet/x"})
    assert "\nOnly one of kubelet's two folders was moved: " in text


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        *(("kubeAPIQPS", value, "a number") for value in ("abc", "nan", "inf", "0x10")),
        *(("kubeAPIBurst", value, "a whole number") for value in ("many", "1.5")),
        *(("logVerbosity", value, "a whole number") for value in ("debug", "4.5", "")),
        ("kubeletPlugin.containers.gpus.healthcheckPort", "http", "a port"),
        ("webhook.containerPort", "https", "a port"),
        *(
            (f"{name}ttpEndpoint", value, "of the form host:port or :port")
            for name in ("kubeletPlugin.metrics.gpuH", "webhook.metrics.h")
            for value in ("8080", "localhost", ":http", ":99999")
        ),
    ],
)
def test_what_is_no_number_or_address_is_refused(helm: Helm, name: str, value: str, wanted: str) -> None:
    assert f"\n{name}={value} is not {wanted}." in refusal(helm, WEBHOOK | {name: value})


@pytest.mark.parametrize(
    ("name", "variable", "value", "text"),
    [
        ("kubeAPIQPS", "KUBE_API_QPS", 2_000_000, "2000000"),
        ("kubeAPIQPS", "KUBE_API_QPS", 12.5, "12.5"),
        ("kubeAPIQPS", "KUBE_API_QPS", "-1", "-1"),
        ("kubeAPIBurst", "KUBE_API_BURST", 1_000_000, "1000000"),
        ("logVerbosity", "LOG_VERBOSITY", 0, "0"),
        ("kubeletPlugin.metrics.gpuHttpEndpoint", "HTTP_ENDPOINT", "[::]:8080", "[::]:8080"),
    ],
)
def test_numbers_and_addresses_reach_the_program(helm: Helm, name: str, variable: str, value: Any, text: str) -> None:
    assert helm.render(GPUS | {name: value}).env()[variable] == text


def test_gpus_need_a_word_of_the_user(helm: Helm) -> None:
    text = refusal(helm, {})
    assert "\nThe default value of 'resources.gpus.enabled == true'." in text
    assert "KEP 5004" in text
    assert "--set 'gpuResourcesEnabledOverride=true'" in text
    assert "DRAExtendedResource" in text


def test_namespace_default(helm: Helm) -> None:
    assert (
        "\nRunning in the 'default' namespace is not recommended.\n"
        "Set 'allowDefaultNamespace=true' to bypass this error.\n"
        "Otherwise, use --namespace (with --create-namespace as necessary) to run in a specific namespace.\n"
    ) in refusal(helm, GPUS, namespace="default")
    for allowed in ({"allowDefaultNamespace": True}, {"namespaceOverride": "gpu"}):
        helm.render(GPUS | allowed, namespace="default")


@pytest.mark.parametrize("shares", ["", "disabled", "memory", "unlimited", "3", 3])
def test_consumable_shares_that_pass(helm: Helm, shares: str | int) -> None:
    rendered = helm.render(SHARES | {"consumableShares": shares}, programs=ALL_PROGRAMS)
    assert rendered.env().get("CONSUMABLE_SHARES", "") == str(shares)


def test_imex_is_not_judged_where_compute_domains_are_off(helm: Helm) -> None:
    helm.render(GPUS | {"resources.computeDomains.enabled": False, f"{IMEX}.mode": "mine"})


def test_compute_domains_alone_that_are_not_there(helm: Helm) -> None:
    text = refusal(helm, {"resources.gpus.enabled": False}, programs=WITHOUT_DOMAINS)
    assert "\nNothing to install: 'resources.gpus.enabled=false' leaves only ComputeDomains" in text
    helm.render({"resources.gpus.enabled": False, "resources.computeDomains.enabled": False})


def test_notes_say_which_parts_are_off(helm: Helm) -> None:
    missing = "ComputeDomains are not served: resources.computeDomains.enabled is true, but their programs are not in"
    assert missing in helm.notes(GPUS, WITHOUT_DOMAINS)
    assert missing not in helm.notes(GPUS | {"resources.computeDomains.enabled": False}, WITHOUT_DOMAINS)
    assert missing not in helm.notes(GPUS)
    assert "rollout status daemonset/dra-driver-nvidia-gpu-kubelet-plugin" in helm.notes(GPUS)


def test_notes_say_what_an_update_costs(helm: Helm) -> None:
    gap = "An update leaves nodes without their driver for a moment"
    assert gap not in helm.notes(GPUS)
    upstream = {"kubeletPlugin.updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}}
    assert gap in helm.notes(GPUS | upstream)


def test_a_value_of_the_wrong_type_is_named(helm: Helm) -> None:
    for values, text in (
        ({"gpuResourcesEnabledOverride": "yes"}, "at '/gpuResourcesEnabledOverride': got string, want boolean"),
        (GPUS | {"imagePullSecrets": "mine"}, "at '/imagePullSecrets': got string, want array"),
        (GPUS | {"kubeletPlugin.containers.gpus.env": {"A": "b"}}, "at '/kubeletPlugin/containers/gpus/env'"),
    ):
        assert text in refusal(helm, values)
