"""The objects that an explanation needs: from the cluster, or from files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nvdra.kube import HttpKube, access
from nvdra.ports import ApiError, Resource

_GROUP = "resource.k8s.io"
_NEEDED = (
    ("Node", Resource("", "v1", "nodes", namespaced=False)),
    ("DeviceClass", Resource(_GROUP, "v1", "deviceclasses", namespaced=False)),
    ("ResourceSlice", Resource(_GROUP, "v1", "resourceslices", namespaced=False)),
    ("ResourceClaim", Resource(_GROUP, "v1", "resourceclaims", namespaced=True)),
)
_PODS = Resource("", "v1", "pods", namespaced=True)
_RULES = Resource(_GROUP, "v1", "devicetaintrules", namespaced=False)
_FORBIDDEN, _NOT_FOUND = 403, 404


@dataclass(frozen=True, slots=True)
class Objects:
    """Documents or files of them, with the names of their sources.

    version   the server's; "" if unknown
    notes     on missing kinds
    """

    documents: tuple[tuple[str, bytes | Path], ...]
    version: str = ""
    notes: tuple[str, ...] = ()


def from_files(names: Sequence[str]) -> Objects:
    """Returns the files, and the content of standard input, which is named -."""
    return Objects(tuple((name, sys.stdin.buffer.read() if name == "-" else Path(name)) for name in names))


async def from_cluster(kubeconfig: str, namespace: str, env: Mapping[str, str]) -> Objects:
    """Returns the cluster's objects, and the pods of the namespace. Raises ConfigError and ApiError."""
    notes: list[str] = []
    async with HttpKube(access(kubeconfig, env), user_agent="nvdra-explain") as kube:
        version = await kube.server_version()
        if "v1" not in await kube.discover(_GROUP):
            raise ApiError(
                _NOT_FOUND, "NotFound", f"the cluster does not serve {_GROUP}/v1: it has no Dynamic Resource Allocation"
            )
        documents: list[tuple[str, bytes | Path]] = []
        for kind, resource in _NEEDED:
            documents += await _listed(kube, kind, resource)
        for kind, resource, where in (("Pod", _PODS, namespace), ("DeviceTaintRule", _RULES, "")):
            try:
                documents += await _listed(kube, kind, resource, where)
            except ApiError as error:
                if error.status not in (_FORBIDDEN, _NOT_FOUND):
                    raise
                notes.append(f"{resource.plural} were not looked at: {error}")
    return Objects(tuple(documents), version, tuple(notes))


async def _listed(kube: HttpKube, kind: str, resource: Resource, namespace: str = "") -> list[tuple[str, bytes | Path]]:
    """Returns one document a page."""
    return [
        (resource.plural, b'{"kind":"%sList","items":[%s]}' % (kind.encode(), b",".join(page.items)))
        async for page in kube.pages(resource, namespace)
    ]
