"""How to reach the API server: from inside a cluster, or by a kubeconfig file.

Plain kubeconfigs (token, token file, client certificate) are read here. The `kubernetes` library reads those that log
in through a program or an auth provider; it takes 30 MiB of memory and is imported only then.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from nvdra.kube import kubeconfig as files
from nvdra.kube.credentials import CertificateFiles, Credentials, Fixed, LibraryLogin, TokenFile
from nvdra.kube.kubeconfig import ConfigError, Headers, Kubeconfig
from nvdra.kube.proxy import environment_proxy, refusal
from nvdra.kube.tls import Tls

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class Access:
    """The API server's address and how to authenticate.

    server   URL without a trailing slash
    tls      None for plain HTTP
    server_name  the name in the server's certificate, if it is not the URL's host
    authority    file with the trusted certificates; read again if the server's certificate is not among them
    headers      for every request: the user to impersonate
    """

    server: str
    tls: Tls | None = None
    credentials: Credentials = field(default_factory=Fixed)
    server_name: str | None = None
    proxy: str | None = None
    authority: str | None = None
    headers: Headers = ()

    def trust_anew(self) -> None:
        """Trust the certificates that the authority's file has now, too: it may be replaced while the program runs."""
        if self.tls is not None and self.authority is not None:
            with contextlib.suppress(OSError):
                self.tls.load_verify_locations(cafile=self.authority)


def access(kubeconfig: str, env: Mapping[str, str], folder: str = SERVICE_ACCOUNT) -> Access:
    """Access by the kubeconfig file at that path, or else ("") from inside the cluster. Raises ConfigError."""
    return _from_kubeconfig(kubeconfig, env) if kubeconfig else _in_cluster(env, folder)


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
    server = f"https://{host}:{port}"
    token = TokenFile(f"{folder}/token")
    return Access(server, tls, token, proxy=_proxy("", server, env, ""), authority=authority)


def _from_kubeconfig(path: str, env: Mapping[str, str]) -> Access:
    found = files.read(path)
    cluster = found.cluster
    server = cluster.get("server", "").rstrip("/")
    if not _is_url(server):
        raise found.error(f'server "{server}" is not an http or https URL')
    tls = authority = None
    if server.startswith("https://"):
        if cluster.get("insecure-skip-tls-verify"):
            tls = Tls(ssl.PROTOCOL_TLS_CLIENT)
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        else:
            content = found.content(cluster, "certificate-authority-data")
            authority = found.file(cluster, "certificate-authority") if content is None else None
            tls = _trusting(authority, content)
    return Access(
        server,
        tls,
        _credentials(found, tls),
        cluster.get("tls-server-name") or None,
        _proxy(cluster.get("proxy-url", ""), server, env, f"kubeconfig {path}: proxy-url: "),
        authority,
        files.impersonation(found),
    )


def _is_url(server: str) -> bool:
    """Whether it is an http or https URL with a host, and with a port that can be one."""
    try:
        url = urlsplit(server)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _credentials(found: Kubeconfig, tls: Tls | None) -> Credentials:
    user = found.user
    if "exec" in user or "auth-provider" in user:
        return LibraryLogin(found.path, tls)
    login: Credentials = Fixed()
    if user.get("tokenFile"):
        login = TokenFile(found.file(user, "tokenFile") or "", user.get("token", ""))
    elif user.get("token"):
        login = Fixed(f"Bearer {user['token']}")
    elif user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        login = Fixed("Basic " + base64.b64encode(pair.encode()).decode())
    return login if tls is None else _with_certificate(found, tls, login)


def _with_certificate(found: Kubeconfig, tls: Tls, login: Credentials) -> Credentials:
    """The login, beside the client certificate where the user has one. Inline content goes before a file."""
    user = found.user
    certificate, key = found.content(user, "client-certificate-data"), found.content(user, "client-key-data")
    certificate_file, key_file = found.file(user, "client-certificate"), found.file(user, "client-key")
    if certificate is None and key is None:
        return CertificateFiles(tls, certificate_file, key_file, login) if certificate_file else login
    try:
        tls.present(
            _bytes(certificate_file) if certificate is None else certificate,
            _bytes(key_file) if key is None and key_file else key,
        )
    except (OSError, ValueError) as error:
        raise found.error(f"the client certificate cannot be used: {error}") from None
    return login


def _bytes(path: str | None) -> bytes:
    with open(path or "", "rb") as file:
        return file.read()


def _proxy(given: str, server: str, env: Mapping[str, str], where: str) -> str | None:
    """The proxy of the kubeconfig, or else of the environment. Raises ConfigError."""
    if given:
        proxy: str | None = given
    else:
        proxy, name = environment_proxy(server, env)
        where = f"{name}: "
    if proxy is not None and (why := refusal(proxy)):
        raise ConfigError(f"{where}{why}")
    return proxy


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
