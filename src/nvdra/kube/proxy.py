"""Chooses the HTTP proxy for a server, and opens a tunnel through it with the standard library."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit


def refusal(proxy: str) -> str:
    """Why the proxy cannot be used, "" if it can. The text has no part of the URL that may be a password."""
    try:
        url = urlsplit(proxy)
        _ = url.port
    except ValueError:
        return "not a URL"
    if url.scheme != "http":
        return f"a proxy of the kind {url.scheme or 'without a scheme'} cannot be used, only http://host:port"
    return "" if url.hostname else "the URL has no host"


def environment_proxy(server: str, env: Mapping[str, str]) -> tuple[str | None, str]:
    """The proxy for a server by HTTPS_PROXY, HTTP_PROXY and NO_PROXY, and the variable's name; by Go's rules."""
    url = urlsplit(server)
    name = f"{url.scheme}_proxy".upper()
    name = name if env.get(name) else name.lower()
    proxy = env.get(name, "")
    without = env.get("NO_PROXY") or env.get("no_proxy") or ""
    if not proxy or _is_direct(url.hostname or "", url.port or (443 if url.scheme == "https" else 80), without):
        return None, name
    return proxy if "://" in proxy else f"http://{proxy}", name


def _is_direct(host: str, port: int, without: str) -> bool:
    import ipaddress  # for those who have a proxy

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in (part.strip().lower() for part in without.split(",")):
        if entry == "*":
            return True
        name, colon, number = entry.rpartition(":")
        if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
            if int(number) != port:
                continue
            entry = name
        entry = entry.removeprefix("[").removesuffix("]")
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            domain = entry.removeprefix("*")
            if domain and (host == domain or host.endswith(domain if domain.startswith(".") else f".{domain}")):
                return True
        else:
            if address is not None and address in network:
                return True
    return False


async def tunnel(proxy: str, host: str, port: int) -> socket.socket:
    """A socket connected to host and port through the proxy. Raises OSError."""
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
    try:
        connection.connect()
    except http.client.HTTPException as error:
        raise OSError(f"the proxy's answer is no HTTP: {type(error).__name__}") from None
    connection.sock.setblocking(False)
    return connection.sock
