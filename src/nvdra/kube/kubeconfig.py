"""Reads the current context of a kubeconfig file. Fields that are unknown or of the wrong type are refused."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Headers = tuple[tuple[str, str], ...]

_FILE: Mapping[str, type] = {
    **dict.fromkeys(("apiVersion", "kind", "current-context"), str),
    **dict.fromkeys(("clusters", "users", "contexts", "extensions"), list),
    "preferences": dict,
}
# A node driver names every namespace it asks for, and never has bodies compressed.
_CONTEXT: Mapping[str, type] = {**dict.fromkeys(("cluster", "user", "namespace"), str), "extensions": list}
_CLUSTER: Mapping[str, type] = {
    **dict.fromkeys(("server", "tls-server-name", "proxy-url"), str),
    **dict.fromkeys(("certificate-authority", "certificate-authority-data"), str),
    **dict.fromkeys(("insecure-skip-tls-verify", "disable-compression"), bool),
    "extensions": list,
}
_USER: Mapping[str, type] = {
    **dict.fromkeys(("client-certificate", "client-certificate-data", "client-key", "client-key-data"), str),
    **dict.fromkeys(("token", "tokenFile", "username", "password", "as", "as-uid"), str),
    **dict.fromkeys(("auth-provider", "exec", "as-user-extra"), dict),
    **dict.fromkeys(("as-groups", "extensions"), list),
}
_NAMES = {str: "a text", bool: "true or false", list: "a list", dict: "a mapping"}
_PLAIN = "!#$&'*+-.^_`|~"


class ConfigError(Exception):
    """The API server's address or the credentials cannot be determined; the text is for people."""


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The cluster and the user of a file's current context; a field without a value is left out."""

    path: str
    cluster: Mapping[str, Any]
    user: Mapping[str, Any]

    def file(self, fields: Mapping[str, Any], key: str) -> str | None:
        """The path in a field, relative to the kubeconfig's folder."""
        return os.path.join(os.path.dirname(os.path.abspath(self.path)), fields[key]) if fields.get(key) else None

    def content(self, fields: Mapping[str, Any], key: str) -> bytes | None:
        """The decoded content of a base64 field. Raises ConfigError."""
        if not fields.get(key):
            return None
        try:
            return base64.b64decode(fields[key], validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.error(f"{key}: {error}") from None

    def error(self, cause: str) -> ConfigError:
        return ConfigError(f"kubeconfig {self.path}: {cause}")


def read(path: str) -> Kubeconfig:
    """The current context of the kubeconfig file at `path`. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            document = _parsed(file.read())
    except (OSError, ValueError) as error:
        raise ConfigError(f"kubeconfig {path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {path} is not a YAML mapping")
    document = _checked(path, "the file", document, _FILE)
    for key, only in (("apiVersion", "v1"), ("kind", "Config")):
        if document.get(key, only) != only:
            raise ConfigError(f'kubeconfig {path}: {key} is "{document[key]}", only "{only}" can be read')
    context = _named(path, document, "contexts", "context", document.get("current-context", ""), _CONTEXT)
    cluster = _named(path, document, "clusters", "cluster", context.get("cluster", ""), _CLUSTER)
    user = _named(path, document, "users", "user", context["user"], _USER) if context.get("user") else {}
    found = Kubeconfig(path, cluster, user)
    _refuse_contradictions(found)
    return found


def impersonation(found: Kubeconfig) -> Headers:
    """The headers that make the server act as another user, as `as` and its siblings ask for. Raises ConfigError."""
    user = found.user
    groups, extra = user.get("as-groups", ()), user.get("as-user-extra", {})
    if not user.get("as"):
        for key in ("as-uid", "as-groups", "as-user-extra"):
            if user.get(key):
                raise found.error(f"the user has {key} but not as, which names the user to impersonate")
        return ()
    if not all(isinstance(group, str) for group in groups):
        raise found.error("as-groups is a list of texts")
    headers = [("Impersonate-User", user["as"])]
    headers += [("Impersonate-Uid", user["as-uid"])] if user.get("as-uid") else []
    headers += [("Impersonate-Group", group) for group in groups]
    for key, values in extra.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise found.error(f"as-user-extra: {key} is a list of texts")
        headers += [(f"Impersonate-Extra-{quote(str(key), safe=_PLAIN)}", value) for value in values]
    return tuple(headers)


def _parsed(text: bytes) -> Any:
    """The value of a YAML or JSON document; for JSON the YAML library is not imported. Raises ValueError."""
    if text.lstrip().startswith(b"{"):
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            return json.loads(text)
    import yaml

    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _named(
    path: str, document: Mapping[str, Any], kind: str, key: str, name: str, fields: Mapping[str, type]
) -> Mapping[str, Any]:
    for entry in document.get(kind, ()):
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(key), dict):
            return _checked(path, f'{key} "{name}"', entry[key], fields)
    raise ConfigError(f'kubeconfig {path} has no entry "{name}" in {kind}')


def _checked(path: str, where: str, entry: Mapping[Any, Any], fields: Mapping[str, type]) -> dict[str, Any]:
    """The entry without its empty fields. Unknown fields are refused, because ignoring one could be unsafe."""
    for key, value in entry.items():
        if key not in fields:
            raise ConfigError(f"kubeconfig {path}: {where} has the unknown field {key}: correct or remove it")
        if value is not None and not isinstance(value, fields[key]):
            raise ConfigError(f"kubeconfig {path}: {where}: {key} must be {_NAMES[fields[key]]}")
    return {key: value for key, value in entry.items() if value is not None}


def _refuse_contradictions(found: Kubeconfig) -> None:
    cluster, user = found.cluster, found.user
    if cluster.get("insecure-skip-tls-verify") and (
        cluster.get("certificate-authority") or cluster.get("certificate-authority-data")
    ):
        raise found.error("insecure-skip-tls-verify and a certificate authority exclude each other: remove one")
    has_certificate = user.get("client-certificate") or user.get("client-certificate-data")
    if (user.get("client-key") or user.get("client-key-data")) and not has_certificate:
        raise found.error("the user has a client key but no client certificate")
    if has_certificate and not cluster.get("server", "").startswith("https://"):
        raise found.error("a client certificate needs a server with https")
    if user.get("password") and not user.get("username"):
        raise found.error("the user has a password but no username")
    if user.get("username") and (user.get("token") or user.get("tokenFile")):
        raise found.error("the user has a username and a token, only one can be sent: remove one")
