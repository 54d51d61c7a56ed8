"""The metrics endpoint: one page over plain HTTP, for Prometheus and for curl.

A connection carries one request. That is all a scrape needs, and a whole web framework would cost every node 2.5 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from nvdra.telemetry.log import error, info
from nvdra.telemetry.metrics import CONTENT_TYPE, Counter, Gauge, Registry

_HEAD_LIMIT = 16 * 1024
_HEAD_TIMEOUT_S = 10.0
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}


class EndpointError(Exception):
    """The endpoint cannot be opened; the text is for people."""


class MetricsServer:
    """Serves a registry.

    endpoint   "host:port", ":port" for every address; port 0 for any free one
    path       of the page; a leading slash may be left out
    """

    def __init__(self, registry: Registry, *, endpoint: str, path: str = "/metrics") -> None:
        self.port = 0
        self._registry = registry
        self._endpoint = endpoint
        self._path = "/" + path.removeprefix("/")
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._in_flight = Gauge("promhttp_metric_handler_requests_in_flight", "Current number of scrapes being served.")
        self._served = Counter(
            "promhttp_metric_handler_requests_total", "Total number of scrapes by HTTP status code.", ("code",)
        )
        for code in ("200", "500", "503"):
            self._served.add(code, by=0)
        registry.add(self._in_flight, self._served)

    async def start(self) -> None:
        """Raises EndpointError."""
        listener = _listen(self._endpoint)
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._connected, sock=listener, limit=_HEAD_LIMIT)
        info(1, "Serving metrics", endpoint=self._endpoint, port=self.port, path=self._path)

    async def stop(self, *, grace_s: float = 30.0) -> None:
        """Accept nothing new, finish what is being answered."""
        if self._server is None:
            return
        self._server.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace_s)
        for task in self._connections:
            task.cancel()
        self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(self._answer(head))
            await writer.drain()
        except asyncio.LimitOverrunError:
            writer.write(_response(400, "text/plain", b"request head too long\n"))
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the peer's business
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(400, "text/plain", b"not an HTTP request\n")
        verb, target, _ = words
        if target.partition("?")[0] != self._path:
            return _response(404, "text/plain; charset=utf-8", b"404 page not found\n")
        if verb not in ("GET", "HEAD"):
            return _response(405, "text/plain", b"only GET and HEAD\n")
        self._in_flight.add(by=1)
        try:
            body = self._registry.text()
            code = 200
        except Exception as failure:
            error("Cannot collect metrics", failure)
            body, code = b"An error has occurred while serving metrics\n", 500
        finally:
            self._in_flight.add(by=-1)
        self._served.add(str(code))
        return _response(code, CONTENT_TYPE if code == 200 else "text/plain", body, with_body=verb == "GET")


def _response(code: int, content_type: str, body: bytes, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (body if with_body else b"")


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
