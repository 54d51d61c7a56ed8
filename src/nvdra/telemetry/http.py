"""The metrics endpoint: one page over plain HTTP, for Prometheus and for curl, by the standard library on threads."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app

from nvdra.telemetry.log import info


class EndpointError(Exception):
    """The endpoint cannot be opened; the text is for people."""


class MetricsServer:
    """Serves a registry.

    endpoint   "host:port", ":port" for every address; port 0 for any free one
    path       of the page; a leading slash may be left out
    """

    def __init__(self, registry: CollectorRegistry, *, endpoint: str, path: str = "/metrics") -> None:
        self.port = 0
        self._endpoint = endpoint
        self._path = "/" + path.removeprefix("/")
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
        """Accept nothing new; what is being answered ends by itself."""
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
            self._server = None

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != self._path:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"404 page not found\n"]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Content-Type", "text/plain"), ("Allow", "GET, HEAD")])
            return [b"only GET and HEAD\n"]
        with self._in_flight.track_inprogress():
            page: Iterable[bytes] = self._page({**environ, "REQUEST_METHOD": "GET"}, start_response)
        self._served.labels("200").inc()
        return [] if environ["REQUEST_METHOD"] == "HEAD" else page


class _Quiet(WSGIRequestHandler):
    timeout = 10  # of a client that says nothing

    def log_message(self, *_: Any) -> None:
        """Scrapes are no news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, app: Callable[..., Any]) -> None:
        address = listener.getsockname()
        super().__init__(address, _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = address[0], address[1]
        self.setup_environ()
        self.set_app(app)


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
