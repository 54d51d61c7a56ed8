"""One connection to the API server, and what an exchange over it gives."""

from __future__ import annotations

import http.client
import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from nvdra.kube.config import Access


class Broken(OSError):
    """The connection ended in the middle of an exchange."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body, and the Retry-After header where there is one."""

    status: int
    body: bytes
    retry_after: str | None = None


class Connection(http.client.HTTPConnection):
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
