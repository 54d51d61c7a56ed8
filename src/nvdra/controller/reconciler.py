"""One domain, brought to what it should be: the entry to all stages."""

from __future__ import annotations

from nvdra import telemetry
from nvdra.api.compute_domain import NOT_READY, ComputeDomain
from nvdra.controller import deletion
from nvdra.controller.caches import DaemonSet
from nvdra.controller.context import Context
from nvdra.controller.members import Members, Membership
from nvdra.controller.objects import Clash, Duplicates, ensure_daemons, ensure_workload_template, follow_options
from nvdra.controller.patches import Waiting, add_finalizer
from nvdra.controller.settings import DOMAINS
from nvdra.controller.status import write_status
from nvdra.domains.status import Verdict, verdict

CLASH_AGAIN_S = 30.0  # the foreign object is not followed: its end is seen by trying again


class Reconciler:
    """Works on domains by UID; any error means that the domain is to be worked on again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._members = Members(context)

    async def reconcile(self, uid: str) -> None:
        """Bring everything of a domain to what it should be. Raises ApiError, Waiting and whatever is unexpected."""
        domain = self._context.caches.domain(uid)
        if domain is None:
            self._members.forget(uid)
            await deletion.end_orphans(self._context, uid)
            return
        meta = domain.meta
        # DROP-IN: tests of the Go driver look for this text.
        telemetry.info(2, f"Processing added or updated ComputeDomain: {meta.namespace}/{meta.name}/{meta.uid}")
        if meta.is_deleting:
            self._members.forget(uid)
            await self._end(domain)
        elif not domain.has_spec:
            await self._without_spec(domain)
        else:
            await self._live(domain)

    async def _live(self, domain: ComputeDomain) -> None:
        context = self._context
        raw = await add_finalizer(context.kube, DOMAINS, domain.meta)
        if raw is not None:
            domain = context.caches.domains.put(raw)
        daemons: DaemonSet | None = None
        trouble: Verdict | None = None
        try:
            if not context.settings.is_host_managed:
                daemons = await ensure_daemons(context, domain)
            await ensure_workload_template(context, domain)
        except (Clash, Duplicates) as error:
            reason = "NameConflict" if isinstance(error, Clash) else "DuplicateObject"
            trouble = Verdict(NOT_READY, reason, str(error))
            telemetry.warning("Could not create an object of a domain", domain=str(domain.meta), cause=str(error))
            await context.events.tell(domain.meta, "Warning", reason, str(error))
            context.again(domain.meta.uid, CLASH_AGAIN_S)
        if context.settings.is_host_managed:
            members = Membership(())
        elif daemons is None:
            members = Membership(domain.nodes)  # as they were: it is not known which daemons count
        else:
            await follow_options(context, daemons)
            members = await self._members.settle(domain, daemons)
        await self._tell_left_out(domain, members)
        found = verdict(domain.num_nodes, members.nodes, is_host_managed=context.settings.is_host_managed)
        if trouble is not None and not members.nodes:
            found = trouble
        await write_status(context, domain, members.nodes, found, trouble)

    async def _end(self, domain: ComputeDomain) -> None:
        try:
            await deletion.end(self._context, domain)
        except Waiting as error:
            text = f"cannot be removed yet: {error}. Whoever set a finalizer has to remove it"
            await self._context.events.tell(domain.meta, "Warning", "DeletionBlocked", text)
            raise

    async def _without_spec(self, domain: ComputeDomain) -> None:
        """The CRD admits a ComputeDomain without spec; nothing can be made for it."""
        text = "spec.channel.resourceClaimTemplate.name is missing. Delete this object and make another one with it"
        trouble = Verdict(NOT_READY, "InvalidSpec", text)
        await self._context.events.tell(domain.meta, "Warning", trouble.reason, text)
        await write_status(self._context, domain, domain.nodes, trouble, trouble)

    async def _tell_left_out(self, domain: ComputeDomain, members: Membership) -> None:
        if members.left_out:
            names = ", ".join(sorted(members.left_out))
            text = (
                f"no available indices within maxNodesPerIMEXDomain for nodes {names}: an NVLink partition of this "
                "domain has as many nodes as --max-nodes-per-imex-domain (MAX_NODES_PER_IMEX_DOMAIN) allows"
            )
            await self._context.events.tell(domain.meta, "Warning", "CliqueFull", text)
