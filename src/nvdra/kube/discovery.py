"""Finds the server's version of resource.k8s.io, once, and again only if that version is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from typing import TypeVar

from nvdra.ports import ApiError, Kube, Resource

DRA_GROUP = "resource.k8s.io"

_KNOWN = ("v1", "v1beta2", "v1beta1")
_NAMESPACED = frozenset(("resourceclaims", "resourceclaimtemplates"))

T = TypeVar("T")


class ResourceApi:
    """Claims and slices of the API server, in the newest version that both the server and this driver know."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self._version = ""
        self._looking: asyncio.Lock = asyncio.Lock()

    async def version(self) -> str:
        """ "v1", "v1beta2" or "v1beta1". Raises ApiError if the server cannot say or has none of them."""
        if not self._version:
            async with self._looking:
                if not self._version:
                    self._version = _newest(await self.kube.discover(DRA_GROUP))
        return self._version

    def forget(self, error: ApiError) -> bool:
        """Whether the error means that the version itself is gone; if so, it is looked for again.

        A 404 that names an object means that object.
        """
        if error.status != 404 or error.about[1] or not self._version:
            return False
        self._version = ""
        return True

    async def resource(self, plural: str) -> Resource:
        return _resource(await self.version(), plural)

    async def claim(self, namespace: str, name: str, *, timeout_s: float, cached: bool = False) -> bytes:
        """One GET of a ResourceClaim; its bytes in the server's version."""
        claims = await self._claims(timeout_s)
        try:
            return await self.kube.get(claims, name, namespace, timeout_s=timeout_s, cached=cached)
        except ApiError as error:
            if not self.forget(error):
                raise
        claims = await self._claims(timeout_s)
        return await self.kube.get(claims, name, namespace, timeout_s=timeout_s, cached=cached)

    async def claims(self) -> AsyncIterator[tuple[bytes, ...]]:
        """Every ResourceClaim of the cluster, in pages; starts again if the version is gone meanwhile."""
        for is_last in (False, True):
            try:
                async for page in self.kube.pages(await self.resource("resourceclaims")):
                    yield page.items
                return
            except ApiError as error:
                if is_last or not self.forget(error):
                    raise

    async def _claims(self, timeout_s: float) -> Resource:
        if self._version:
            return _resource(self._version, "resourceclaims")
        try:
            async with asyncio.timeout(timeout_s):
                return await self.resource("resourceclaims")
        except TimeoutError:
            text = f"the API server did not say within {timeout_s:g} s which versions of {DRA_GROUP} it has"
            raise ApiError(0, "Timeout", text) from None


@cache
def _resource(version: str, plural: str) -> Resource:
    return Resource(DRA_GROUP, version, plural, namespaced=plural in _NAMESPACED)


def _newest(served: tuple[str, ...]) -> str:
    for version in _KNOWN:
        if version in served:
            return version
    has = ", ".join(served) or "none"
    raise ApiError(
        404,
        "NotFound",
        f"the API server has {DRA_GROUP} in none of {', '.join(_KNOWN)} (it has: {has}): "
        "Kubernetes 1.32 or newer with DynamicResourceAllocation on is needed",
    )
