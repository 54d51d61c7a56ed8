"""The parts of webhook, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry

from nvdra import telemetry
from nvdra.api.gates import Gates
from nvdra.programs.flags import StartError
from nvdra.programs.stop import Stop
from nvdra.programs.webhook.certificate import Certificate, CertificateError, Pair
from nvdra.programs.webhook.flags import Options
from nvdra.programs.webhook.metrics import WebhookMetrics
from nvdra.programs.webhook.server import WebhookServer
from nvdra.telemetry.http import EndpointError, MetricsServer

NOTICE_S = 3.0  # until nodes have heard that the Service does not lead here any more
WAIT_S = 10.0  # longer than any request may take
LOOK_AGAIN_S = 60.0  # at the certificate's files, where nobody connects


async def serve(options: Options, gates: Gates, stop: Stop) -> int:
    """Serve until told to stop; the exit status."""
    stop.on_loop()
    _raise_file_limit()
    registry = CollectorRegistry()
    metrics = WebhookMetrics(registry)

    def on_load(pair: Pair | None) -> None:
        if pair is None:
            metrics.failed_to_load()
        else:
            metrics.loaded(pair.expires)

    pages: MetricsServer | None = None
    server = WebhookServer(gates, metrics, port=options.port)
    try:
        certificate = Certificate(Path(options.tls_cert_file), Path(options.tls_private_key_file), on_load=on_load)
        if options.http_endpoint and options.metrics_path:
            pages = MetricsServer(registry, endpoint=options.http_endpoint, path=options.metrics_path)
            await pages.start()
        try:
            await server.start(certificate.context)
        except OSError as reason:
            text = os.strerror(reason.errno) if reason.errno is not None and reason.errno > 0 else str(reason)
            raise StartError(f"cannot listen on port {options.port}: {text}; choose another with --port") from None
    except CertificateError as error:
        print(f"Error: {error}; --tls-cert-file and --tls-private-key-file name the files", file=sys.stderr)
        return 1
    except EndpointError as error:
        print(f"Error: setup metrics endpoint: {error}", file=sys.stderr)
        return 1
    except StartError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    await stop.unless(_keep_looking(certificate))
    telemetry.info(0, "Stopping")
    await server.stop(notice_s=NOTICE_S, wait_s=WAIT_S)
    if pages is not None:
        await pages.stop()
    telemetry.info(0, "shutdown")
    return 0


async def _keep_looking(certificate: Certificate) -> None:
    while True:
        await asyncio.sleep(LOOK_AGAIN_S)
        certificate.refresh()


def _raise_file_limit() -> None:
    """Every connection is a file, and some systems start a process with 1,024 of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
