"""The webhook's server with limits small enough to reach: which connection goes, which body is one too many."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from nvdra.api import gates
from nvdra.programs.webhook.certificate import Certificate
from nvdra.programs.webhook.connection import Limits
from nvdra.programs.webhook.metrics import WebhookMetrics
from nvdra.programs.webhook.server import WebhookServer
from tests.contract.plugin_node import until
from tests.contract.webhook_process import PATH, Client, head, make_pair

LIMITS = Limits(body=1000, bodies=1500, connections=3, request_s=30)


class Served:
    """A server of this process, and clients of it."""

    def __init__(self, server: WebhookServer, certificate: Path) -> None:
        self.server, self._certificate = server, certificate

    async def connect(self) -> Client:
        context = ssl.create_default_context(cafile=str(self._certificate))
        return Client(*await asyncio.open_connection("127.0.0.1", self.server.port, ssl=context))


@contextlib.asynccontextmanager
async def served(folder: Path, limits: Limits) -> AsyncIterator[Served]:
    make_pair(folder)
    server = WebhookServer(
        gates.defaults(), WebhookMetrics(CollectorRegistry()), port=0, limits=limits, address="127.0.0.1"
    )
    await server.start(Certificate(folder / "tls.crt", folder / "tls.key").context)
    try:
        yield Served(server, folder / "tls.crt")
    finally:
        await server.stop(notice_s=0, wait_s=10)


async def test_connections_that_ask_nothing_make_room(tmp_path: Path) -> None:
    """Whoever holds connections and asks nothing cannot keep the API server away."""
    async with served(tmp_path, LIMITS) as at:
        used = await at.connect()
        assert (await used.ask()).body == b"ok"
        held = [await at.connect() for _ in range(5)]
        assert (await used.ask()).body == b"ok"
        for each in held[:3]:
            assert await each.is_closed()
        # Once all of them have asked, the one that did longest ago.
        for each in (*held[3:], used):
            assert (await each.ask()).body == b"ok"
        newest = await at.connect()
        assert (await newest.ask()).body == b"ok"
        assert await held[3].is_closed()
        for each in (held[4], used, newest):
            assert (await each.ask()).body == b"ok"


async def test_bodies_under_way_are_bounded_together(tmp_path: Path) -> None:
    async with served(tmp_path, LIMITS) as at:
        begun, other = await at.connect(), await at.connect()
        await begun.send(head(PATH, 900) + b" " * 800)
        await until(lambda: at.server.held == 800)
        await other.send(head(PATH, 900) + b" " * 800)
        reply = await other.reply()
        assert (reply.status, reply.body) == (503, b"too many large requests at once")
        await begun.send(b" " * 100)
        assert (await begun.reply()).status == 415
        third = await at.connect()
        assert (await third.ask(PATH, b" " * 900)).status == 415


async def test_bodies_of_clients_that_leave_do_not_count(tmp_path: Path) -> None:
    async with served(tmp_path, LIMITS) as at:
        for _ in range(5):
            gone = await at.connect()
            await gone.send(head(PATH, 900) + b" " * 800)
            await until(lambda: at.server.held == 800)
            await gone.close()
            await until(lambda: at.server.held == 0)
        assert (await (await at.connect()).ask(PATH, b" " * 900)).status == 415


async def test_a_connection_that_stays_unused_is_closed(tmp_path: Path) -> None:
    async with served(tmp_path, replace(LIMITS, idle_s=0.05)) as at:
        client = await at.connect()
        assert (await client.ask()).body == b"ok"
        assert await client.is_closed()
