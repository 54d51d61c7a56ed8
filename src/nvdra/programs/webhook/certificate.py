"""The server's certificate, renewed under its feet: files are looked at in every handshake, and read when changed.

Looking costs two `stat` calls. So there is no watcher that could miss the symlink swap by which kubelet renews a
Secret's volume, and no handshake after it sees the old certificate.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvdra import telemetry

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module has no name for.
_NO_CHECK_TIME = 0x200000
_DAY_S = 86400.0


class CertificateError(Exception):
    """Files that are no certificate and key; the text is for people."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A loaded certificate with its key.

    expires   seconds since 1970; None where the certificate cannot be verified by itself
    names     DNS names it is for
    """

    context: ssl.SSLContext
    expires: float | None
    names: tuple[str, ...]


class Certificate:
    """Hands out TLS contexts with the files' present content.

    on_load   called with each pair that was loaded, and with None where files changed and could not be loaded
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        now: Callable[[], float] = time.time,
        on_load: Callable[[Pair | None], None] = lambda _: None,
    ) -> None:
        """Raises CertificateError."""
        self._files = (certificate, key)
        self._now, self._on_load = now, on_load
        self._seen = self._look()
        self._is_expiry_logged = False
        self._pair = load(certificate, key)
        self._take(self._pair)
        self.context = self._pair.context
        """For the listener: every handshake that begins with it goes on with the newest."""
        self.context.sni_callback = self._choose

    def refresh(self) -> None:
        """Load the files anew if they changed. What cannot be loaded leaves the last good pair in place."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._pair = load(*self._files)
            except CertificateError as odd:
                telemetry.error("Could not load the renewed certificate, the last one stays in use", odd)
                self._on_load(None)
            else:
                self._take(self._pair)
        expires = self._pair.expires
        if expires is not None and self._now() >= expires and not self._is_expiry_logged:
            self._is_expiry_logged = True
            telemetry.error(
                "The certificate has expired: the API server refuses this webhook until the files are renewed",
                expired=_date(expires),
                file=str(self._files[0]),
            )

    def _look(self) -> tuple[object, ...]:
        return tuple(_identity(file) for file in self._files)

    def _choose(self, tls: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        self.refresh()
        if tls.context is not self._pair.context:
            tls.context = self._pair.context

    def _take(self, pair: Pair) -> None:
        self._is_expiry_logged = False
        if pair.expires is None:
            telemetry.warning(
                "Loaded a certificate that does not verify as a server's: the API server may refuse it",
                file=str(self._files[0]),
            )
        else:
            telemetry.info(0, "Loaded certificate", names=list(pair.names), expires=_date(pair.expires))
            if self._now() < pair.expires <= self._now() + 7 * _DAY_S:
                telemetry.warning("The certificate expires within a week", expires=_date(pair.expires))
        self._on_load(pair)


def load(certificate: Path, key: Path) -> Pair:
    """The pair in two PEM files. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # The API server resumes no session of a webhook, and a ticket outlives the certificate it was given under.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    what = f"cannot load the certificate {certificate} with the key {key}"
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
        text = certificate.read_text(encoding="latin-1")
    except ssl.SSLError as odd:
        # Where OpenSSL names no reason it has found no PEM in a file.
        reason = (odd.reason or "not in PEM format").replace("_", " ").lower()
        raise CertificateError(f"{what}: {reason}") from None
    except (OSError, ValueError) as odd:
        raise CertificateError(f"{what}: {getattr(odd, 'strerror', None) or odd}") from None
    try:
        described = _described(context, text)
    except ssl.SSLError:
        return Pair(context, None, ())
    return Pair(
        context,
        float(ssl.cert_time_to_seconds(str(described["notAfter"]))),
        tuple(str(name) for kind, name in described.get("subjectAltName", ()) if kind == "DNS"),
    )


def _described(server: ssl.SSLContext, trusted: str) -> dict[str, Any]:
    """What the standard library tells of a peer's certificate, after a handshake in memory. Raises ssl.SSLError."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME)
    client.load_verify_locations(cadata=_certificates(trusted))
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(down, up)
    answering = server.wrap_bio(up, down, server_side=True)
    for _ in range(8):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    described: dict[str, Any] | None = asking.getpeercert()
    if not described:
        raise ssl.SSLError("the certificate does not verify")
    return described


def _certificates(text: str) -> str:
    """The certificates of a PEM file, which may have a key and comments beside them."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    parts = (part.partition(end)[0] for part in text.split(begin)[1:])
    return "".join(f"{begin}{part}{end}\n" for part in parts)


def _identity(file: Path) -> tuple[int, ...]:
    """What changes when the file does, links followed; empty while there is none."""
    try:
        stat = os.stat(file)
    except OSError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
