"""ComputeDomains of the API server, found by UID, and the calls that are made again until the server answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from nvdra.api.compute_domain import GROUP, VERSION, ComputeDomain, compute_domain
from nvdra.kube import document, pause_s
from nvdra.ports import ApiError, Clock, Kube, Resource

DOMAINS = Resource(GROUP, VERSION, "computedomains", namespaced=True)
CLIQUES = Resource(GROUP, VERSION, "computedomaincliques", namespaced=True)
PODS = Resource("", "v1", "pods", namespaced=True)
NODES = Resource("", "v1", "nodes", namespaced=False)

# A workload's pod waits for it.
_LONGEST_PAUSE_S = 3.0

T = TypeVar("T")


class DomainMissing(Exception):
    """There is no such ComputeDomain, or it is not the claim's; the text is the Go driver's."""


class Domains:
    """ComputeDomains by UID. Where one is never changes, so it is looked for once."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._where: dict[str, tuple[str, str]] = {}

    async def find(self, uid: str, namespace: str = "") -> ComputeDomain:
        """The ComputeDomain. Raises ApiError, and DomainMissing if there is none.

        namespace   the one that it must be in; "": any
        """
        found = await self._known(uid) or await self._listed(uid, namespace)
        if found is None and namespace:
            found = await self._listed(uid, "")
        if found is None:
            raise DomainMissing(f"ComputeDomain not found: {uid}")
        self._where[uid] = found.meta.namespace, found.meta.name
        if namespace and found.meta.namespace != namespace:
            raise DomainMissing("the ResourceClaim's namespace is different than the ComputeDomain's namespace")
        return found

    async def all(self) -> list[ComputeDomain]:
        """Every ComputeDomain of the cluster. Raises ApiError."""
        return [compute_domain(document(item)) async for page in self._kube.pages(DOMAINS) for item in page.items]

    async def _known(self, uid: str) -> ComputeDomain | None:
        if uid not in self._where:
            return None
        namespace, name = self._where[uid]
        try:
            found = compute_domain(document(await self._kube.get(DOMAINS, name, namespace)))
        except ApiError as error:
            if error.is_missing(DOMAINS.plural, name):
                return None
            raise
        return found if found.meta.uid == uid else None

    async def _listed(self, uid: str, namespace: str) -> ComputeDomain | None:
        async for page in self._kube.pages(DOMAINS, namespace):
            for item in page.items:
                found = compute_domain(document(item))
                if found.meta.uid == uid:
                    return found
        return None


async def answered(
    clock: Clock, call: Callable[[], Awaitable[T]], on_failure: Callable[[ApiError], None] = lambda _error: None
) -> T:
    """The call's result; it is made again while the API server does not answer, is overloaded, or has a conflict.

    Raises any other ApiError.
    """
    failures = 0
    while True:
        try:
            return await call()
        except ApiError as error:
            if error.status not in (0, 409, 429) and error.status < 500:
                raise
            failures += 1
            on_failure(error)
            await clock.sleep(min(pause_s(failures, 0.0, error.retry_after_s), _LONGEST_PAUSE_S))
