"""A GET whose body comes line by line: read on a thread of its own, told to the loop."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from nvdra.kube.connection import Answer, Broken


@asynccontextmanager
async def stream(
    connect: Callable[[float], http.client.HTTPConnection],
    target: str,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    silence_s: float,
) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
    """The answer, whose own body is only filled where the status is not 200, and the lines.

    connect     a connection of its own, open, within so many seconds
    timeout_s   until the headers are there
    silence_s   between two lines
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
    head: asyncio.Future[Answer] = loop.create_future()
    reader = _Reader(connect, target, headers, timeout_s, silence_s, loop, head, lines)
    reader.start()
    try:
        async with asyncio.timeout(timeout_s):
            answer = await head
        yield answer, _lines(lines)
    finally:
        reader.stop()


class _Reader(threading.Thread):
    """One stream, from its request to its end."""

    def __init__(
        self,
        connect: Callable[[float], http.client.HTTPConnection],
        target: str,
        headers: Mapping[str, str],
        timeout_s: float,
        silence_s: float,
        loop: asyncio.AbstractEventLoop,
        head: asyncio.Future[Answer],
        lines: asyncio.Queue[bytes | Exception | None],
    ) -> None:
        super().__init__(name="api-stream", daemon=True)
        self._connect, self._target, self._headers = connect, target, headers
        self._timeout_s, self._silence_s = timeout_s, silence_s
        self._loop, self._head, self._lines = loop, head, lines
        self._connection: http.client.HTTPConnection | None = None
        self._is_stopped = False

    def run(self) -> None:
        try:
            self._connection = self._connect(self._timeout_s)
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
        connection.request("GET", self._target, None, dict(self._headers))
        sock = connection.sock
        response = connection.getresponse()
        is_good = response.status == 200
        answer = Answer(response.status, b"" if is_good else response.read(), response.getheader("Retry-After"))
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
