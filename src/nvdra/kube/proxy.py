"""A way through an HTTP proxy, as the standard library asks for it."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from urllib.parse import unquote, urlsplit


async def tunnel(proxy: str, host: str, port: int) -> socket.socket:
    """A socket that leads to host and port. Raises OSError."""
    return await asyncio.to_thread(_tunnel, proxy, host, port)


def _tunnel(proxy: str, host: str, port: int) -> socket.socket:
    import http.client  # 2 MiB, for those who have a proxy

    url = urlsplit(proxy)
    login = {}
    if url.username:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        login = {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=30)
    connection.set_tunnel(host, port, login)
    connection.connect()
    connection.sock.setblocking(False)
    return connection.sock
