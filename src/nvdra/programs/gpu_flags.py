"""The command line of gpu-kubelet-plugin: every flag and variable of the Go driver, parsed and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from nvdra.api import gates
from nvdra.api.quantity import Quantity
from nvdra.programs.flags import GATES, KUBE, LOGGING, Flag, UsageError, boolean, integer, parse

PROGRAM = "gpu-kubelet-plugin"

DESCRIPTION = """Finds this node's NVIDIA GPUs, publishes them as ResourceSlices and prepares them for pods.

It runs on every GPU node, usually as a DaemonSet installed by the Helm chart. Every flag has a variable; the
flag wins. Where something is missing on the node (driver, device nodes, API server) it says so and waits:
claims that are already prepared are still answered and taken back.

See also: nvdra doctor (what is wrong with this node), nvdra devices (what it would publish)."""


def node_name(text: str) -> str:
    """The text, if it can be the name of a Kubernetes node. Raises ValueError if it cannot."""
    is_name = 0 < len(text) <= 253 and text[0].isalnum() and text[-1].isalnum()
    if not is_name or not all(letter.isascii() and (letter.isalnum() or letter in "-.") for letter in text):
        raise ValueError("a node's name has letters, digits, '-' and '.', as `kubectl get nodes` shows it")
    return text


def mps_compute_mode(text: str) -> str:
    """Raises ValueError."""
    if text not in ("exclusive", "unchanged"):
        raise ValueError("must be exclusive or unchanged")
    return text


def coexistence_guard(text: str) -> str:
    """Raises ValueError."""
    if text not in ("off", "warn", "enforce"):
        raise ValueError("must be off, warn or enforce")
    return text


FLAGS = (
    Flag(("node-name",), ("NODE_NAME",), "", "name of this node, also of its pool", node_name, required=True),
    Flag(("namespace",), ("NAMESPACE",), "default", "namespace the driver runs in"),
    Flag(("cdi-root",), ("CDI_ROOT",), "/etc/cdi", "folder for CDI files, one a claim"),
    Flag(
        ("nvidia-driver-root", "host_driver-root"),
        ("NVIDIA_DRIVER_ROOT", "HOST_DRIVER_ROOT"),
        "/",
        "root of the driver installation on the host",
    ),
    Flag(
        ("container-driver-root",),
        ("DRIVER_ROOT_CTR_PATH",),
        "/driver-root",
        "the same root as this process sees it; every search looks there",
    ),
    Flag(("host-root",), ("HOST_ROOT",), "/host-root", "the host's root as this process sees it (PassthroughSupport)"),
    Flag(
        ("nvidia-cdi-hook-path",),
        ("NVIDIA_CDI_HOOK_PATH",),
        "",
        "nvidia-cdi-hook on the host; if empty, the bundled one is installed into the plugin's folder",
    ),
    Flag(("image-name",), ("IMAGE_NAME",), "", "image of this driver, for MPS control daemons", required=True),
    Flag(("image-pull-secrets",), ("IMAGE_PULL_SECRETS",), "", "pull secrets for MPS control daemons"),
    Flag(("image-pull-policy",), ("IMAGE_PULL_POLICY",), "", "pull policy for MPS control daemons", str.strip),
    Flag(("service-account-name",), ("SERVICE_ACCOUNT_NAME",), "", "service account for MPS control daemons"),
    Flag(
        ("kubelet-registrar-directory-path",),
        ("KUBELET_REGISTRAR_DIRECTORY_PATH",),
        "/var/lib/kubelet/plugins_registry",
        "where kubelet looks for registration sockets",
    ),
    Flag(
        ("kubelet-plugins-directory-path",),
        ("KUBELET_PLUGINS_DIRECTORY_PATH",),
        "/var/lib/kubelet/plugins",
        "where the plugin keeps its socket and its checkpoint",
    ),
    Flag(
        ("pod-uid",),
        ("POD_UID",),
        "",
        "UID of this pod: names its sockets, so that two pods of an update can serve at once; empty: fixed names",
    ),
    Flag(
        ("healthcheck-port",),
        ("HEALTHCHECK_PORT",),
        -1,
        "port of the gRPC health service; 0 any free one, negative off",
        integer,
    ),
    Flag(
        ("additional-xids-to-ignore",),
        ("ADDITIONAL_XIDS_TO_IGNORE",),
        "",
        "XIDs that are no fault, separated by commas",
    ),
    Flag(("http-endpoint",), ("HTTP_ENDPOINT",), "", "address of the metrics server, for instance :8080; empty: off"),
    Flag(("metrics-path",), ("METRICS_PATH",), "/metrics", "path of the metrics; empty: off"),
    Flag(
        ("pprof-path",),
        ("PPROF_PATH",),
        "",
        "path of profiles and stacks on the same server, for instance /debug/pprof; empty: off",
    ),
    Flag(
        ("consumable-shares",),
        ("CONSUMABLE_SHARES",),
        "disabled",
        "disabled, memory, unlimited, or how many shares a device has (ConsumableShares)",
    ),
    Flag(
        ("mps-compute-mode",),
        ("MPS_COMPUTE_MODE",),
        "exclusive",
        "compute mode of full GPUs while an MPS control daemon serves them: exclusive (EXCLUSIVE_PROCESS, as the Go "
        "driver sets it: only the daemon's clients can compute there) or unchanged (MPSSupport)",
        mps_compute_mode,
    ),
    Flag(
        ("mps-under-shares",),
        ("MPS_UNDER_SHARES",),
        False,
        "let claims that share a device share an MPS control daemon for it, too; the Go driver refuses such claims "
        "(MPSSupport, ConsumableShares)",
        boolean,
    ),
    Flag(
        ("destroy-unknown-mig",),
        ("DESTROY_UNKNOWN_MIG",),
        False,
        "at start, destroy MIG devices that no claim here speaks of, as the Go driver does (DynamicMIG); "
        "else they stay, and what overlaps them is not offered",
        boolean,
    ),
    Flag(
        ("coexistence-guard",),
        ("COEXISTENCE_GUARD",),
        "off",
        "beside a device plugin: off; warn (log what the plugin gave out, and what is in use twice); enforce (also "
        "taint such devices and refuse claims for them, as far as kubelet tells in time)",
        coexistence_guard,
    ),
    Flag(
        ("pod-resources-socket",),
        ("POD_RESOURCES_SOCKET",),
        "/var/lib/kubelet/pod-resources/kubelet.sock",
        "kubelet's PodResources API, which the coexistence guard asks",
    ),
    Flag(
        ("claim-status",),
        ("CLAIM_STATUS",),
        False,
        "write UUID, PCI address and minor number of prepared devices into status.devices of their claims",
        boolean,
    ),
    Flag(
        ("claim-events",),
        ("CLAIM_EVENTS",),
        False,
        "write Events about refusals, rollbacks and repairs of claims",
        boolean,
    ),
    Flag(
        ("topology-attributes",),
        ("TOPOLOGY_ATTRIBUTES",),
        False,
        "publish where a GPU lies: NVLink domain, count of links, PCIe switch, CPU socket, and the NUMA node that NVML "
        "tells where sysfs tells none",
        boolean,
    ),
    *KUBE,
    replace(GATES[0], help=f"{GATES[0].help}: {'; '.join(gates.help_lines())}"),
    *LOGGING,
)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's values, by flag name in snake case."""

    node_name: str
    namespace: str
    cdi_root: str
    nvidia_driver_root: str
    container_driver_root: str
    host_root: str
    nvidia_cdi_hook_path: str
    image_name: str
    image_pull_secrets: str
    image_pull_policy: str
    service_account_name: str
    kubelet_registrar_directory_path: str
    kubelet_plugins_directory_path: str
    pod_uid: str
    healthcheck_port: int
    additional_xids_to_ignore: str
    http_endpoint: str
    metrics_path: str
    pprof_path: str
    consumable_shares: str
    mps_compute_mode: str
    mps_under_shares: bool
    destroy_unknown_mig: bool
    coexistence_guard: str
    pod_resources_socket: str
    claim_status: bool
    claim_events: bool
    topology_attributes: bool
    kubeconfig: str
    kube_api_qps: float
    kube_api_burst: int
    feature_gates: str
    v: int
    vmodule: str
    logging_format: str
    log_flush_frequency: float
    log_text_split_stream: bool
    log_text_info_buffer_size: Quantity
    log_json_split_stream: bool
    log_json_info_buffer_size: Quantity


