"""TLS with session resumption: further connections resume the last session, at a third of a handshake's cost."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator


class Tls(ssl.SSLContext):
    """A client's context for connections to one server.

    session              of the last connection, because asyncio does not keep it
    presents             whether the server is shown a client certificate: a connection keeps the one it began with
    before_connecting    called before each new connection
    """

    session: ssl.SSLSession | None = None
    presents: bool = False
    before_connecting: Callable[[], None] | None = None

    @classmethod
    def of_the_system(cls) -> Tls:
        """A context with the system's trusted certificates."""
        made = cls(ssl.PROTOCOL_TLS_CLIENT)
        made.load_default_certs()
        return made

    def present(self, certificate: bytes, key: bytes | None = None) -> None:
        """Present this certificate from the next connection on; `key` None: the key is in the same text.

        Raises OSError if they cannot be used; the previous certificate stays then.
        """
        with _as_file(certificate) as first, _as_file(key) as second:
            # A mismatch would leave the context without a key, so the pair is tried on another context first.
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self):
                # An empty password: OpenSSL then refuses an encrypted key instead of prompting on the terminal.
                context.load_cert_chain(first or "", second, password="")
        self.session, self.presents = None, True

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self.session)


@contextlib.contextmanager
def _as_file(content: bytes | None) -> Iterator[str | None]:
    """A path to the content in memory: OpenSSL reads certificates from files only, and keys must not reach a disk."""
    if content is None:
        yield None
        return
    fd = os.memfd_create("certificate")
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
