"""HTTP as servers, proxies and broken lines speak it: what they send is written out here."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nvdra.kube import connections
from nvdra.kube.config import Access
from nvdra.kube.connection import Answer, Broken
from nvdra.kube.connections import Connections
from nvdra.kube.tls import Tls

TLS = Path(__file__).parents[2] / "contract" / "tls"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server on loopback: each request is answered with the next text, then the connection is closed if told so."""

    def __init__(self, *texts: bytes, closes: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self._texts = list(texts)
        self._closes = closes
        self._tls = tls
        self.gate = asyncio.Event()
        self.gate.set()
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0

    @asynccontextmanager
    async def __call__(self, **timing: float) -> AsyncIterator[Connections]:
        async with serving(self._serve, self._tls) as self.port:
            kept = Connections(Access(f"http://127.0.0.1:{self.port}/prefix"), **timing)
            yield kept
            kept.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            self.requests.append(head + (await reader.readexactly(int(length[1])) if length else b""))
            await self.gate.wait()
            writer.write(self._texts.pop(0) if len(self._texts) > 1 else self._texts[0])
            await writer.drain()
            if self._closes:
                return


@asynccontextmanager
async def serving(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            await behaviour(reader, writer)
        writer.close()

    def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def get(kept: Connections, timeout_s: float = 10) -> Answer:
    return await kept.ask("GET", "/x", (("Accept", "text"),), None, timeout_s)


async def test_a_request_is_what_was_asked_for_and_a_connection_is_used_again() -> None:
    peer = Peer(OK)
    async with peer() as kept:
        assert await get(kept) == Answer(200, b"ok")
        assert await kept.ask("PUT", "/y", (("Authorization", "Bearer t"),), b'{"a":1}', 10) == Answer(200, b"ok")
    host = f"Host: 127.0.0.1:{peer.port}\r\nAccept-Encoding: identity\r\n".encode()
    assert peer.requests == [
        b"GET /prefix/x HTTP/1.1\r\n" + host + b"Accept: text\r\n\r\n",
        b"PUT /prefix/y HTTP/1.1\r\n" + host + b"Authorization: Bearer t\r\n"
        b'Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}',
    ]
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", Answer(200, b"ok")),
        (b"HTTP/1.1 429 x\r\nretry-after: 3\r\nContent-Length: 0\r\n\r\n", Answer(429, b"", "3")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Answer(204, b"")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Answer(200, b"ok")),
    ],
)
async def test_answers_of_all_forms_are_read_and_leave_the_connection_good(text: bytes, answer: Answer) -> None:
    peer = Peer(text)
    async with peer() as kept:
        assert [await get(kept), await get(kept)] == [answer, answer]
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("text", "connections"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nok", 2),  # as long as the connection
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 2),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 2),
    ],
)
async def test_a_connection_that_ends_with_its_answer_is_not_used_again(text: bytes, connections: int) -> None:
    peer = Peer(text, closes=True)
    async with peer() as kept:
        assert [await get(kept), await get(kept)] == [Answer(200, b"ok"), Answer(200, b"ok")]
    assert peer.connections == connections


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "before its answer was complete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\no", "before its answer was complete"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nmore", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "no HTTP"),
    ],
)
async def test_what_is_no_answer_is_said(text: bytes, error: str) -> None:
    async with Peer(text, closes=True)() as kept:
        with pytest.raises(Broken, match=error):
            await get(kept)


async def test_a_server_that_says_nothing_is_an_end_in_time() -> None:
    peer = Peer(OK)
    peer.gate.clear()
    async with peer() as kept:
        with pytest.raises(TimeoutError):
            await get(kept, timeout_s=0.05)
        peer.gate.set()
        assert await get(kept) == Answer(200, b"ok")
    assert peer.connections == 2  # the first one's answer may still come


