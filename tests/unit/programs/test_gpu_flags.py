"""The command line of gpu-kubelet-plugin: the Go driver's flags, variables, defaults and texts."""

from __future__ import annotations

import pytest

from nvdra.api.quantity import Quantity, binary
from nvdra.programs.flags import UsageError
from nvdra.programs.gpu_flags import check_shares, never_toggles, options

REQUIRED = {"NODE_NAME": "n", "IMAGE_NAME": "i"}

# Source: the contract of operations, section 1: flag, variable, default, a value and what becomes of it.
TABLE = [
    ("namespace", "NAMESPACE", "default", "a", "a"),
    ("cdi-root", "CDI_ROOT", "/etc/cdi", "/var/run/cdi", "/var/run/cdi"),
    ("nvidia-driver-root", "NVIDIA_DRIVER_ROOT", "/", "/a", "/a"),
    ("container-driver-root", "DRIVER_ROOT_CTR_PATH", "/driver-root", "/a", "/a"),
    ("host-root", "HOST_ROOT", "/host-root", "/a", "/a"),
    ("nvidia-cdi-hook-path", "NVIDIA_CDI_HOOK_PATH", "", "/a", "/a"),
    ("image-pull-secrets", "IMAGE_PULL_SECRETS", "", "a,b", "a,b"),
    ("image-pull-policy", "IMAGE_PULL_POLICY", "", "Always", "Always"),
    ("service-account-name", "SERVICE_ACCOUNT_NAME", "", "a", "a"),
    (
        "kubelet-registrar-directory-path",
        "KUBELET_REGISTRAR_DIRECTORY_PATH",
        "/var/lib/kubelet/plugins_registry",
        "/a",
        "/a",
    ),
    ("kubelet-plugins-directory-path", "KUBELET_PLUGINS_DIRECTORY_PATH", "/var/lib/kubelet/plugins", "/a", "/a"),
    ("pod-uid", "POD_UID", "", "a-1", "a-1"),
    ("healthcheck-port", "HEALTHCHECK_PORT", -1, "51516", 51516),
    ("additional-xids-to-ignore", "ADDITIONAL_XIDS_TO_IGNORE", "", "13,31", "13,31"),
    ("http-endpoint", "HTTP_ENDPOINT", "", ":8080", ":8080"),
    ("metrics-path", "METRICS_PATH", "/metrics", "/m", "/m"),
    ("pprof-path", "PPROF_PATH", "", "/p", "/p"),
    ("consumable-shares", "CONSUMABLE_SHARES", "disabled", "memory", "memory"),
    ("mps-compute-mode", "MPS_COMPUTE_MODE", "exclusive", "unchanged", "unchanged"),
    ("mps-under-shares", "MPS_UNDER_SHARES", False, "true", True),
    ("topology-attributes", "TOPOLOGY_ATTRIBUTES", False, "true", True),
    ("coexistence-guard", "COEXISTENCE_GUARD", "off", "enforce", "enforce"),
    (
        "pod-resources-socket",
        "POD_RESOURCES_SOCKET",
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        "/a/kubelet.sock",
        "/a/kubelet.sock",
    ),
    ("claim-status", "CLAIM_STATUS", False, "true", True),
    ("claim-events", "CLAIM_EVENTS", False, "true", True),
    ("kubeconfig", "KUBECONFIG", "", "/a", "/a"),
    ("kube-api-qps", "KUBE_API_QPS", 50.0, "5", 5.0),
    ("kube-api-burst", "KUBE_API_BURST", 100, "10", 10),
    ("destroy-unknown-mig", "DESTROY_UNKNOWN_MIG", False, "true", True),
    ("feature-gates", "FEATURE_GATES", "", "A=true", "A=true"),
    ("v", "V", 0, "4", 4),
    ("vmodule", "VMODULE", "", "a=4", "a=4"),
    ("logging-format", "LOGGING_FORMAT", "text", "json", "json"),
    ("log-flush-frequency", "LOG_FLUSH_FREQUENCY", 5.0, "1s", 1.0),
    ("log-text-split-stream", "LOG_TEXT_SPLIT_STREAM", False, "true", True),
    ("log-text-info-buffer-size", "LOG_TEXT_INFO_BUFFER_SIZE", Quantity(0), "1Mi", binary(1 << 20)),
    ("log-json-split-stream", "LOG_JSON_SPLIT_STREAM", False, "true", True),
    ("log-json-info-buffer-size", "LOG_JSON_INFO_BUFFER_SIZE", Quantity(0), "1Mi", binary(1 << 20)),
]


@pytest.mark.parametrize(("flag", "variable", "default", "text", "value"), TABLE)
def test_flag_variable_default(flag: str, variable: str, default: object, text: str, value: object) -> None:
    key = flag.replace("-", "_")
    assert getattr(options([], REQUIRED), key) == default
    assert getattr(options([], {**REQUIRED, variable: text}), key) == value
    assert getattr(options([f"--{flag}={text}"], REQUIRED), key) == value
    assert getattr(options([f"--{flag}", text], {**REQUIRED, variable: "9"}), key) == value


def test_the_table_is_whole() -> None:
    known = {flag.replace("-", "_") for flag, *_ in TABLE}
    assert known | {"node_name", "image_name"} == set(options([], REQUIRED).__dataclass_fields__)


@pytest.mark.parametrize(("value", "stays"), [("", False), ("ampere", True), (" Ampere\n", True), ("hopper", False)])
def test_mig_mode_can_be_taken_for_one_that_stays(value: str, stays: bool) -> None:
    assert never_toggles({"NVIDIA_DRA_TEST_FORCE_GPU_ARCH": value}) == stays
    assert not never_toggles({})


def test_the_older_name_of_the_driver_root() -> None:
    assert options(["--host_driver-root=/a"], REQUIRED).nvidia_driver_root == "/a"
    assert options([], {**REQUIRED, "HOST_DRIVER_ROOT": "/a"}).nvidia_driver_root == "/a"


def test_a_pull_policy_is_trimmed() -> None:
    assert options(["--image-pull-policy", " Always\n"], REQUIRED).image_pull_policy == "Always"


@pytest.mark.parametrize("missing", ["NODE_NAME", "IMAGE_NAME"])
def test_what_is_required(missing: str) -> None:
    environ = {name: value for name, value in REQUIRED.items() if name != missing}
    with pytest.raises(UsageError, match=f'^Required flag "{missing.lower().replace("_", "-")}" not set$'):
        options([], environ)


@pytest.mark.parametrize("value", ["disabled", "memory", "unlimited", "1", "16"])
def test_shares_with_the_gate(value: str) -> None:
    check_shares(value, is_enabled=True)


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "Memory", "²"])
def test_no_shares(value: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_shares(value, is_enabled=True)
    assert str(refused.value) == (
        f'invalid CLI flags: invalid value for --consumable-shares: "{value}" '
        "(must be 'disabled', 'memory', 'unlimited', or a positive integer)"
    )


def test_shares_without_the_gate() -> None:
    check_shares("disabled", is_enabled=False)
    with pytest.raises(UsageError) as refused:
        check_shares("memory", is_enabled=False)
    assert str(refused.value) == (
        "invalid CLI flags: --consumable-shares requires feature gate ConsumableShares to be enabled"
    )


def test_a_compute_mode_of_daemons_is_one_of_two() -> None:
    with pytest.raises(UsageError, match="must be exclusive or unchanged"):
        options(["--mps-compute-mode=default"], REQUIRED)
