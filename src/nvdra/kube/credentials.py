"""Credentials for the API server: tokens and certificates, which may be replaced while the program runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nvdra.kube.kubeconfig import ConfigError
from nvdra.kube.tls import Tls

# kubelet rotates a service account's token file in place, long before the old one ends.
_LOOK_AGAIN_S = 10.0

_Identity = tuple[int, int, int, int]


class Credentials(Protocol):
    """Credentials of this program. `header` is the Authorization header, "" for none."""

    def header(self) -> str: ...

    async def renew(self) -> bool:
        """Renew credentials that the server refused; whether there are new ones."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Credentials that never change: a token, a password, or none beside a client certificate."""

    value: str = ""

    def header(self) -> str:
        return self.value

    async def renew(self) -> bool:
        return False


class TokenFile:
    """A bearer token in a file that is replaced now and then.

    fallback   the token to use until the file could be read
    now        seconds of a monotonic clock
    """

    def __init__(self, path: str, fallback: str = "", *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._identity: _Identity | None = None
        self._looked_at = 0.0
        self._header = f"Bearer {fallback}" if fallback else ""
        try:
            self._read()
        except ConfigError:
            if not fallback:
                raise

    def header(self) -> str:
        now = self._now()
        if now - self._looked_at >= _LOOK_AGAIN_S:
            # If the file is unreadable, the old token stays: it may still be valid, and the server refuses it if not.
            with contextlib.suppress(ConfigError):
                self._read()
        return self._header

    async def renew(self) -> bool:
        before = self._header
        with contextlib.suppress(ConfigError):
            self._identity = None
            self._read()
        return self._header != before

    def _read(self) -> None:
        self._looked_at = self._now()
        try:
            identity = _identity(self._path)
            if identity == self._identity:
                return
            with open(self._path, encoding="utf-8") as file:
                token = file.read().strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"token file {self._path} cannot be read: {error}") from None
        if not token:
            raise ConfigError(f"token file {self._path} is empty")
        self._identity = identity
        self._header = f"Bearer {token}"


class CertificateFiles:
    """A client certificate and its key in files that are replaced now and then, beside other credentials.

    tls   the context that presents the certificate, from its next connection on
    """

    def __init__(self, tls: Tls, certificate: str, key: str | None, beside: Credentials) -> None:
        self._tls = tls
        self._paths = [certificate, key] if key is not None else [certificate]
        self._identities: list[_Identity] = []
        self._versions = 0
        self._refused = 0
        self._beside = beside
        self._read()
        self._refused = self._versions
        tls.before_connecting = self._look_again

    def header(self) -> str:
        return self._beside.header()

    async def renew(self) -> bool:
        self._look_again()
        # An earlier call may have read the new certificate, after the refused connection began with the old one.
        is_new, self._refused = self._versions != self._refused, self._versions
        return await self._beside.renew() or is_new

    def _look_again(self) -> None:
        # A certificate and key that do not match are half replaced: the old pair stays until both are new.
        with contextlib.suppress(ConfigError):
            self._read()

    def _read(self) -> None:
        try:
            identities = [_identity(path) for path in self._paths]
            if identities == self._identities:
                return
            contents = []
            for path in self._paths:
                with open(path, "rb") as file:
                    contents.append(file.read())
            self._tls.present(*contents)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the client certificate {self._paths[0]} cannot be used: {error}") from None
        self._identities = identities
        self._versions += 1


class LibraryLogin:
    """Credentials from the `kubernetes` library, which runs a login program or an auth provider."""

    def __init__(self, path: str, tls: Tls | None) -> None:
        self._path = path
        self._tls = tls
        self._header = ""
        self._certificate: tuple[bytes, ...] = ()
        self._log_in()

    def header(self) -> str:
        return self._header

    async def renew(self) -> bool:
        before = self._header, self._certificate
        with contextlib.suppress(ConfigError):
            await asyncio.to_thread(self._log_in)
        return (self._header, self._certificate) != before

    def _log_in(self) -> None:
        try:
            import kubernetes
        except ImportError:
            raise ConfigError(
                f"kubeconfig {self._path} logs in through a program or an auth provider, which needs the package "
                "kubernetes: install dra-driver-nvidia-gpu[kubeconfig]"
            ) from None
        found = kubernetes.client.Configuration()
        try:
            load: Callable[..., None] = kubernetes.config.load_kube_config
            load(config_file=self._path, client_configuration=found, persist_config=False)
        except Exception as error:  # the library raises whatever its plugins raise
            raise ConfigError(f"kubeconfig {self._path}: login failed: {error}") from None
        # The place of the token depends on the library's version.
        self._header = str(found.api_key.get("BearerToken") or found.api_key.get("authorization") or "")
        if not self._header and not found.cert_file:
            # The library only logs the errors of login programs.
            raise ConfigError(f"kubeconfig {self._path}: login gave neither a token nor a certificate")
        if self._tls is not None and found.cert_file:
            try:
                contents = []
                for path in filter(None, (found.cert_file, found.key_file)):
                    with open(path, "rb") as file:
                        contents.append(file.read())
                self._tls.present(*contents)
            except (OSError, ValueError) as error:
                raise ConfigError(f"kubeconfig {self._path}: the login's certificate cannot be used: {error}") from None
            self._certificate = tuple(contents)


def _identity(path: str) -> _Identity:
    seen = os.stat(path)
    return (seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size)
