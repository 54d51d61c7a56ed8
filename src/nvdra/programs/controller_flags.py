"""The command line of compute-domain-controller: every flag and variable of the Go driver, parsed and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nvdra.api import gates
from nvdra.api.compute_domain import MAX_NODES_PER_IMEX_DOMAIN
from nvdra.api.quantity import Quantity
from nvdra.programs.flags import GATES, KUBE, LOGGING, Flag, UsageError, boolean, duration_s, integer, parse

PROGRAM = "compute-domain-controller"

DESCRIPTION = """Serves ComputeDomains: makes their claim templates and the DaemonSet of their IMEX daemons, assigns
each daemon its index within its NVLink partition, keeps their status, and removes everything when they are deleted.

It runs once in a cluster, installed by the Helm chart. With several replicas, leader election decides which one acts.

See also: nvdra domains (which ComputeDomains there are, and why one is not Ready)."""


def _names(text: str) -> tuple[str, ...]:
    """Words separated by commas or white space."""
    return tuple(text.replace(",", " ").split())


def _listed(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _positive(text: str) -> int:
    number = integer(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    seconds = duration_s(text)
    if seconds <= 0:
        raise ValueError("must be longer than 0")
    return seconds


FLAGS = (
    Flag(("pod-name",), ("POD_NAME",), "", "name of this pod, for leader election", required=True),
    Flag(("namespace",), ("NAMESPACE",), "default", "namespace the driver runs in, where daemons are made"),
    Flag(("image-name",), ("IMAGE_NAME",), "", "image of this driver, for the daemons", required=True),
    Flag(
        ("cd-daemon-image-pull-secret-names",),
        ("CD_DAEMON_IMAGE_PULL_SECRET_NAMES",),
        (),
        "pull secrets of the daemons' image",
        _names,
    ),
    Flag(
        ("log-verbosity-cd-daemon",),
        ("LOG_VERBOSITY_CD_DAEMON",),
        0,
        "verbosity of daemons that are made from now on",
        integer,
        required=True,
    ),
    Flag(
        ("max-nodes-per-imex-domain",),
        ("MAX_NODES_PER_IMEX_DOMAIN",),
        MAX_NODES_PER_IMEX_DOMAIN,
        "most nodes of one ComputeDomain within one NVLink partition",
        _positive,
    ),
    Flag(("imex-mode",), ("IMEX_MODE",), "driverManaged", "driverManaged or hostManaged (HostManagedIMEXDaemon)"),
    Flag(("imex-isolation",), ("IMEX_ISOLATION",), "domain", "domain"),
    Flag(("http-endpoint",), ("HTTP_ENDPOINT",), "", "address of the metrics server, for instance :8080; empty: off"),
    Flag(("metrics-path",), ("METRICS_PATH",), "/metrics", "path of the metrics; empty: off"),
    Flag(("pprof-path",), ("PPROF_PATH",), "", "accepted and ignored: this program serves no profiles"),
    Flag(
        ("additional-namespaces",),
        ("ADDITIONAL_NAMESPACES",),
        (),
        "namespaces where daemons of another installation may run, separated by commas",
        _listed,
    ),
    Flag(("leader-election-enabled",), ("LEADER_ELECTION_ENABLED",), False, "whether replicas elect a leader", boolean),
    Flag(
        ("leader-election-lease-lock-namespace",),
        ("LEADER_ELECTION_LEASE_LOCK_NAMESPACE",),
        "default",
        "namespace of the Lease",
    ),
    Flag(
        ("leader-election-lease-lock-name",),
        ("LEADER_ELECTION_LEASE_LOCK_NAME",),
        "nvidia-compute-domain-controller",
        "name of the Lease",
    ),
    Flag(
        ("leader-election-lease-duration",),
        ("LEADER_ELECTION_LEASE_DURATION",),
        15.0,
        "time without renewal after which another replica may lead",
        _seconds,
    ),
    Flag(
        ("leader-election-renew-deadline",),
        ("LEADER_ELECTION_RENEW_DEADLINE",),
        10.0,
        "time without renewal after which the leader gives up",
        _seconds,
    ),
    Flag(
        ("leader-election-retry-period",),
        ("LEADER_ELECTION_RETRY_PERIOD",),
        2.0,
        "time between two attempts to take or renew the Lease",
        _seconds,
    ),
    *KUBE,
    replace(GATES[0], help=f"{GATES[0].help}: {'; '.join(gates.help_lines())}"),
    *LOGGING,
)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's values, by flag name in snake case."""

    pod_name: str
    namespace: str
    image_name: str
    cd_daemon_image_pull_secret_names: tuple[str, ...]
    log_verbosity_cd_daemon: int
    max_nodes_per_imex_domain: int
    imex_mode: str
    imex_isolation: str
    http_endpoint: str
    metrics_path: str
    pprof_path: str
    additional_namespaces: tuple[str, ...]
    leader_election_enabled: bool
    leader_election_lease_lock_namespace: str
    leader_election_lease_lock_name: str
    leader_election_lease_duration: float
    leader_election_renew_deadline: float
    leader_election_retry_period: float
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
    read = Options(**parse(PROGRAM, DESCRIPTION, FLAGS, argv, environ))
    if read.leader_election_enabled:
        times = (
            read.leader_election_retry_period,
            read.leader_election_renew_deadline,
            read.leader_election_lease_duration,
        )
        if not times[0] < times[1] < times[2]:
            raise UsageError(
                "leader election needs retry-period < renew-deadline < lease-duration, and they are "
                f"{times[0]:g} s, {times[1]:g} s, {times[2]:g} s"
            )
    return read
