"""The connections to one server: kept as long as they are usable, opened if all are in use."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

from nvdra.kube.config import Access
from nvdra.kube.connection import MOST_BYTES, Answer, Broken, Connection
from nvdra.kube.proxy import tunnel
from nvdra.kube.tls import Tls

# The API server closes a connection after 90 idle seconds: one that was idle for this long is not used again.
_IDLE_S = 85.0
# A handshake costs both sides more than most exchanges: a call first waits this long for a connection in use.
REUSE_WAIT_S = 0.02
# A limit for opening, because calls wait for the connection that is being opened.
OPEN_S = 10.0
# Connections opened at a time if the server closes each after its answer, so that none can be reused.
OPENED_AT_ONCE = 32
_UNFIT = re.compile(r"[^\x20-\x7e\xa0-\xff]")

Headers = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Idle:
    connection: Connection
    since: float


class Connections:
    """Connections to the server that `access` names. One event loop uses it.

    A server that keeps connections gets one handshake at a time. A server that closed a connection after its first
    answer counts as one that closes each, until a connection gives a second answer: calls then never wait for a
    connection in use, and up to OPENED_AT_ONCE connections are opened at a time.

    open_after_s     how long a call waits for a connection in use before another one is opened
    open_timeout_s   how long opening a connection may take
    """

    def __init__(self, access: Access, *, open_after_s: float = REUSE_WAIT_S, open_timeout_s: float = OPEN_S) -> None:
        self._open_after_s, self._open_timeout_s = open_after_s, open_timeout_s
        url = urlsplit(access.server)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{access.server} is no http or https URL")
        self._access = access
        self._host, self._port = url.hostname, url.port or (443 if url.scheme == "https" else 80)
        self._authority = url.netloc.rpartition("@")[2]
        self._prefix = url.path.rstrip("/")
        self._tls = None if url.scheme == "http" else access.tls or Tls.of_the_system()
        self._idle: list[_Idle] = []
        self._waiting: deque[asyncio.Future[Connection]] = deque()
        self._under_way = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._closes_each = False
        self._last_headers: Headers | None = None
        self._last_head = ""

    async def ask(
        self,
        verb: str,
        target: str,
        headers: Headers,
        body: bytes | None,
        timeout_s: float,
        most: int = MOST_BYTES,
        content_type: str = "application/json",
    ) -> Answer:
        """The answer to a request; it may have at most `most` bytes.

        Raises OSError (TimeoutError, ssl.SSLError, Broken, TooLarge) or ValueError (no proper header or URL).
        """
        request = self._request(verb, target, headers, body, content_type)
        ends = asyncio.get_running_loop().time() + timeout_s
        while True:
            connection = await self._connection(verb, ends)
            is_new = connection.is_new
            try:
                return await self._exchange(connection, request, ends, most)
            except (ConnectionError, Broken):
                if is_new:
                    raise
                # The server closed the idle connection. A GET is safe to repeat; a write may have been carried out.
                self._closes_each |= connection.answers == 1
                if verb != "GET":
                    raise Broken("it was closed while a change was under way") from None

    @asynccontextmanager
    async def stream(
        self, target: str, headers: Headers, *, timeout_s: float, silence_s: float
    ) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """A GET with a body read line by line, over a connection of its own.

        timeout_s   until the headers arrive
        silence_s   between two lines
        """
        request = self._request("GET", target, headers)
        async with asyncio.timeout(timeout_s):
            connection = await self._connect()
        try:
            async with asyncio.timeout(timeout_s):
                answered = await connection.stream(request, silence_s)
            yield answered
        finally:
            connection.abort()

    def close(self) -> None:
        """Close idle connections and refuse waiting calls; running exchanges end by themselves."""
        for opening in self._opening:
            opening.cancel()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(ConnectionAbortedError("no more calls are made"))
        self._close_idle()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for each in idle:
            each.connection.close()

    async def _exchange(self, connection: Connection, request: bytes, ends: float, most: int) -> Answer:
        self._under_way += 1
        try:
            answer = await connection.ask(request, ends, most)
        except BaseException:
            connection.abort()
            raise
        finally:
            self._under_way -= 1
        if self._tls is not None and (answer.status == 401 or connection.is_new):
            # A session keeps its first client certificate. After a 401 there may be a newer certificate.
            self._tls.session = None if answer.status == 401 else connection.session
            if answer.status == 401 and self._tls.presents:
                # A connection keeps its certificate, too.
                connection.close()
                self._close_idle()
        connection.answers += 1
        if connection.answers > 1:
            self._closes_each = False
        elif not connection.is_usable and answer.status != 401:
            self._closes_each = True
            self._open_others()
        self._keep(connection)
        return answer

    def _keep(self, connection: Connection) -> None:
        if not connection.is_usable:
            return
        waiter = None if self._closes_each and not connection.is_new else self._next_waiter()
        if waiter is not None:
            waiter.set_result(connection)
        elif any(not waiter.done() for waiter in self._waiting):
            connection.close()  # the server is about to close it
        else:
            self._idle.append(_Idle(connection, time.monotonic()))

    async def _connection(self, verb: str, ends: float) -> Connection:
        """A connection that was usable a moment ago. Raises OSError."""
        while True:
            # If the server closes each connection, an idle one may be closed unnoticed: writes do not use it.
            idle = None if self._closes_each and verb != "GET" else self._take()
            connection = idle or await self._next_free(ends)
            if connection.is_usable or connection.is_new:
                return connection
            self._closes_each |= connection.answers == 1

    def _take(self) -> Connection | None:
        """The most recently used idle connection that is still usable."""
        while self._idle:
            idle = self._idle.pop()
            if idle.connection.is_usable and time.monotonic() - idle.since <= _IDLE_S:
                return idle.connection
            idle.connection.close()
        return None

    async def _next_free(self, ends: float) -> Connection:
        """The first connection that becomes free or is newly opened. Raises OSError."""
        free: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(free)
        self._open_others()
        try:
            async with asyncio.timeout_at(ends):
                return await free
        except (asyncio.CancelledError, TimeoutError):
            if free.done() and not free.cancelled() and free.exception() is None:
                self._keep(free.result())
            raise

    def _open_others(self) -> None:
        """Open connections for waiting calls; how many at a time depends on whether the server closes each."""
        for _ in range(len(self._opening), self._to_open()):
            opening = asyncio.create_task(self._open(), name="connection to the API server")
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def _to_open(self) -> int:
        """How many calls wait for a connection, up to the number opened at a time."""
        waiting = (waiter for waiter in self._waiting if not waiter.done())
        return sum(1 for _ in islice(waiting, OPENED_AT_ONCE if self._closes_each else 1))

    async def _open(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        while True:
            if self._under_way and not self._closes_each:
                await asyncio.sleep(self._open_after_s)
            if len(self._opening) > self._to_open():
                # Removed here, not in the task's callback: the next call must count only tasks that go on.
                self._opening.discard(me)
                return
            try:
                connection = await self._connect()
            except Exception as error:  # of any kind: the waiting call gets it
                if (waiter := self._next_waiter()) is not None:
                    waiter.set_exception(error)
            else:
                self._keep(connection)

    def _next_waiter(self) -> asyncio.Future[Connection] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None

    async def _connect(self) -> Connection:
        """A newly opened connection. Raises OSError."""
        try:
            async with asyncio.timeout(self._open_timeout_s):
                return await self._connected()
        except TimeoutError:
            # With an errno, to tell it from the timeout of a call: nothing accepted the connection.
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        name = None if self._tls is None else self._access.server_name or self._host
        if self._tls is not None and self._tls.before_connecting is not None:
            self._tls.before_connecting()
        try:
            if self._access.proxy:
                through = await tunnel(self._access.proxy, self._host, self._port)
                made = await loop.create_connection(Connection, sock=through, ssl=self._tls, server_hostname=name)
            else:
                made = await loop.create_connection(
                    Connection, self._host, self._port, ssl=self._tls, server_hostname=name
                )
        except ssl.SSLError:
            if self._tls is not None:
                self._tls.session = None
            raise
        return made[1]

    def _request(
        self, verb: str, target: str, headers: Headers, body: bytes | None = None, content_type: str = ""
    ) -> bytes:
        length = "" if body is None else f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        text = f"{verb} {_fit(self._prefix + target)} HTTP/1.1\r\n{self._head(headers)}{length}\r\n"
        return text.encode("latin-1") + (body or b"")

    def _head(self, headers: Headers) -> str:
        """The headers as text, cached because they change only with the token."""
        if headers != self._last_headers:
            pairs = [("Host", self._authority), ("Accept-Encoding", "identity"), *headers]
            self._last_head = "".join(f"{name}: {_fit(value)}\r\n" for name, value in pairs)
            self._last_headers = headers
        return self._last_head


def _fit(text: str) -> str:
    if _UNFIT.search(text):
        raise ValueError(f"a header or URL has a character that is not allowed there: {text[:40]!r}")
    return text
