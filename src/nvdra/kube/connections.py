"""HTTP to one server by the standard library's http.client, on threads; connections are kept and used again.

http.client costs a fifth of the memory of an asynchronous HTTP library, and a plugin runs on every node
(docs/decisions/0001). Threads only exist while calls overlap; one thread belongs to each open stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import select
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from nvdra.kube.config import Access

_THREADS = 16
# The API server closes a connection after 90 idle seconds: one this old is not worth a try.
_IDLE_S = 85.0
_CHUNK = 1 << 16


class Broken(OSError):
    """The connection ended in the middle of an exchange."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers by their lower-case names, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Idle:
    connection: http.client.HTTPConnection
    since: float


class Connections:
    """Connections to the server that `access` names. One event loop uses it."""

    def __init__(self, access: Access) -> None:
        url = urlsplit(access.server)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{access.server} is no http or https URL")
        self._access = access
        self._host, self._port = url.hostname, url.port or (443 if url.scheme == "https" else 80)
        self._prefix = url.path.rstrip("/")
        self._tls = None if url.scheme == "http" else access.tls or ssl.create_default_context()
        self._idle: list[_Idle] = []
        self._guard = threading.Lock()
        # Of the last connection: with it the next one costs a third, and a burst of claims after a rest opens several.
        self._session: ssl.SSLSession | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="api")

    async def ask(
        self, verb: str, target: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> Answer:
        """One exchange. Raises OSError (TimeoutError, ssl.SSLError, Broken) or ValueError (no proper header or URL)."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            return await loop.run_in_executor(self._threads, self._ask, verb, target, headers, body, timeout_s)

    @asynccontextmanager
    async def stream(
        self, target: str, headers: Mapping[str, str], *, timeout_s: float, silence_s: float
    ) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """A GET whose body comes line by line; the answer's own body is only filled where the status is not 200.

        timeout_s   until the headers are there
        silence_s   between two lines
        """
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        head: asyncio.Future[Answer] = loop.create_future()
        reader = _Reader(self, target, headers, timeout_s, silence_s, loop, head, lines)
        reader.start()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await head
            yield answer, _lines(lines)
        finally:
            reader.stop()

    def close(self) -> None:
        """Close what is idle and let no new exchange begin; what runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._guard:
            idle, self._idle = self._idle, []
        for each in idle:
            each.connection.close()

    # On threads.

    def _ask(self, verb: str, target: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float) -> Answer:
        kept = self._take()
        if kept is not None:
            try:
                return self._exchange(kept, verb, target, headers, body, timeout_s)
            except (http.client.RemoteDisconnected, ConnectionError, Broken):
                # The server closed it while it lay idle. Reading again harms nothing; a write may have been done.
                if verb != "GET":
                    raise Broken("it was closed while a change was under way") from None
        return self._exchange(self.connect(timeout_s), verb, target, headers, body, timeout_s)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        verb: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
    ) -> Answer:
        try:
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            connection.request(verb, self._prefix + target, body, dict(headers))
            response = connection.getresponse()
            answer = Answer(response.status, _lower(response), response.read())
        except http.client.HTTPException as error:
            connection.close()
            if isinstance(error, http.client.RemoteDisconnected):
                raise
            raise Broken(str(error) or type(error).__name__) from None
        except BaseException:
            connection.close()
            raise
        self._remember(connection, answer.status)
        if response.will_close:
            connection.close()
        else:
            with self._guard:
                self._idle.append(_Idle(connection, time.monotonic()))
        return answer

    def _remember(self, connection: http.client.HTTPConnection, status: int) -> None:
        if status == 401:
            # A session keeps the client certificate it began with, and there may be a newer one.
            self._session = None
        elif isinstance(connection, _Connection) and connection.is_new:
            connection.is_new = False
            self._session = connection.session

    def _take(self) -> http.client.HTTPConnection | None:
        """The connection used last that is still open."""
        while True:
            with self._guard:
                if not self._idle:
                    return None
                idle = self._idle.pop()
            sock = idle.connection.sock
            # Nothing was asked, so what can be read is the server's farewell.
            is_dead = sock is None or time.monotonic() - idle.since > _IDLE_S or _is_readable(sock)
            if not is_dead:
                return idle.connection
            idle.connection.close()

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """A connection of its own, open. Raises OSError."""
        made = _Connection(self._host, self._port, self._access, self._tls, self._session, timeout_s)
        try:
            made.connect()
        except ssl.SSLError:
            self._session = None
            raise
        return made

    def path(self, target: str) -> str:
        return self._prefix + target


