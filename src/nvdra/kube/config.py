"""How to reach the API server: from inside a cluster, or by a kubeconfig file.

Plain kubeconfigs (token, token file, client certificate) are read here. One that logs in through a program or an
auth provider is left to the `kubernetes` library, which weighs 30 MiB and is imported only then.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nvdra.kube.tls import Tls

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

# kubelet rotates a service account's token file in place, long before the old one ends.
_LOOK_AGAIN_S = 10.0


class ConfigError(Exception):
    """The API server's address or the credentials cannot be had; the text is for people."""


class Credentials(Protocol):
    """Who we are. `header` is the Authorization header, "" for none."""

    def header(self) -> str: ...

    async def renew(self) -> bool:
        """Called when the server refused the header; whether there is another one now."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Credentials that never change: a token, a password, or none but a client certificate."""

    value: str = ""

    def header(self) -> str:
        return self.value

    async def renew(self) -> bool:
        return False


class TokenFile:
    """A bearer token in a file that is replaced now and then."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity: tuple[int, int, int] | None = None
        self._looked_at = 0.0
        self._header = ""
        self._read()

    def header(self) -> str:
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_AGAIN_S:
            # An unreadable file keeps the old token: it may still be good, and the server will say if not.
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
        self._looked_at = time.monotonic()
        try:
            seen = os.stat(self._path)
            identity = (seen.st_dev, seen.st_ino, seen.st_mtime_ns)
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


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is and how to be let in.

    server   URL without a trailing slash
    tls      None for plain HTTP
    server_name  the name in the server's certificate, if it is not the URL's host
    authority    file with the certificates trusted; read again when a server's is not among them
    """

    server: str
    tls: Tls | None = None
    credentials: Credentials = field(default_factory=Fixed)
    server_name: str | None = None
    proxy: str | None = None
    authority: str | None = None

    def trust_anew(self) -> None:
        """A cluster's authority is replaced while programs run: trust what its file says now, too."""
        if self.tls is not None and self.authority is not None:
            with contextlib.suppress(OSError):
                self.tls.load_verify_locations(cafile=self.authority)


def access(kubeconfig: str, env: Mapping[str, str], folder: str = SERVICE_ACCOUNT) -> Access:
    """Access by the kubeconfig file at that path, or else ("") from inside the cluster. Raises ConfigError."""
    return _from_kubeconfig(kubeconfig) if kubeconfig else _in_cluster(env, folder)


def _in_cluster(env: Mapping[str, str], folder: str) -> Access:
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise ConfigError(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: outside a cluster give --kubeconfig"
        )
    if ":" in host:
        host = f"[{host}]"
    authority = f"{folder}/ca.crt"
    tls = _trusting(authority, None)
    return Access(f"https://{host}:{port}", tls, TokenFile(f"{folder}/token"), authority=authority)


def _parsed(text: bytes) -> Any:
    """The value of a YAML document, or of JSON, which spares a process the YAML reader. Raises ValueError."""
    if text.lstrip().startswith(b"{"):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _from_kubeconfig(path: str) -> Access:
    try:
        with open(path, "rb") as file:
            document = _parsed(file.read())
    except (OSError, ValueError) as error:
        raise ConfigError(f"kubeconfig {path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {path} is not a YAML mapping")
    folder = os.path.dirname(os.path.abspath(path))
    name = document.get("current-context") or ""
    context = _named(path, document, "contexts", "context", name)
    cluster = _named(path, document, "clusters", "cluster", context.get("cluster") or "")
    user = _named(path, document, "users", "user", context["user"]) if context.get("user") else {}
    server = str(cluster.get("server") or "").rstrip("/")
    if not server.startswith(("http://", "https://")):
        raise ConfigError(f'kubeconfig {path}: server "{server}" is not an http or https URL')
    tls = None
    if server.startswith("https://"):
        if cluster.get("insecure-skip-tls-verify"):
            tls = Tls(ssl.PROTOCOL_TLS_CLIENT)
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        else:
            authority = _content(path, cluster, "certificate-authority-data")
            tls = _trusting(_beside(folder, cluster.get("certificate-authority")), authority)
    credentials = _credentials(path, folder, user, tls)
    return Access(server, tls, credentials, cluster.get("tls-server-name") or None, cluster.get("proxy-url") or None)


def _credentials(path: str, folder: str, user: Mapping[str, Any], tls: Tls | None) -> Credentials:
    if "exec" in user or "auth-provider" in user:
        return LibraryLogin(path, tls)
    if tls is not None:
        with (
            _as_file(
                _beside(folder, user.get("client-certificate")), _content(path, user, "client-certificate-data")
            ) as (certificate),
            _as_file(_beside(folder, user.get("client-key")), _content(path, user, "client-key-data")) as key,
        ):
            _present(tls, certificate, key)
    if user.get("token"):
        return Fixed(f"Bearer {user['token']}")
    if user.get("tokenFile"):
        return TokenFile(_beside(folder, user["tokenFile"]) or "")
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password') or ''}"
        return Fixed("Basic " + base64.b64encode(pair.encode()).decode())
    return Fixed()


class LibraryLogin:
    """Credentials the `kubernetes` library obtains: from a program that prints them, or an auth provider."""

    def __init__(self, path: str, tls: Tls | None) -> None:
        self._path = path
        self._tls = tls
        self._header = ""
        self._log_in()

    def header(self) -> str:
        return self._header

    async def renew(self) -> bool:
        before = self._header
        with contextlib.suppress(ConfigError):
            await asyncio.to_thread(self._log_in)
        return self._header != before

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
        # Where the library puts a token depends on its version.
        self._header = str(found.api_key.get("BearerToken") or found.api_key.get("authorization") or "")
        if not self._header and not found.cert_file:
            # The library only logs what its login programs die of.
            raise ConfigError(f"kubeconfig {self._path}: login gave neither a token nor a certificate")
        if self._tls is not None and found.cert_file:
            _present(self._tls, found.cert_file, found.key_file)


def _named(path: str, document: Mapping[str, Any], kind: str, key: str, name: str) -> Mapping[str, Any]:
    for entry in document.get(kind) or ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(key), dict):
            found: Mapping[str, Any] = entry[key]
            return found
    raise ConfigError(f'kubeconfig {path} has no entry "{name}" in {kind}')


def _content(path: str, entry: Mapping[str, Any], key: str) -> bytes | None:
    if not entry.get(key):
        return None
    try:
        return base64.b64decode(str(entry[key]), validate=True)
    except binascii.Error as error:
        raise ConfigError(f"kubeconfig {path}: {key}: {error}") from None


def _beside(folder: str, path: str | None) -> str | None:
    """A kubeconfig's paths count from its own folder."""
    return os.path.join(folder, path) if path else None


def _trusting(path: str | None, content: bytes | None) -> Tls:
    context = Tls(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if content is not None:
            context.load_verify_locations(cadata=content.decode())
        elif path is not None:
            context.load_verify_locations(cafile=path)
        else:
            context.load_default_certs()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the API server's certificate authority ({path or 'inline'}) cannot be used: {error}"
        ) from None
    return context


def _present(context: Tls, certificate: str | None, key: str | None) -> None:
    if certificate is None:
        return
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the client certificate cannot be used: {error}") from None


@contextlib.contextmanager
def _as_file(path: str | None, content: bytes | None) -> Iterator[str | None]:
    """A path to the content: OpenSSL takes certificates from files only. Inline ones never touch a disk."""
    if content is None:
        yield path
        return
    fd = os.memfd_create("certificate")
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
