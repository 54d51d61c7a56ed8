"""The command line of compute-domain-daemon: every flag and variable of the Go driver, and places for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nvdra.api import gates
from nvdra.api.compute_domain import MAX_NODES_PER_IMEX_DOMAIN
from nvdra.api.quantity import Quantity
from nvdra.domains.imex import FOLDER
from nvdra.programs.flags import GATES, KUBE, LOGGING, Flag, UsageError, integer, parse_words

PROGRAM = "compute-domain-daemon"
COMMANDS = ("run", "check")

DESCRIPTION = """Runs the IMEX daemon of a ComputeDomain on one node: `run` for the pod, `check` for its probes.

The controller's DaemonSet and the kubelet plugin's CDI file give it everything. `run` writes IMEX's files, joins the
node's clique, keeps the names of the other daemons in /etc/hosts, and restarts IMEX when it ends.

Exit status: 0 after a signal; 1 for the command line, or if CDI did not apply; 2 the API server refused; 3 a file
cannot be written; 4 IMEX cannot be started."""


def _of(name: str, help: str, default: str = "") -> Flag:
    return Flag((name,), (name.upper().replace("-", "_"),), default, help)


def _count(text: str) -> int:
    if not 0 < (found := integer(text)) <= 10000:
        raise ValueError("must be 1 to 10000")
    return found


FLAGS = (
    Flag(("cliqueid",), ("CLIQUE_ID",), "", "the node's clique, from CDI; empty: no fabric"),
    _of("compute-domain-uuid", "UID of the ComputeDomain, from CDI"),
    _of("compute-domain-name", "name of the ComputeDomain, from CDI"),
    _of("compute-domain-namespace", "namespace of the ComputeDomain, from CDI", "default"),
    _of("node-name", "name of this node"),
    _of("pod-ip", "address of this pod"),
    _of("pod-uid", "UID of this pod"),
    _of("pod-name", "name of this pod"),
    _of("pod-namespace", "namespace of this pod"),
    Flag(
        ("max-nodes-per-imex-domain",),
        ("MAX_NODES_PER_IMEX_DOMAIN",),
        MAX_NODES_PER_IMEX_DOMAIN,
        "most nodes of an IMEX domain",
        _count,
    ),
    _of("imex-folder", "folder of IMEX's files", FOLDER),
    _of("hosts-file", "the hosts file", "/etc/hosts"),
    *KUBE,
    replace(GATES[0], help=f"{GATES[0].help}: {'; '.join(gates.help_lines())}"),
    *LOGGING,
)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's values, by flag name in snake case."""

    cliqueid: str
    compute_domain_uuid: str
    compute_domain_name: str
    compute_domain_namespace: str
    node_name: str
    pod_ip: str
    pod_uid: str
    pod_name: str
    pod_namespace: str
    max_nodes_per_imex_domain: int
    imex_folder: str
    hosts_file: str
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


def options(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[Options, str]:
    """The command line and its command, read. Raises UsageError."""
    usage = f"{PROGRAM} [flags] {{run,check}}"
    values, words = parse_words(PROGRAM, DESCRIPTION, FLAGS, argv, environ, usage=usage)
    if len(words) != 1 or words[0] not in COMMANDS:
        raise UsageError(f"one command is needed, run or check, not: {' '.join(words) or 'none'}")
    return Options(**values), words[0]