class _Connection(http.client.HTTPConnection):
    """TLS with a name of its own choice, through a proxy if there is one, on a socket that notices a dead peer."""

    def __init__(
        self,
        host: str,
        port: int,
        access: Access,
        tls: ssl.SSLContext | None,
        session: ssl.SSLSession | None,
        timeout_s: float,
    ) -> None:
        self._tls, self._name, self._session = tls, access.server_name or host, session
        self.is_new = True
        if access.proxy:
            proxy = urlsplit(access.proxy)
            super().__init__(proxy.hostname or "", proxy.port or 80, timeout=timeout_s)
            login = {}
            if proxy.username:
                pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
                login = {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
            self.set_tunnel(host, port, login)
        else:
            super().__init__(host, port, timeout=timeout_s)

    def connect(self) -> None:
        super().connect()
        # A watch may be silent for long and must not hang on a peer that is gone.
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            self.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name, session=self._session)

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later connection can go on with; a server tells it after the handshake, with its first answer."""
        return self.sock.session if isinstance(self.sock, ssl.SSLSocket) else None


class _Reader(threading.Thread):
    """One stream: read on this thread, told to the loop."""

    def __init__(
        self,
        connections: Connections,
        target: str,
        headers: Mapping[str, str],
        timeout_s: float,
        silence_s: float,
        loop: asyncio.AbstractEventLoop,
        head: asyncio.Future[Answer],
        lines: asyncio.Queue[bytes | Exception | None],
    ) -> None:
        super().__init__(name="api-stream", daemon=True)
        self._connections, self._target, self._headers = connections, target, headers
        self._timeout_s, self._silence_s = timeout_s, silence_s
        self._loop, self._head, self._lines = loop, head, lines
        self._connection: http.client.HTTPConnection | None = None
        self._is_stopped = False

    def run(self) -> None:
        try:
            self._connection = self._connections.connect(self._timeout_s)
            self._read(self._connection)
        except http.client.HTTPException as error:
            self._tell(Broken(str(error) or type(error).__name__))
        except Exception as error:
            self._tell(error)
        else:
            self._tell(None)
        finally:
            if self._connection is not None:
                self._connection.close()

    def stop(self) -> None:
        """On the loop: make the blocked read return."""
        self._is_stopped = True
        sock = self._connection.sock if self._connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                # The plain socket's: TLS state stays the reading thread's.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _read(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", self._connections.path(self._target), None, dict(self._headers))
        sock = connection.sock
        response = connection.getresponse()
        is_good = response.status == 200
        answer = Answer(response.status, _lower(response), b"" if is_good else response.read())
        self._call(self._answered, answer)
        if not is_good:
            return
        if sock is not None:
            sock.settimeout(self._silence_s)
        while not self._is_stopped:
            line = response.readline()
            if not line:
                return
            if line.strip():
                self._call(self._lines.put_nowait, line)

    def _answered(self, answer: Answer) -> None:
        if not self._head.done():
            self._head.set_result(answer)

    def _tell(self, end: Exception | None) -> None:
        def told() -> None:
            if end is not None and not self._head.done():
                self._head.set_exception(end)
            self._lines.put_nowait(end)

        self._call(told)

    def _call(self, what: object, *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *args)  # type: ignore[arg-type]


async def _lines(lines: asyncio.Queue[bytes | Exception | None]) -> AsyncIterator[bytes]:
    while True:
        line = await lines.get()
        if line is None:
            return
        if isinstance(line, Exception):
            raise line
        yield line


def _lower(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _is_readable(sock: socket.socket) -> bool:
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(0))
