"""The command line of webhook: every flag of the Go driver's, and those for metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nvdra.api import gates
from nvdra.api.quantity import Quantity
from nvdra.programs.flags import GATES, LOGGING, Flag, UsageError, integer, parse

PROGRAM = "webhook"

DESCRIPTION = """Checks the driver's own parameters in ResourceClaims and ResourceClaimTemplates when they are created.

The API server calls it over HTTPS, as the Helm chart's ValidatingWebhookConfiguration says. It applies the rules by
which the kubelet plugins prepare claims, so that a mistake is refused at once and not when a pod starts. Claims that
are deleted, or whose device spec an update leaves as it is, are always admitted.

Certificate and key are read again whenever their files change."""


def _port(text: str) -> int:
    number = integer(text)
    if not 0 <= number <= 65535:
        raise ValueError("a port is between 0 and 65535")
    return number


FLAGS = (
    Flag(("tls-cert-file",), (), "", "file with the certificate and its chain, in PEM", required=True),
    Flag(("tls-private-key-file",), (), "", "file with the certificate's private key, in PEM", required=True),
    Flag(("port",), (), 443, "port to listen on; 0 any free one", _port),
    Flag(("http-endpoint",), ("HTTP_ENDPOINT",), "", "address of the metrics server, for instance :8080; empty: off"),
    Flag(("metrics-path",), ("METRICS_PATH",), "/metrics", "path of the metrics; empty: off"),
    replace(GATES[0], help=f"{GATES[0].help}: {'; '.join(gates.help_lines())}"),
    *LOGGING,
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says, by flag name in snake case."""

    tls_cert_file: str
    tls_private_key_file: str
    port: int
    http_endpoint: str
    metrics_path: str
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
    for name, value in (("tls-cert-file", read.tls_cert_file), ("tls-private-key-file", read.tls_private_key_file)):
        if not value:
            raise UsageError(f'invalid value "" for flag -{name}: it must name a file')
    return read
