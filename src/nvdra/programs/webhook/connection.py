"""One client's connection: HTTP/1.1 as `httptools` reads it, bounded in size and in time.

A request is answered as soon as it is complete, and an answer needs no waiting: so a connection is idle, or in the
middle of a request, or (`_is_discarding`) reads the rest of a request that was refused before its end.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import httptools


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is without its query."""

    method: bytes
    path: bytes
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all of them together, may cost.

    body         largest body, in bytes: as large as a request that the API server itself takes
    bodies       largest sum of bodies that are not complete yet
    head         largest request line with headers
    request_s    from the first byte of a request, or from the connection's beginning, to the request's end
    idle_s       between an answer and the next request; longer than the 90 s of a Go client, which must not meet a
                 connection that closes while it sends
    connections  beyond it one is closed: the oldest that never asked anything, else the one that asked longest ago
    """

    body: int = 3 << 20
    bodies: int = 32 << 20
    head: int = 32 << 10
    request_s: float = 5.0
    idle_s: float = 120.0
    connections: int = 1000


class Service(Protocol):
    """What the connections of one server share."""

    limits: Limits
    is_draining: bool
    held: int  # bytes of incomplete bodies, on all connections

    def answer(self, request: Request) -> Answer:
        """Never raises."""
        ...

    def opened(self, connection: Connection) -> None: ...

    def used(self, connection: Connection) -> None:
        """A request on it was answered."""
        ...

    def closed(self, connection: Connection) -> None: ...


_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


class Connection(asyncio.Protocol):
    """What asyncio calls when something came or the connection ended."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._is_discarding = False
        self._is_idle = True
        self._answered = 0
        self._reset()

    def _reset(self) -> None:
        """Ready for the next request."""
        self._url = b""
        self._content_type = ""
        self._expects_continue = False
        self._is_head_complete = False
        self._head = 0
        self._pieces: list[bytes] = []
        self._size = 0

    def drain(self) -> None:
        """Close if idle; else the answer to the request under way will close."""
        if self._is_idle:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by name
        self._service.opened(self)
        self._end_in(self._service.limits.request_s)

    def data_received(self, data: bytes) -> None:
        answered = self._answered
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(Answer(400, b"no other protocol is spoken here"))
        except httptools.HttpParserError:
            self._refuse(Answer(400, b"this is no HTTP request"))
            self._close()
        if self._answered == answered and not self._is_head_complete and not self._is_idle:
            self._read_head(len(data))  # of a line that has no end yet the parser says nothing

    def pause_writing(self) -> None:
        """The client does not read its answers: take no further request."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._release()
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._service.closed(self)
        # The two hold each other, and memory is not to wait for the collector.
        del self._parser

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._is_idle = False
        if not self._is_discarding:
            self._end_in(self._service.limits.request_s)

    def on_url(self, url: bytes) -> None:
        self._read_head(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._read_head(len(name) + len(value))
        match name.lower():
            case b"content-type":
                self._content_type = value.decode("latin-1")
            case b"content-length" if value.isdigit() and int(value[:20]) > self._service.limits.body:
                self._too_large()
            case b"expect":
                self._expects_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._is_head_complete = True
        if self._expects_continue and not self._is_discarding and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, piece: bytes) -> None:
        if self._is_discarding:
            return
        self._size += len(piece)
        self._service.held += len(piece)
        self._pieces.append(piece)
        if self._size > self._service.limits.body:
            self._too_large()
        elif self._service.held > self._service.limits.bodies:
            self._refuse(Answer(503, b"too many large requests at once"))

    def on_message_complete(self) -> None:
        if self._is_discarding:
            self._close()
            return
        method = self._parser.get_method()
        request = Request(method, self._url.partition(b"?")[0], self._content_type, b"".join(self._pieces))
        self._release()
        answer = self._service.answer(request)
        keeps = self._parser.should_keep_alive() and not self._service.is_draining
        self._write(answer, keeps=keeps, is_head=method == b"HEAD")
        self._service.used(self)
        self._answered += 1
        self._reset()
        if keeps:
            self._is_idle = True
            self._end_in(self._service.limits.idle_s)
        else:
            self._close()

    # Ends.

    def _read_head(self, size: int) -> None:
        self._head += size
        if self._head > self._service.limits.head and not self._is_discarding:
            self._refuse(Answer(431, b"the request's headers are too large"))
            self._close()

    def _too_large(self) -> None:
        limit = self._service.limits.body
        self._refuse(Answer(413, f"the request's body is larger than {limit} bytes".encode()))

    def _refuse(self, answer: Answer) -> None:
        """Answer before the request's end. The rest is read and dropped: an end at once could cost the answer."""
        self._release()
        if not self._is_discarding:
            self._is_discarding = True
            self._write(answer, keeps=False)

    def _release(self) -> None:
        self._service.held -= self._size
        self._size = 0
        self._pieces = []

    def _write(self, answer: Answer, *, keeps: bool, is_head: bool = False) -> None:
        if self._transport is None:
            return
        head = (
            b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nX-Content-Type-Options: nosniff\r\n%b\r\n"
        ) % (
            answer.status,
            _REASONS[answer.status],
            answer.content_type.encode(),
            len(answer.body),
            b"" if keeps else b"Connection: close\r\n",
        )
        self._transport.write(head if is_head else head + answer.body)

    def _end_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_is_over)

    def _time_is_over(self) -> None:
        if not self._is_idle:
            self._refuse(Answer(408, b"the request did not come in time"))
        self._close()
        # A client that does not read cannot keep what is to be written.
        self._timer = asyncio.get_running_loop().call_later(1.0, self.abort)

    def _close(self) -> None:
        self._is_discarding = True
        if self._transport is not None:
            self._transport.close()
