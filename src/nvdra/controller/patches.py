"""The controller's writes: merge patches on the resourceVersion that a decision was made on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from nvdra.api.compute_domain import DOMAIN_LABEL, FINALIZER
from nvdra.api.objects import Meta, meta_of
from nvdra.kube import document
from nvdra.ports import ApiError, Kube, Resource


class Waiting(Exception):
    """Work that goes on when something else has happened; the text says what it waits for."""


async def patch(kube: Kube, resource: Resource, meta: Meta, body: Mapping[str, Any], *, subresource: str = "") -> bytes:
    """Merge `body` into the object, if it is still as it was seen. Raises ApiError."""
    metadata = {**body.get("metadata", {}), "resourceVersion": meta.resource_version}
    data = orjson.dumps({**body, "metadata": metadata})
    return await kube.patch(resource, meta.name, data, meta.namespace, subresource=subresource)


async def add_finalizer(kube: Kube, resource: Resource, meta: Meta) -> bytes | None:
    """Add the driver's finalizer; None if the object has it."""
    if FINALIZER in meta.finalizers:
        return None
    return await patch(kube, resource, meta, {"metadata": {"finalizers": [*meta.finalizers, FINALIZER]}})


async def remove_finalizer(kube: Kube, resource: Resource, meta: Meta) -> None:
    """Remove the driver's finalizer."""
    rest = [each for each in meta.finalizers if each != FINALIZER]
    if len(rest) < len(meta.finalizers):
        await patch(kube, resource, meta, {"metadata": {"finalizers": rest}})


async def delete_now(kube: Kube, resource: Resource, seen: Meta) -> None:
    """Delete an object and remove the driver's finalizer from it.

    Raises Waiting if the finalizer of somebody else keeps it, and ApiError.
    """
    try:
        if not seen.is_deleting:
            await kube.delete(resource, seen.name, seen.namespace, uid=seen.uid)
        for _ in range(2):
            found = meta_of(document(await kube.get(resource, seen.name, seen.namespace)))
            if found.uid != seen.uid:
                return
            if FINALIZER not in found.finalizers:
                others = ", ".join(found.finalizers)
                raise Waiting(f"{resource.plural} {seen} still exists: finalizers {others or 'none'}")
            await remove_finalizer(kube, resource, found)
            if found.finalizers == (FINALIZER,):
                return
    except ApiError as error:
        if not is_gone(error, resource, seen):
            raise


async def unlabel(kube: Kube, resource: Resource, node: Meta, uid: str) -> None:
    """Remove a domain's label from a node. The label of another domain stays."""
    for _ in range(3):
        if node.labels.get(DOMAIN_LABEL) != uid:
            return
        try:
            await patch(kube, resource, node, {"metadata": {"labels": {DOMAIN_LABEL: None}}})
        except ApiError as error:
            if is_gone(error, resource, node):
                return
            if error.status != 409:
                raise
            node = meta_of(document(await kube.get(resource, node.name)))
        else:
            return
    raise Waiting(f"node {node} changes too fast to remove its label {DOMAIN_LABEL}")


def is_gone(error: ApiError, resource: Resource, meta: Meta) -> bool:
    """Whether the object is gone, or another one with its name has taken its place."""
    is_other = error.status == 409 and "UID in precondition" in error.message
    return is_other or error.is_missing(resource.plural, meta.name)