def options(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """The command line, read. Raises UsageError."""
    return Options(**parse(PROGRAM, DESCRIPTION, FLAGS, argv, environ))


class LogOptions(Protocol):
    """Options of every program that choose the stream of log lines of level info."""

    @property
    def logging_format(self) -> str: ...
    @property
    def log_text_split_stream(self) -> bool: ...
    @property
    def log_text_info_buffer_size(self) -> Quantity: ...
    @property
    def log_json_split_stream(self) -> bool: ...
    @property
    def log_json_info_buffer_size(self) -> Quantity: ...


def splits_stream(options: LogOptions, on: gates.Gates) -> bool:
    """Whether lines of level info go to standard output. Raises UsageError if an option needs a gate that is off.

    Lines are never buffered, whatever the buffer size of the command line.
    """
    split = {"text": options.log_text_split_stream, "json": options.log_json_split_stream}
    sizes = {"text": options.log_text_info_buffer_size, "json": options.log_json_info_buffer_size}
    asked = [f"log-{each}-split-stream" for each, is_asked in split.items() if is_asked]
    asked += [f"log-{each}-info-buffer-size" for each, size in sizes.items() if size.nanos]
    if asked and not on.enabled(gates.LOGGING_ALPHA_OPTIONS):
        raise UsageError(
            f"--{asked[0]}: Forbidden: Feature {gates.LOGGING_ALPHA_OPTIONS} is disabled: "
            f"add {gates.LOGGING_ALPHA_OPTIONS}=true to --feature-gates (FEATURE_GATES)"
        )
    return split.get(options.logging_format, False)


def check_shares(value: str, *, is_enabled: bool) -> None:
    """Raises UsageError unless `--consumable-shares` is a value the gate allows."""
    if not is_enabled:
        if value != "disabled":
            raise UsageError(
                "invalid CLI flags: --consumable-shares requires feature gate ConsumableShares to be enabled"
            )
        return
    is_count = value.isascii() and value.isdigit() and int(value) > 0
    if value not in ("disabled", "memory", "unlimited") and not is_count:
        raise UsageError(
            f'invalid CLI flags: invalid value for --consumable-shares: "{value}" '
            "(must be 'disabled', 'memory', 'unlimited', or a positive integer)"
        )


def never_toggles(environ: Mapping[str, str]) -> bool:
    """Whether every GPU is treated as if its MIG mode could not be changed without a reset, for tests."""
    return environ.get("NVIDIA_DRA_TEST_FORCE_GPU_ARCH", "").strip().lower() == "ampere"
