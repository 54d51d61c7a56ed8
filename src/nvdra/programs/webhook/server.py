"""The webhook over HTTPS: which path answers what, and how the server ends."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress

from nvdra import telemetry
from nvdra.api.gates import Gates
from nvdra.programs.webhook.connection import Answer, Connection, Limits, Request
from nvdra.programs.webhook.metrics import WebhookMetrics
from nvdra.webhook import ReviewError, Verdict, judge

PATH = b"/validate-resource-claim-parameters"
HEALTH_PATHS = (b"/readyz", b"/livez", b"/healthz")


class WebhookServer:
    """Answers reviews; the service of its connections.

    port   that it listens on, once it has started; 0 asks for any free one
    """

    def __init__(
        self,
        gates: Gates,
        metrics: WebhookMetrics,
        *,
        port: int,
        limits: Limits | None = None,
        address: str | None = None,
    ) -> None:
        self.port = port
        self.limits = limits or Limits()
        self.is_draining = False
        self.held = 0
        self._gates, self._metrics, self._address = gates, metrics, address
        self._server: asyncio.Server | None = None
        # Of each the one that waits for longest comes first.
        self._unused: dict[Connection, None] = {}
        self._used: dict[Connection, None] = {}
        self._last_closed = asyncio.Event()

    async def start(self, context: ssl.SSLContext) -> None:
        """Raises OSError where the port cannot be listened on."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self),
            self._address,
            self.port,
            ssl=context,
            ssl_handshake_timeout=self.limits.request_s,
            backlog=1024,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        telemetry.info(0, "Serving admission reviews", port=self.port)

    async def stop(self, *, notice_s: float, wait_s: float) -> None:
        """End without costing anybody a review.

        notice_s   for how long new connections are still taken, until no client picks this server any more
        wait_s     how long requests that have begun may take
        """
        assert self._server is not None
        self.is_draining = True
        await asyncio.sleep(notice_s)
        self._server.close()
        for connection in self._connections():
            connection.drain()
        if self._connections():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._last_closed.wait(), wait_s)
        for connection in self._connections():
            connection.abort()

    def answer(self, request: Request) -> Answer:
        """The answer to a request; whatever goes wrong in it costs this request alone."""
        began = time.perf_counter()
        try:
            answer, verdict = self._answer(request)
        except Exception as odd:  # the server goes on
            telemetry.error("Could not answer a request", odd, path=request.path.decode("latin-1"))
            answer, verdict = Answer(500, b"internal error: see the webhook's log"), None
        if request.path == PATH:
            took_s = time.perf_counter() - began
            self._metrics.answered(answer.status, verdict, took_s)
            _log(answer, verdict, took_s)
        return answer

    def _answer(self, request: Request) -> tuple[Answer, Verdict | None]:
        if request.path in HEALTH_PATHS:
            is_leaving = self.is_draining and request.path == HEALTH_PATHS[0]
            return (Answer(503, b"shutting down") if is_leaving else Answer(200, b"ok")), None
        if request.path != PATH:
            return Answer(404, b"404 page not found\n"), None
        if request.content_type.partition(";")[0].strip().lower() != "application/json":
            text = f"contentType={request.content_type}, expected application/json"
            return Answer(415, text.encode()), None
        try:
            verdict = judge(request.body, self._gates)
        except ReviewError as odd:
            return Answer(400, f"failed to read AdmissionReview from request body: {odd}".encode()), None
        return Answer(200, verdict.body(), "application/json"), verdict

    # What connections report.

    def opened(self, connection: Connection) -> None:
        if len(self._unused) + len(self._used) >= self.limits.connections:
            # Those that never asked anything go first: the API server asks as soon as it is connected.
            spared = next(iter(self._unused or self._used))
            self.closed(spared)
            spared.abort()
        self._unused[connection] = None
        self._last_closed.clear()
        self._count()

    def used(self, connection: Connection) -> None:
        for among in (self._unused, self._used):
            if connection in among:
                del among[connection]
                self._used[connection] = None
                return

    def closed(self, connection: Connection) -> None:
        self._unused.pop(connection, None)
        self._used.pop(connection, None)
        self._count()
        if not self._connections():
            self._last_closed.set()

    def _connections(self) -> list[Connection]:
        return [*self._unused, *self._used]

    def _count(self) -> None:
        self._metrics.connected(len(self._unused) + len(self._used))


def _log(answer: Answer, verdict: Verdict | None, took_s: float) -> None:
    """One line a review, without anything that the object says but its name."""
    if verdict is None:
        telemetry.info(1, "Refused a request that is no review", status=answer.status)
        return
    level = 4 if verdict.refusal is None else 1
    if not telemetry.enabled(level):
        return
    telemetry.info(
        level,
        "Admitted" if verdict.refusal is None else "Refused",
        resource=verdict.resource,
        object=f"{verdict.namespace}/{verdict.name}",
        operation=verdict.operation,
        uid=verdict.uid,
        milliseconds=round(took_s * 1000, 2),
        **({"note": verdict.note} if verdict.note else {}),
        **({"reason": verdict.refusal.reason} if verdict.refusal is not None else {}),
    )
