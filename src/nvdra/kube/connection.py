"""One connection to the API server: HTTP/1.1 as `httptools` reads it, one exchange at a time, on the event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import httptools

# The limit of an answer, or of one of its lines; no object of the API is as large.
MOST_BYTES = 64 << 20


class TooLarge(OSError):
    """The answer has more bytes than the caller allows."""


class Broken(OSError):
    """The connection ended in the middle of an exchange."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body, and the Retry-After header, if any."""

    status: int
    body: bytes
    retry_after: str | None = None


class _Whole:
    """Collects the pieces of an answer.

    most   limit of bytes; a larger answer is dropped and fails with TooLarge
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._retry_after: str | None = None
        self._pieces: list[bytes] = []
        self._most = self._room = most

    def head(self, status: int, retry_after: str | None) -> None:
        self._status, self._retry_after = status, retry_after

    def body(self, piece: bytes) -> None:
        self._room -= len(piece)
        if self._room >= 0:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
            self.fail(TooLarge(f"its answer has more than {self._most >> 20} MiB"))

    def end(self) -> None:
        if not self.answer.done():
            self.answer.set_result(Answer(self._status, b"".join(self._pieces), self._retry_after))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Lines(_Whole):
    """Passes on the body of a 200 answer line by line while it arrives; collects any other answer as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def head(self, status: int, retry_after: str | None) -> None:
        super().head(status, retry_after)
        if status == 200:
            super().end()

    def body(self, piece: bytes) -> None:
        if self._status != 200:
            super().body(piece)
            return
        # Each byte is scanned once, however many pieces a line has.
        first, *others = piece.split(b"\n")
        super().body(first)
        for other in others:
            self._put()
            super().body(other)

    def _put(self) -> None:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._room = self._most
        if line.strip():
            self._lines.put_nowait(line)

    def end(self) -> None:
        if self._status != 200:
            super().end()
            return
        self._put()
        self._lines.put_nowait(None)

    def fail(self, error: Exception) -> None:
        super().fail(error)
        self._lines.put_nowait(error)

    async def read(self, silence_s: float) -> AsyncIterator[bytes]:
        """The lines, until the answer's end. Raises TimeoutError if none arrives for `silence_s`."""
        while True:
            async with asyncio.timeout(silence_s):
                line = await self._lines.get()
            if line is None:
                return
            if isinstance(line, Exception):
                raise line
            yield line


class Connection(asyncio.Protocol):
    """One connection: the protocol that asyncio and httptools call, and exchanges for callers.

    A caller that leaves an unfinished exchange must `abort` the connection.
    """

    def __init__(self) -> None:
        self.answers = 0  # complete answers received over it
        self._taker: _Whole | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._status = 0
        self._retry_after: str | None = None
        self._says_where_it_ends = False

    @property
    def is_new(self) -> bool:
        """Whether no answer came over it yet."""
        return not self.answers

    @property
    def is_usable(self) -> bool:
        """Whether it is open without an exchange under way."""
        return self._transport is not None and self._taker is None and not self._transport.is_closing()

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session that a later connection can resume; known after the first answer."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        return tls.session if tls is not None else None

    async def ask(self, request: bytes, ends: float, most: int = MOST_BYTES) -> Answer:
        """The answer to a request. `ends` is the deadline on the loop's clock.

        Raises TimeoutError, TooLarge, ConnectionError if the connection ended before the answer began, Broken if it
        ended within the answer.
        """
        whole = _Whole(most)
        self._send(request, whole)
        timer = asyncio.get_running_loop().call_at(ends, whole.fail, TimeoutError())
        try:
            return await whole.answer
        finally:
            timer.cancel()

    async def stream(self, request: bytes, silence_s: float) -> tuple[Answer, AsyncIterator[bytes]]:
        """The answer and its lines. The answer's body is empty if the status is 200."""
        lines = _Lines()
        self._send(request, lines)
        return await lines.answer, lines.read(silence_s)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, request: bytes, taker: _Whole) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the server closed the connection")
        self._taker, self._status = taker, 0
        self._transport.write(request)

    def _over(self, error: Exception | None = None) -> None:
        """End the exchange, with an error if there is one."""
        taker, self._taker = self._taker, None
        if taker is not None and error is None:
            taker.end()
        elif taker is not None and error is not None:
            taker.fail(error)

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass
        peer: socket.socket = transport.get_extra_info("socket")
        # A watch may be silent for long; keepalive ends it if the peer is gone.
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._over(Broken(f"what came is no HTTP: {error}"))
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._status and not self._says_where_it_ends and error is None:
            self._over()
        elif self._status:
            self._over(Broken(str(error or "the server closed it before its answer was complete")))
        else:
            self._over(error or ConnectionResetError("the server closed the connection"))
        self._transport = None
        # Connection and parser refer to each other; without this, only the garbage collector would free them.
        del self._parser

    # Called by httptools.

    def on_message_begin(self) -> None:
        self._says_where_it_ends, self._retry_after = False, None
        if self._taker is None:
            self.abort()  # no request was sent

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-length" | b"transfer-encoding":
                self._says_where_it_ends = True
            case b"retry-after":
                self._retry_after = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._taker is not None:
            self._status = status
            self._taker.head(status, self._retry_after)

    def on_body(self, piece: bytes) -> None:
        if self._taker is not None:
            self._taker.body(piece)

    def on_message_complete(self) -> None:
        if not self._status:
            return  # an interim answer
        if not self._parser.should_keep_alive():
            self.close()
        self._status = 0
        self._over()
