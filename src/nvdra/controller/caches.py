"""Every object that the controller looks at, followed by one watch for each kind and namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nvdra.api.compute_domain import DOMAIN_LABEL, TARGET_LABEL, Clique, ComputeDomain, clique, compute_domain
from nvdra.api.objects import Meta, meta_of
from nvdra.controller.cache import Cache
from nvdra.controller.settings import CLIQUES, DAEMON_SETS, DOMAINS, NODES, PODS, TEMPLATES, Settings
from nvdra.domains.pods import DaemonPod, daemon_pod
from nvdra.domains.templates import daemon_environment
from nvdra.kube import ResourceApi
from nvdra.ports import Clock, Resource


@dataclass(frozen=True, slots=True)
class DaemonSet:
    """A domain's DaemonSet. environment: as `daemon_environment`."""

    meta: Meta
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Namespace:
    """What is followed in one namespace that may have daemons."""

    name: str
    daemon_sets: Cache[DaemonSet]
    cliques: Cache[Clique]
    pods: Cache[DaemonPod]


class Caches:
    """All caches; in host-managed mode those of daemons and nodes do not exist.

    on_change   called with the UID of a domain, one of whose objects changed
    """

    def __init__(self, api: ResourceApi, clock: Clock, settings: Settings, on_change: Callable[[str], None]) -> None:
        self._api, self._clock = api, clock
        self._on_change = on_change
        self._filled = asyncio.Event()
        self.domains = self._cache(_fixed(DOMAINS), compute_domain, lambda each: each.meta.uid, "ComputeDomain")
        self.templates = self._cache(self._templates, meta_of, _domain, "ResourceClaimTemplate", selector=DOMAIN_LABEL)
        self.namespaces: tuple[Namespace, ...] = ()
        self.nodes: Cache[Meta] | None = None
        if not settings.is_host_managed:
            self.namespaces = tuple(self._namespace(name) for name in settings.namespaces)
            self.nodes = self._cache(_fixed(NODES), meta_of, _domain, "Node", selector=DOMAIN_LABEL)

    async def run(self) -> None:
        """Follow all kinds. Never returns; cancel it."""
        async with asyncio.TaskGroup() as group:
            for cache in self._all():
                group.create_task(cache.run())

    async def filled(self) -> None:
        """Return when every kind was listed once."""
        while not all(cache.is_filled for cache in self._all()):
            self._filled.clear()
            await self._filled.wait()

    def domain(self, uid: str) -> ComputeDomain | None:
        return next(iter(self.domains.of(uid)), None)

    def daemon_sets(self, uid: str) -> list[DaemonSet]:
        return [each for namespace in self.namespaces for each in namespace.daemon_sets.of(uid)]

    def pods(self, uid: str) -> list[DaemonPod]:
        return [each for namespace in self.namespaces for each in namespace.pods.of(uid)]

    def cliques(self, uid: str) -> list[Clique]:
        return [each for namespace in self.namespaces for each in namespace.cliques.of(uid)]

    def claim_templates(self, uid: str, target: str) -> list[Meta]:
        return [each for each in self.templates.of(uid) if each.labels.get(TARGET_LABEL) == target]

    def labelled_nodes(self, uid: str) -> list[Meta]:
        return [] if self.nodes is None else self.nodes.of(uid)

    def uids(self) -> set[str]:
        """The UIDs of all domains that exist or have left something behind."""
        return {uid for cache in self._all() for uid in cache.keys()}  # noqa: SIM118  a Cache is no dict

    def _all(self) -> Iterable[Cache[Any]]:
        yield self.domains
        yield self.templates
        for namespace in self.namespaces:
            yield from (namespace.daemon_sets, namespace.cliques, namespace.pods)
        if self.nodes is not None:
            yield self.nodes

    async def _templates(self) -> Resource:
        return await self._api.resource(TEMPLATES)

    def _namespace(self, name: str) -> Namespace:
        return Namespace(
            name,
            self._cache(
                _fixed(DAEMON_SETS), _daemon_set, lambda each: _domain(each.meta), "DaemonSet", name, DOMAIN_LABEL
            ),
            self._cache(_fixed(CLIQUES), clique, lambda each: each.domain, "ComputeDomainClique", name),
            self._cache(_fixed(PODS), daemon_pod, lambda each: each.domain, "Pod", name, DOMAIN_LABEL),
        )

    def _cache(
        self, resource: Any, shape: Any, key: Any, name: str, namespace: str = "", selector: str = ""
    ) -> Cache[Any]:
        return Cache(
            self._api.kube,
            self._clock,
            resource,
            shape,
            key,
            on_change=self._on_change,
            on_filled=self._filled.set,
            name=name,
            namespace=namespace,
            label_selector=selector,
            is_gone=self._api.forget if resource == self._templates else lambda _: False,
        )


def _fixed(resource: Resource) -> Callable[[], Any]:
    async def found() -> Resource:
        return resource

    return found


def _domain(meta: Meta) -> str:
    return meta.labels.get(DOMAIN_LABEL, "")


def _daemon_set(thing: Mapping[str, Any]) -> DaemonSet:
    return DaemonSet(meta_of(thing), daemon_environment(thing))
