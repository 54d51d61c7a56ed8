"""Upkeep of what outlives claims: the node label, folders of domains, the base document, the clique label."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import orjson

from nvdra import telemetry
from nvdra.api.compute_domain import DRIVER
from nvdra.api.objects import meta_of
from nvdra.checkpoint import Checkpoint, Unsupported
from nvdra.claims import names
from nvdra.domains.claim_configs import domains_of
from nvdra.domains.devices import DomainRef, is_uid
from nvdra.kube import document
from nvdra.node.checkpoint_writer import Change, CheckpointError
from nvdra.node.context import ClaimContext
from nvdra.node.domains.api import NODES, DomainMissing, Domains
from nvdra.node.domains.base_spec import BaseSpec
from nvdra.node.domains.folders import DomainFolders
from nvdra.node.domains.node_label import NodeLabel
from nvdra.ports import ApiError, Clock, Kube, LockError

EVERY_S = 600.0
# After a start kubelet prepares the claims of its pods again; before that a label without a claim may be in use.
LABEL_FIRST_S = 60.0
SPEC_S = 10.0
CLIQUE_LABEL = "nvidia.com/gpu.clique"

# Takes locks in place of a claim's UID.
_SELF = "label upkeep"


def domains_in_use(checkpoint: Checkpoint, kind: str) -> frozenset[str] | None:
    """UIDs of domains that entries need; None if an entry does not tell."""
    found: set[str] = set()
    for entry in checkpoint.entries.values():
        if entry.state == "PrepareAborted":
            continue
        if isinstance(entry.prepared, Unsupported):
            return None
        domains = domains_of(entry, kind)
        if not domains and any(name.startswith(kind) for name in names(entry, DRIVER)):
            return None
        found |= domains
    return frozenset(found)


class Upkeep:
    """Keeps what no claim's prepare or unprepare looks after.

    clique_label   the node's clique for the label `nvidia.com/gpu.clique`; None: the label is not written
    """

    def __init__(
        self,
        kube: Kube,
        clock: Clock,
        node: str,
        context: ClaimContext,
        domains: Domains,
        folders: DomainFolders,
        label: NodeLabel | None,
        base_spec: BaseSpec,
        clique_label: Callable[[], str] | None,
        is_checkpoint_lost: Callable[[], bool],
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._node = node
        self._context = context
        self._domains = domains
        self._folders = folders
        self._label = label
        self._base_spec = base_spec
        self._clique_label = clique_label
        self._is_checkpoint_lost = is_checkpoint_lost

    async def run_base_spec(self) -> None:
        """Keep the base document current for ever."""
        while True:
            await self._base_spec.renew()
            await self._clock.sleep(SPEC_S)

    async def run_label(self) -> None:
        """Remove a node label that no claim here needs: after a reboot, or when it was left behind."""
        if self._label is None:
            return
        await self._clock.sleep(LABEL_FIRST_S)
        while True:
            try:
                await self.remove_stale_label()
            except (ApiError, CheckpointError, LockError) as error:
                telemetry.info(2, "The node label cannot be checked now", cause=str(error))
            await self._clock.sleep(_later(EVERY_S))

    async def remove_stale_label(self) -> bool:
        """Whether a label was removed. Raises ApiError, CheckpointError, LockError."""
        assert self._label is not None
        domain = await self._label.current()
        if not is_uid(domain):
            return False
        try:
            if not await self._context.checkpoint_writer.submit(partial(self._take, domain)):
                return False
            async with self._context.runner.turns((domain,)):
                removed = await self._label.clear(domain)
        finally:
            self._context.locks.give_back(_SELF, is_done=True)
        if removed:
            telemetry.warning("Removed a node label that no claim here needs", domain=domain)
        return removed

    def _take(self, domain: str, checkpoint: Checkpoint) -> Change[bool]:
        """Take the domain's lock if no entry needs its label: then no claim can begin to need it meanwhile."""
        in_use = domains_in_use(checkpoint, "channel")
        if self._is_checkpoint_lost() or in_use is None or domain in in_use:
            return Change(False)
        return Change(self._context.locks.try_take(_SELF, (domain,)))

    async def run_folders(self) -> None:
        """Remove folders of domains that are gone."""
        while True:
            await self._clock.sleep(_later(EVERY_S))
            try:
                await self.remove_folders()
            except (ApiError, CheckpointError, OSError) as error:
                telemetry.info(2, "Folders of domains cannot be checked now", cause=str(error))

    async def remove_folders(self) -> None:
        """Remove every folder whose domain the API server does not have and no claim here uses."""
        telemetry.info(6, "Cleanup: perform for folders of ComputeDomains")
        if not (here := self._folders.uids()):
            return
        there = {domain.meta.uid for domain in await self._domains.all()}
        checkpoint = await self._context.checkpoint_writer.submit(Change)
        in_use = domains_in_use(checkpoint, "daemon")
        if self._is_checkpoint_lost() or in_use is None:
            return
        for uid in here:
            if uid not in there and uid not in in_use:
                await self._folders.remove(uid)
                telemetry.info(0, "Removed the folder of a ComputeDomain that is gone", domain=uid)

    async def look_up_domains(self, checkpoint: Checkpoint, clique: str) -> None:
        """Look up domains of daemon claims that another release prepared: it kept nothing to render their files by."""
        for entry in checkpoint.entries.values():
            for uid in domains_of(entry, "daemon") - self._folders.known.keys():
                try:
                    found = await self._domains.find(uid)
                    await self._folders.note(uid, DomainRef(found.meta.name, found.meta.namespace, clique))
                except (ApiError, DomainMissing, OSError) as error:
                    telemetry.info(2, "A ComputeDomain cannot be looked up now", domain=uid, cause=str(error))

    async def run_clique_label(self) -> None:
        """Keep the label with the node's clique. It stays when the plugin ends, so that it does not flap."""
        if self._clique_label is None:
            return
        while True:
            try:
                await self._write_clique_label(self._clique_label())
            except ApiError as error:
                telemetry.info(2, "The clique label cannot be written now", cause=str(error))
            await self._clock.sleep(LABEL_FIRST_S)

    async def _write_clique_label(self, clique: str) -> None:
        if not clique:
            return
        meta = meta_of(document(await self._kube.get(NODES, self._node, cached=True)))
        if meta.labels.get(CLIQUE_LABEL) != clique:
            change = {"metadata": {"labels": {CLIQUE_LABEL: clique}}}
            await self._kube.patch(NODES, self._node, orjson.dumps(change))
            telemetry.info(1, "Labelled the node with its clique", clique=clique)


def _later(seconds: float) -> float:
    return seconds * random.uniform(0.9, 1.1)
