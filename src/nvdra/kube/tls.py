"""TLS whose further connections go on with the last one's session: a handshake for a third of the price."""

from __future__ import annotations

import ssl


class Tls(ssl.SSLContext):
    """A client's context for connections to one server.

    session   of the last connection; asyncio has no place for it
    """

    session: ssl.SSLSession | None = None

    @classmethod
    def of_the_system(cls) -> Tls:
        """Trusting whom the system trusts."""
        made = cls(ssl.PROTOCOL_TLS_CLIENT)
        made.load_default_certs()
        return made

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self.session)
