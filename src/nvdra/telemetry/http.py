"""The metrics endpoint: one page over plain HTTP, for Prometheus and for curl, by the standard library on threads.

Any client on the network may connect, so the number of connections is limited: claims need free descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from types import MappingProxyType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app

from nvdra.telemetry.log import error as log_error
from nvdra.telemetry.log import info

# Open connections. A new one beyond the limit closes the oldest: a scrape takes milliseconds, so the oldest is idle.
MOST = 16
# A client that neither sends nor receives for so long is disconnected.
SILENCE_S = 10.0
# Without a free descriptor, accepting fails at once; the next try waits this long.
_PAUSE_S = 0.1
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_NO_APPS: Mapping[str, App] = MappingProxyType({})
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class EndpointError(Exception):
    """The endpoint cannot be opened. The text is for users."""


class MetricsServer:
    """Serves a registry.

    endpoint   "host:port", ":port" for every address; port 0 for any free one
    path       of the page; a leading slash may be left out; "": no page
    apps       further WSGI applications, each for its path and all below it
    """

    def __init__(
        self, registry: CollectorRegistry, *, endpoint: str, path: str = "/metrics", apps: Mapping[str, App] = _NO_APPS
    ) -> None:
        self.port = 0
        self._endpoint = endpoint
        self._path = f"/{path.removeprefix('/')}" if path else ""
        self._apps = apps
        self._page = make_wsgi_app(registry, disable_compression=True)
        self._in_flight = Gauge(
            "promhttp_metric_handler_requests_in_flight",
            "Current number of scrapes being served.",
            registry=registry,
        )
        self._served = Counter(
            "promhttp_metric_handler_requests_total",
            "Total number of scrapes by HTTP status code.",
            ("code",),
            registry=registry,
        )
        for code in ("200", "500", "503"):
            self._served.labels(code)
        self._server: _Server | None = None

    async def start(self) -> None:
        """Raises EndpointError."""
        self._server = _Server(_listen(self._endpoint), self._answer)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        info(1, "Serving metrics", endpoint=self._endpoint, port=self.port, path=self._path)

    async def stop(self) -> None:
        """Accept no new connections; running answers end by themselves."""
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
            self._server = None

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        asked = environ["PATH_INFO"]
        for path, app in self._apps.items():
            if asked == path or asked.startswith(f"{path}/"):
                return app(environ, start_response)
        if asked != self._path:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"404 page not found\n"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Content-Type", "text/plain"), ("Allow", "GET, HEAD")])
            return [b"only GET and HEAD\n"]
        with self._in_flight.track_inprogress():
            try:
                page: Iterable[bytes] = self._page({**environ, "REQUEST_METHOD": "GET"}, start_response)
            except Exception as error:  # any error of a collector
                log_error("Could not gather the metrics", error, kind=type(error).__name__)
                self._served.labels("500").inc()
                start_response("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")])
                return [f"the metrics cannot be gathered: {error}\n".encode()]
        self._served.labels("200").inc()
        return [] if environ["REQUEST_METHOD"] == "HEAD" else page


class _Quiet(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, *_: Any) -> None:
        """Scrapes are not logged."""

    def get_stderr(self) -> io.StringIO:
        """Discards tracebacks of answers whose client disconnected."""
        return io.StringIO()


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, at most MOST of them."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, app: Callable[..., Any]) -> None:
        address = listener.getsockname()
        super().__init__(address, _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = address[0], address[1]
        self.setup_environ()
        self.set_app(app)
        self._room = threading.BoundedSemaphore(MOST)
        self._guard = threading.Lock()
        self._open: dict[socket.socket, None] = {}

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _NO_ROOM:
                time.sleep(_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        is_free = self._room.acquire(blocking=False)
        while not is_free:
            self._end_oldest()
            is_free = self._room.acquire(timeout=_PAUSE_S)
        with self._guard:
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)
        self._room.release()

    def handle_error(self, *_: Any) -> None:
        """Connections that the client or this server ended early are not logged."""

    def _end_oldest(self) -> None:
        """Make the thread of the oldest connection end: its next read or write fails."""
        with self._guard, contextlib.suppress(StopIteration, OSError):
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.shutdown(socket.SHUT_RDWR)


def _listen(endpoint: str) -> socket.socket:
    host, colon, port = endpoint.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise EndpointError(f"listen on metrics endpoint: address {endpoint}: not of the form host:port")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not host:
            # One socket for both families, so that port 0 is one port.
            is_dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if is_dual else socket.AF_INET
            return socket.create_server(("", int(port)), family=family, dualstack_ipv6=is_dual)
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, int(port)), family=family)
    except OSError as reason:
        text = os.strerror(reason.errno) if reason.errno is not None and reason.errno > 0 else str(reason)
        raise EndpointError(
            f"listen on metrics endpoint: listen tcp {endpoint}: {text[:1].lower()}{text[1:]}"
        ) from None
