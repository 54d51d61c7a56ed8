"""The command line of compute-domain-kubelet-plugin: every flag and variable of the Go driver, and a few more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nvdra.api import gates
from nvdra.api.imex import DOMAIN_ISOLATION, DRIVER_MANAGED
from nvdra.api.quantity import Quantity
from nvdra.domains import imex
from nvdra.programs import gpu_flags
from nvdra.programs.flags import GATES, KUBE, LOGGING, Flag, boolean, parse

PROGRAM = "compute-domain-kubelet-plugin"

DESCRIPTION = """Prepares IMEX channels and IMEX daemons of ComputeDomains on this node, and publishes them.

It runs on every GPU node, usually as a DaemonSet installed by the Helm chart. Every flag has a variable; the flag
wins. While the node's NVLink fabric registers, nothing is published, and the log says why.

See also: nvdra doctor (what is wrong with this node)."""

_OF_BOTH = {flag.names[0]: flag for flag in gpu_flags.FLAGS}


def imex_settings(text: str) -> Mapping[str, str]:
    """Raises ValueError."""
    return imex.settings(text)


FLAGS = (
    _OF_BOTH["node-name"],
    _OF_BOTH["namespace"],
    Flag(
        ("additional-namespaces",),
        ("ADDITIONAL_NAMESPACES",),
        "",
        "namespaces of other installations, separated by commas: claims of their daemons are accepted too",
    ),
    replace(_OF_BOTH["cdi-root"], help="folder for CDI files: one a claim, and the base document"),
    _OF_BOTH["nvidia-driver-root"],
    _OF_BOTH["container-driver-root"],
    _OF_BOTH["nvidia-cdi-hook-path"],
    _OF_BOTH["kubelet-registrar-directory-path"],
    _OF_BOTH["kubelet-plugins-directory-path"],
    _OF_BOTH["pod-uid"],
    _OF_BOTH["healthcheck-port"],
    _OF_BOTH["http-endpoint"],
    _OF_BOTH["metrics-path"],
    Flag(
        ("gpu-clique-label-enabled",),
        ("GPU_CLIQUE_LABEL_ENABLED",),
        False,
        "label the node nvidia.com/gpu.clique with its clique",
        boolean,
    ),
    Flag(("imex-mode",), ("IMEX_MODE",), DRIVER_MANAGED, "who runs IMEX: driverManaged or hostManaged"),
    Flag(("imex-isolation",), ("IMEX_ISOLATION",), DOMAIN_ISOLATION, "what has IMEX channels of its own: domain"),
    Flag(
        ("imex-host-socket-path",),
        ("IMEX_HOST_SOCKET_PATH",),
        "/etc/nvidia-imex/imex_ctrl.sock",
        "command socket of the host's IMEX daemon (hostManaged)",
    ),
    Flag(
        ("imex-settings",),
        ("IMEX_SETTINGS",),
        {},
        "settings of the IMEX daemons that differ, KEY=value,KEY=value: encryption, its certificates, grace times",
        imex_settings,
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
    additional_namespaces: str
    cdi_root: str
    nvidia_driver_root: str
    container_driver_root: str
    nvidia_cdi_hook_path: str
    kubelet_registrar_directory_path: str
    kubelet_plugins_directory_path: str
    pod_uid: str
    healthcheck_port: int
    http_endpoint: str
    metrics_path: str
    gpu_clique_label_enabled: bool
    imex_mode: str
    imex_isolation: str
    imex_host_socket_path: str
    imex_settings: Mapping[str, str]
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

    @property
    def daemon_namespaces(self) -> frozenset[str]:
        """Namespaces in which daemon claims are accepted."""
        others = (name.strip() for name in self.additional_namespaces.split(","))
        return frozenset((self.namespace, *filter(None, others)))


def options(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """The command line, read. Raises UsageError."""
    return Options(**parse(PROGRAM, DESCRIPTION, FLAGS, argv, environ))