async def test_a_read_is_tried_again_where_the_server_had_closed_and_a_write_is_not() -> None:
    peer = Peer(OK)

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers two requests, and dies of the next."""
        peer.connections += 1
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")

    async with serving(twice) as port:
        kept = Connections(Access(f"http://127.0.0.1:{port}"))
        assert [await get(kept) for _ in range(4)] == [Answer(200, b"ok")] * 4
        assert peer.connections == 2
        with pytest.raises(Broken, match="closed while a change was under way"):
            await kept.ask("PUT", "/x", (), b"{}", 10)
        kept.close()
    with pytest.raises(ConnectionRefusedError):
        await get(kept)


async def test_a_farewell_without_a_question_is_noticed() -> None:
    peer = Peer(OK + b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    async with peer() as kept:
        assert await get(kept) == Answer(200, b"ok")
        assert await get(kept) == Answer(200, b"ok")
    assert peer.connections == 2


@pytest.mark.parametrize("text", ["a\r\nX-Injected: 1", "a\nb", "\x00", "€"])
async def test_what_has_no_place_in_a_header_is_refused(text: str) -> None:
    peer = Peer(OK)
    async with peer() as kept:
        with pytest.raises(ValueError, match="not allowed there"):
            await kept.ask("GET", "/x", (("Authorization", text),), None, 10)
        with pytest.raises(ValueError, match="not allowed there"):
            await kept.ask("GET", f"/{text}", (), None, 10)
    assert peer.connections == 0


async def test_who_no_longer_waits_for_a_connection_leaves_it_to_the_others() -> None:
    peer = Peer(OK)
    async with peer() as kept:
        for turns in range(30):
            first, left, *others = [asyncio.create_task(get(kept)) for _ in range(6)]
            for _ in range(turns):
                await asyncio.sleep(0)
            left.cancel()
            assert await asyncio.gather(first, *others) == [Answer(200, b"ok")] * 5
    assert peer.connections <= 6 + 30  # one more for each exchange that was cut off


async def test_calls_at_once_share_a_connection_whose_exchanges_end_soon() -> None:
    peer = Peer(OK)
    async with peer(open_after_s=30) as kept:  # soon, however slow the machine
        await get(kept)
        assert await asyncio.gather(*(get(kept) for _ in range(8))) == [Answer(200, b"ok")] * 8
    assert peer.connections == 1


async def test_another_connection_is_opened_where_all_are_in_use() -> None:
    peer = Peer(OK)
    peer.gate.clear()
    async with peer() as kept:
        calls = [asyncio.create_task(get(kept)) for _ in range(3)]
        while len(peer.requests) < 3:  # noqa: ASYNC110  what is waited for happens at the other end
            await asyncio.sleep(0.001)
        peer.gate.set()
        await asyncio.gather(*calls)
    assert peer.connections == 3


CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("text", [CLOSING, OK], ids=["announced", "in silence"])
async def test_500_reads_at_once_succeed_where_each_answer_ends_its_connection(text: bytes) -> None:
    peer = Peer(text, closes=True)
    async with peer() as kept:
        for _ in range(2):
            assert await asyncio.gather(*(get(kept, timeout_s=30) for _ in range(500))) == [Answer(200, b"ok")] * 500
    assert peer.connections == len(peer.requests) == 1000


@pytest.mark.parametrize("text", [CLOSING, OK], ids=["announced", "in silence"])
async def test_writes_succeed_where_each_answer_ends_its_connection(text: bytes) -> None:
    async with Peer(text, closes=True)() as kept:
        await asyncio.gather(*(get(kept) for _ in range(3)))
        for _ in range(20):
            assert await kept.ask("PUT", "/x", (), b"{}", 10) == Answer(200, b"ok")


@asynccontextmanager
async def handshakes(peer: Peer, together: int) -> AsyncIterator[tuple[Connections, list[int]]]:
    """Connections through a proxy, and how many are being opened at each moment.

    Each handshake after the first ends once that many are under way.
    """
    opening = [0]
    enough = asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        opening.append(opening[-1] + 1)
        if opening[-1] >= together:
            enough.set()
        if peer.connections:
            await enough.wait()
        there = await asyncio.open_connection("127.0.0.1", peer.port)
        opening.append(opening[-1] - 1)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async with peer(), serving(proxy) as port:
        kept = Connections(Access("http://api.test", proxy=f"http://127.0.0.1:{port}"))
        yield kept, opening
        kept.close()


async def test_connections_open_side_by_side_where_each_answer_ends_its_connection() -> None:
    async with handshakes(Peer(CLOSING, closes=True), together=4) as (kept, opening):
        assert await asyncio.gather(*(get(kept) for _ in range(40))) == [Answer(200, b"ok")] * 40
    assert 4 <= max(opening) <= connections.OPENED_AT_ONCE


async def test_connections_open_one_at_a_time_where_the_server_keeps_them() -> None:
    peer = Peer(OK)
    async with handshakes(peer, together=1) as (kept, opening):
        await get(kept)
        peer.gate.clear()
        calls = [asyncio.create_task(get(kept)) for _ in range(4)]
        while len(peer.requests) < 5:  # noqa: ASYNC110  what is waited for happens at the other end
            await asyncio.sleep(0.001)
        peer.gate.set()
        await asyncio.gather(*calls)
    assert max(opening) == 1
    assert peer.connections == 4


async def test_a_server_that_keeps_connections_again_gets_one_handshake_at_a_time_again() -> None:
    peer = Peer(CLOSING, OK)
    async with handshakes(peer, together=1) as (kept, opening):
        for _ in range(3):  # closed after its answer, kept after its first answer, and after its second
            await get(kept)
        peer.gate.clear()
        calls = [asyncio.create_task(get(kept)) for _ in range(4)]
        while len(peer.requests) < 7:  # noqa: ASYNC110  what is waited for happens at the other end
            await asyncio.sleep(0.001)
        peer.gate.set()
        await asyncio.gather(*calls)
    assert max(opening) == 1


@pytest.mark.parametrize(("login", "header"), [("", None), ("me:p%40ss@", b"Basic bWU6cEBzcw==")])
async def test_a_proxy_leads_to_the_server_and_sees_none_of_it(login: str, header: bytes | None) -> None:
    asked: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.crt", TLS / "server.key")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.close()

    peer = Peer(OK, tls=context)
    async with peer():

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            there = await asyncio.open_connection("127.0.0.1", peer.port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

        async with serving(proxy) as port:
            tls = Tls(ssl.PROTOCOL_TLS_CLIENT)
            tls.load_verify_locations(cafile=str(TLS / "ca.crt"))
            way = Access("https://api.test:6443", tls, proxy=f"http://{login}127.0.0.1:{port}")
            kept = Connections(way)
            assert await get(kept) == Answer(200, b"ok")
            kept.close()
    assert asked[0].startswith(b"CONNECT api.test:6443 HTTP/1.")
    assert (b"Proxy-Authorization: " + header in asked[0]) if header else b"Proxy-Authorization" not in asked[0]


async def test_a_proxy_that_refuses_is_named() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    async with serving(refuse) as port:
        kept = Connections(Access("https://api.test:6443", proxy=f"http://127.0.0.1:{port}"))
        with pytest.raises(OSError, match=" 407 "):
            await get(kept)
