"""The folders of domains on this node: each is a daemon's /imexd, and keeps what its container was told."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from nvdra.domains.devices import DomainRef, is_uid
from nvdra.domains.imex import TEMPLATE
from nvdra.ports import Host

_REF = "compute-domain.json"


class DomainFolders:
    """The folders of domains on this node, and what is known of each domain from them.

    path   of the folder that they are in
    """

    def __init__(self, host: Host, path: str) -> None:
        self._host = host
        self._path = path
        self._known: dict[str, DomainRef] = {}

    @property
    def known(self) -> Mapping[str, DomainRef]:
        return dict(self._known)

    def read(self) -> None:
        """Read what earlier runs of the plugin laid."""
        for uid in self.uids():
            try:
                told = orjson.loads(self._host.read(f"{self._path}/{uid}/{_REF}"))
                self._known[uid] = DomainRef(*(str(told[key]) for key in ("name", "namespace", "clique")))
            except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
                continue  # the Go driver keeps no such file; it is written when the domain is looked up

    def uids(self) -> tuple[str, ...]:
        """UIDs of domains that have a folder."""
        try:
            return tuple(name for name in self._host.list(self._path) if is_uid(name))
        except OSError:
            return ()

    async def lay(self, uid: str, ref: DomainRef, template: str) -> None:
        """Write the folder of a domain. Raises OSError."""
        await self.note(uid, ref)
        await self._host.replace(f"{self._path}/{uid}/{TEMPLATE}", template.encode(), mode=0o644, durable=False)

    async def note(self, uid: str, ref: DomainRef) -> None:
        """Keep what the domain's daemon is told. Raises OSError."""
        await self._host.mkdir(f"{self._path}/{uid}", mode=0o755)
        told = orjson.dumps({"name": ref.name, "namespace": ref.namespace, "clique": ref.clique})
        await self._host.replace(f"{self._path}/{uid}/{_REF}", told, mode=0o644, durable=False)
        self._known[uid] = ref

    async def remove(self, uid: str) -> None:
        """Remove the folder of a domain that is gone. Raises OSError."""
        self._known.pop(uid, None)
        await self._host.remove_tree(f"{self._path}/{uid}")
