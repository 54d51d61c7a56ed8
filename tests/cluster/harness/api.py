"""The API server as the tests see it: objects in and out as plain dictionaries, over one TLS connection."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]

_RESOURCES = {
    "Namespace": ("api/v1", "namespaces", False),
    "Node": ("api/v1", "nodes", False),
    "Pod": ("api/v1", "pods", True),
    "Event": ("api/v1", "events", True),
    "Deployment": ("apis/apps/v1", "deployments", True),
    "ServiceAccount": ("api/v1", "serviceaccounts", True),
    "ClusterRole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "DeviceClass": ("apis/resource.k8s.io/{dra}", "deviceclasses", False),
    "DeviceTaintRule": ("apis/resource.k8s.io/{dra}", "devicetaintrules", False),
    "ResourceClaim": ("apis/resource.k8s.io/{dra}", "resourceclaims", True),
    "ResourceClaimTemplate": ("apis/resource.k8s.io/{dra}", "resourceclaimtemplates", True),
    "ResourceSlice": ("apis/resource.k8s.io/{dra}", "resourceslices", False),
}


class Refused(Exception):
    """The API server answered with an error; `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class TimedOut(Exception):
    """What was waited for did not come about in time; the text says what, and what was there instead."""


class Api:
    """One user's view of the API server.

    dra     version of resource.k8s.io in which objects are read and written
    """

    def __init__(self, host: str, port: int, ca: Path, token: str, dra: str) -> None:
        self._address = (host, port)
        self._context = ssl.create_default_context(cafile=str(ca))
        self._token = token
        self._connection: http.client.HTTPSConnection | None = None
        self.dra = dra

    def call(self, method: str, path: str, body: Object | None = None, timeout_s: float = 30.0) -> bytes:
        """The answer to one request. Raises Refused, or OSError if the server cannot be reached."""
        return self.send(method, path, None if body is None else json.dumps(body).encode(), timeout_s)

    def send(self, method: str, path: str, content: bytes | None, timeout_s: float = 30.0) -> bytes:
        """As `call`, with a body that is sent as it is."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        for attempt in (1, 2):
            if self._connection is None:
                self._connection = http.client.HTTPSConnection(*self._address, context=self._context, timeout=timeout_s)
            try:
                self._connection.request(method, f"/{path}", content, headers)
                answer = self._connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException):
                self._connection.close()
                self._connection = None
                # The server closes idle connections; a read may be asked again without harm.
                if attempt == 2 or method != "GET":
                    raise
        if answer.status >= 400:
            raise Refused(answer.status, f"{method} /{path}: {answer.status} {text.decode(errors='replace').strip()}")
        return text

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """The object of that name. Raises Refused (404) if there is none."""
        return _object(self.call("GET", self.path(kind, namespace, name)))

    def find(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """The object of that name, if there is one."""
        try:
            return self.get(kind, name, namespace)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def items(self, kind: str, namespace: str = "default") -> list[Object]:
        """All objects of a kind, of one namespace if the kind has namespaces."""
        items: list[Object] = _object(self.call("GET", self.path(kind, namespace))).get("items") or []
        return items

    def create(self, body: Object) -> Object:
        """The object as stored; its apiVersion follows from its kind."""
        kind, namespace = body["kind"], body["metadata"].get("namespace", "default")
        prefix = _RESOURCES[kind][0].format(dra=self.dra)
        group = prefix.removeprefix("apis/").removeprefix("api/")
        return _object(self.call("POST", self.path(kind, namespace), {"apiVersion": group, **body}))

    def update(self, body: Object, subresource: str = "") -> Object:
        """The object as stored after it was replaced, or a part of it."""
        name, namespace = body["metadata"]["name"], body["metadata"].get("namespace", "default")
        path = self.path(body["kind"], namespace, name)
        return _object(self.call("PUT", f"{path}/{subresource}" if subresource else path, body))

    def delete(self, kind: str, name: str, namespace: str = "default", grace_s: int | None = None) -> None:
        """The object is asked to go; one that is gone already is fine."""
        query = "" if grace_s is None else f"?gracePeriodSeconds={grace_s}"
        try:
            self.call("DELETE", self.path(kind, namespace, name) + query)
        except Refused as refused:
            if refused.status != 404:
                raise

    def logs(self, pod: str, container: str, namespace: str = "default") -> str:
        """What a container has written so far."""
        return self.call("GET", f"{self.path('Pod', namespace, pod)}/log?container={container}").decode()

    def events(self, name: str, namespace: str = "default") -> str:
        """What was reported about one object, one `reason: message` a line."""
        path = f"{self.path('Event', namespace)}?fieldSelector=involvedObject.name%3D{name}"
        items = _object(self.call("GET", path)).get("items") or []
        return "\n".join(f"{item.get('reason')}: {item.get('message')}" for item in items)

    def token(self, service_account: str, namespace: str, node: str | None = None) -> str:
        """A service account's token, tied to a node if one is named."""
        spec: Object = {"expirationSeconds": 3600}
        if node is not None:
            spec["boundObjectRef"] = {"kind": "Node", "apiVersion": "v1", "name": node}
        body: Object = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = _object(self.call("POST", f"{self.path('ServiceAccount', namespace, service_account)}/token", body))
        token: str = answer["status"]["token"]
        return token

    def path(self, kind: str, namespace: str, name: str | None = None) -> str:
        prefix, plural, has_namespaces = _RESOURCES[kind]
        path = prefix.format(dra=self.dra)
        path += f"/namespaces/{namespace}/{plural}" if has_namespaces else f"/{plural}"
        return path if name is None else f"{path}/{name}"


def wait_until(
    what: str,
    is_so: Callable[[], bool],
    timeout_s: float = 60.0,
    found: Callable[[], object] = lambda: "nothing more is known",
    every_s: float = 0.1,
) -> None:
    """Returns when it is so. Raises TimedOut, with what was found instead."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimedOut(f"waited {timeout_s:.0f} s for {what}; found: {found()}")
        time.sleep(every_s)


def pod_phase(pod: Mapping[str, Any]) -> str:
    """A pod's phase; `Running` only if all of its containers run."""
    status = pod.get("status", {})
    phase: str = status.get("phase", "")
    if phase == "Running" and not all("running" in c.get("state", {}) for c in status.get("containerStatuses", [])):
        return "Starting"
    return phase


# The API server stores claims nested deeper than the interpreter's limit of a thousand.
sys.setrecursionlimit(10_000)


def _object(text: bytes) -> Object:
    value: Object = json.loads(text.decode(errors="replace"))
    return value
