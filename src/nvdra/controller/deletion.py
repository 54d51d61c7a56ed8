"""The end of a domain: its objects, its label on nodes, its finalizers; in any state that a crash left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from nvdra import telemetry
from nvdra.api.compute_domain import FINALIZER, ComputeDomain
from nvdra.api.objects import meta_of
from nvdra.controller.context import Context
from nvdra.controller.patches import delete_now, is_gone, remove_finalizer, unlabel
from nvdra.controller.settings import CLIQUES, DAEMON_SETS, DOMAINS, NODES, TEMPLATES
from nvdra.kube import document
from nvdra.ports import ApiError

_AT_ONCE = 16  # nodes patched side by side


async def end(context: Context, domain: ComputeDomain) -> None:
    """Remove everything of a domain that is being deleted, then its finalizer. Raises ApiError and Waiting."""
    if FINALIZER not in domain.meta.finalizers:
        return
    await remove_objects(context, domain.meta.uid)
    try:
        await remove_finalizer(context.kube, DOMAINS, domain.meta)
    except ApiError as error:
        if not is_gone(error, DOMAINS, domain.meta):
            raise
    telemetry.info(1, "Removed everything of a deleted ComputeDomain", domain=str(domain.meta), uid=domain.meta.uid)


async def end_orphans(context: Context, uid: str) -> None:
    """Remove what a domain left that no longer exists. A cache that lags is no proof: the API server is asked."""
    caches = context.caches
    left = (caches.templates.of(uid), caches.daemon_sets(uid), caches.cliques(uid), caches.labelled_nodes(uid))
    if not any(left):
        return
    async for page in context.kube.pages(DOMAINS):
        if any(meta_of(document(each)).uid == uid for each in page.items):
            return
    kinds = ("ResourceClaimTemplate", "DaemonSet", "ComputeDomainClique", "Node label")
    for kind, found in zip(kinds, left, strict=True):
        if found:
            # DROP-IN: the text is the Go driver's.
            telemetry.info(1, f"Cleanup: stale {kind} found for ComputeDomain '{uid}', running callback")
    await remove_objects(context, uid)
    # Their owners are pods, which are gone or go with the DaemonSet; a clique without any would stay for ever.
    await _all(
        context.kube.delete(CLIQUES, each.meta.name, each.meta.namespace, uid=each.meta.uid)
        for each in caches.cliques(uid)
    )


async def remove_objects(context: Context, uid: str) -> None:
    """Remove claim templates, DaemonSets and node labels of a domain, whichever of them exist."""
    caches, kube = context.caches, context.kube
    templates = await context.api.resource(TEMPLATES)
    nodes = asyncio.Semaphore(_AT_ONCE)

    async def one_node(node: Any) -> None:
        async with nodes:
            await unlabel(kube, NODES, node, uid)

    await _all(
        [
            *(delete_now(kube, templates, each) for each in caches.templates.of(uid)),
            *(delete_now(kube, DAEMON_SETS, each.meta) for each in caches.daemon_sets(uid)),
            *(one_node(node) for node in caches.labelled_nodes(uid)),
        ]
    )


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it, then raise the first error: what can be removed is removed although something else cannot."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not (isinstance(result, ApiError) and result.status == 404):
            raise result
