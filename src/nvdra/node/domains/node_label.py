"""The label by which a node is in a domain: one value, read before it is written, written on what was read."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from nvdra import telemetry
from nvdra.api.compute_domain import DOMAIN_LABEL
from nvdra.api.objects import meta_of
from nvdra.kube import document
from nvdra.node.domains.api import NODES
from nvdra.ports import ApiError, Kube


class NodeLabel:
    """The label of this node.

    in_use   domains that claims of this node need the label of
    """

    def __init__(self, kube: Kube, node: str, in_use: Callable[[], frozenset[str] | None]) -> None:
        self._kube = kube
        self._node = node
        self._in_use = in_use

    async def set(self, domain: str, on_write: Callable[[], None]) -> str:
        """Label the node. Returns "", or the other domain that it is in and that a claim here needs.

        on_write   called before the label is written
        Raises ApiError; 409 if another writer was faster.
        """
        found, version = await self._read()
        if found == domain:
            return ""
        needed = self._in_use()
        if found and (needed is None or found in needed):
            return found
        on_write()
        if found:
            telemetry.warning("Replaced a node label that no claim here needs", label=found, domain=domain)
        await self._write(domain, version)
        return ""

    async def clear(self, domain: str) -> bool:
        """Remove the label if it is this domain's; whether it was. Raises ApiError, as `set` does."""
        try:
            found, version = await self._read()
            if found == domain:
                await self._write(None, version)
        except ApiError as error:
            if error.is_missing(NODES.plural, self._node):
                return False  # the label went with the node
            raise
        return found == domain

    async def current(self) -> str:
        """The domain that the node is in; "" if in none. Raises ApiError."""
        return (await self._read())[0]

    async def _read(self) -> tuple[str, str]:
        meta = meta_of(document(await self._kube.get(NODES, self._node)))
        return meta.labels.get(DOMAIN_LABEL, ""), meta.resource_version

    async def _write(self, domain: str | None, version: str) -> None:
        change = {"metadata": {"resourceVersion": version, "labels": {DOMAIN_LABEL: domain}}}
        await self._kube.patch(NODES, self._node, orjson.dumps(change))
