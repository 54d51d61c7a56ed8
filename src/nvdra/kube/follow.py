"""Waiting for objects to come to a state, by watch: what a caller needs to know of them, as soon as it is so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nvdra.kube.watch import Watcher
from nvdra.ports import ApiError, Clock, Kube, Resource

T = TypeVar("T")

Objects = Mapping[str, Sequence[Mapping[str, Any]]]
"""Objects by plural, once each kind was listed."""


@dataclass(frozen=True, slots=True)
class Followed:
    """Objects of one kind to follow.

    namespace   None: the one that `until` is called for
    """

    resource: Resource
    field_selector: str = ""
    label_selector: str = ""
    namespace: str | None = None


async def until(
    kube: Kube,
    clock: Clock,
    namespace: str,
    followed: Sequence[Followed],
    decide: Callable[[Objects], T | None],
    *,
    on_failure: Callable[[ApiError], None] = lambda _error: None,
) -> T:
    """What `decide` says of the objects, as soon as it is not None. It is asked after each change of theirs.

    The API server's failures only delay the answer; each is told to `on_failure`. Bound the call from outside.
    """
    changed = asyncio.Event()
    watchers = {each.resource.plural: _watcher(kube, clock, namespace, each, changed, on_failure) for each in followed}
    running = [asyncio.ensure_future(watcher.run()) for watcher in watchers.values()]
    for task in running:
        task.add_done_callback(lambda _task: changed.set())
    try:
        while True:
            for task in running:
                if task.done():
                    task.result()  # it never returns: what ended it is the caller's to hear
            if all(watcher.store.is_filled for watcher in watchers.values()):
                found = decide({plural: watcher.store.values() for plural, watcher in watchers.items()})
                if found is not None:
                    return found
            await changed.wait()
            changed.clear()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _watcher(
    kube: Kube,
    clock: Clock,
    namespace: str,
    followed: Followed,
    changed: asyncio.Event,
    on_failure: Callable[[ApiError], None],
) -> Watcher[dict[str, Any]]:
    async def resource() -> Resource:
        return followed.resource

    return Watcher(
        kube,
        clock,
        resource,
        lambda thing, _resource: thing,
        namespace=namespace if followed.namespace is None else followed.namespace,
        field_selector=followed.field_selector,
        label_selector=followed.label_selector,
        on_change=lambda _change: changed.set(),
        on_failure=lambda error, _pause_s: on_failure(error),
    )
