"""HTTP to one server by the standard library's http.client, on threads; connections are kept and used again.

http.client costs a fifth of the memory of an asynchronous HTTP library, and a plugin runs on every node
(docs/decisions/0001). Threads only exist while calls overlap; one thread belongs to each open stream.
"""

from __future__ import annotations

import asyncio
import http.client
import select
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from urllib.parse import urlsplit

from nvdra.kube.config import Access
from nvdra.kube.connection import Answer, Broken, Connection
from nvdra.kube.stream import stream

_THREADS = 16
# The API server closes a connection after 90 idle seconds: one this old is not worth a try.
_IDLE_S = 85.0


@dataclass(slots=True)
class _Idle:
    connection: Connection
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

    def stream(
        self, target: str, headers: Mapping[str, str], *, timeout_s: float, silence_s: float
    ) -> AbstractAsyncContextManager[tuple[Answer, AsyncIterator[bytes]]]:
        """A GET whose body comes line by line, over a connection of its own (`stream`)."""
        return stream(self._connect, self._prefix + target, headers, timeout_s=timeout_s, silence_s=silence_s)

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
        return self._exchange(self._connect(timeout_s), verb, target, headers, body, timeout_s)

    def _exchange(
        self,
        connection: Connection,
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
            answer = Answer(response.status, response.read(), response.getheader("Retry-After"))
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

    def _remember(self, connection: Connection, status: int) -> None:
        if status == 401:
            # A session keeps the client certificate it began with, and there may be a newer one.
            self._session = None
        elif connection.is_new:
            connection.is_new = False
            self._session = connection.session

    def _take(self) -> Connection | None:
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

    def _connect(self, timeout_s: float) -> Connection:
        """A connection of its own, open. Raises OSError."""
        made = Connection(self._host, self._port, self._access, self._tls, self._session, timeout_s)
        try:
            made.connect()
        except ssl.SSLError:
            self._session = None
            raise
        return made


def _is_readable(sock: socket.socket) -> bool:
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(0))
