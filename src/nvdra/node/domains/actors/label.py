"""Joins domains: labels the node, then waits until the node is ready in the domain, by watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from nvdra import telemetry
from nvdra.api.compute_domain import DOMAIN_LABEL, ComputeDomain, clique, clique_name, compute_domain
from nvdra.api.objects import Meta, meta_of
from nvdra.claims import Facts
from nvdra.domains.devices import DomainNode
from nvdra.domains.pods import daemon_pod
from nvdra.domains.readiness import NOT_YET, not_ready
from nvdra.domains.steps import JoinDomain
from nvdra.kube import Followed, Objects, document, until
from nvdra.node.domains.api import CLIQUES, DOMAINS, NODES, PODS, DomainMissing, Domains, answered
from nvdra.node.domains.node_label import NodeLabel
from nvdra.node.steps import StepFailed, StepJournal
from nvdra.ports import ApiError, Clock, Kube, Resource

POLL_S = 1.0
# DROP-IN: the Go driver's.
_LABELLING = "error applying config: error adding Node label for ComputeDomain"
_ASSERTING = "error applying config: error asserting ComputeDomain's namespace"
_TAKEN = "label already exists for a different ComputeDomain"


class _Denied(Exception):
    """The API server does not let the plugin watch."""


@dataclass(frozen=True, slots=True)
class Place:
    """This node, for the objects that tell about it.

    namespace   where cliques are
    """

    node: str
    namespace: str
    uses_cliques: bool


class JoinActor:
    """Applies and rolls back `JoinDomain`.

    view   the node as last seen
    """

    def __init__(
        self,
        kube: Kube,
        clock: Clock,
        domains: Domains,
        label: NodeLabel,
        place: Place,
        view: Callable[[], DomainNode],
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._domains = domains
        self._label = label
        self._place = place
        self._view = view
        self._may_watch = True

    async def apply(self, step: JoinDomain, journal: StepJournal) -> Facts:
        """No facts. Raises StepFailed."""
        try:
            domain = await journal.wait_for(self._find(step, journal))
            await journal.wait_for(self._join(step, journal))
            await journal.wait_for(self._until_ready(step, domain.meta, journal))
        except DomainMissing as error:
            raise StepFailed(f"{_ASSERTING}: {error}") from error
        except ApiError as error:
            raise StepFailed(f"{_LABELLING}: {error.message}") from error
        journal.waits("")
        return {}

    async def roll_back(self, step: JoinDomain, journal: StepJournal) -> None:
        """Remove the label, unless the node is in another domain by now. Raises StepFailed."""
        if not journal.is_touched:
            return
        for _ in range(3):
            try:
                if await self._label.clear(step.domain):
                    telemetry.info(1, "Removed node label", domain=step.domain)
                return
            except ApiError as error:
                if error.status != 409:
                    raise StepFailed(f"error removing Node label for ComputeDomain: {error.message}") from error
        raise StepFailed("error removing Node label for ComputeDomain: the node kept changing")

    async def _find(self, step: JoinDomain, journal: StepJournal) -> ComputeDomain:
        def on_failure(error: ApiError) -> None:
            journal.waits(f"the ComputeDomain cannot be looked up: {error.message}")

        return await answered(self._clock, partial(self._domains.find, step.domain, step.namespace), on_failure)

    # ── the label ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _join(self, step: JoinDomain, journal: StepJournal) -> None:
        def on_failure(error: ApiError) -> None:
            journal.waits(f"{_LABELLING}: {error.message}")

        while other := await answered(self._clock, partial(self._label.set, step.domain, journal.touch), on_failure):
            journal.waits(f"{_LABELLING}: {_TAKEN}: {other}, of which claims on this node are not unprepared yet")
            await self._until_label_changes(other)
        telemetry.info(4, "Labelled the node", domain=step.domain)

    async def _until_label_changes(self, other: str) -> None:
        def decide(objects: Objects) -> bool | None:
            is_same = any(meta_of(node).labels.get(DOMAIN_LABEL) == other for node in objects[NODES.plural])
            return None if is_same else True

        followed = (Followed(NODES, f"metadata.name={self._place.node}"),)
        await self._followed("", followed, decide, partial(self._has_label_changed, other))

    async def _has_label_changed(self, other: str) -> bool | None:
        return await self._label.current() != other or None

    # ── readiness ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _until_ready(self, step: JoinDomain, domain: Meta, journal: StepJournal) -> None:
        clique_id = self._view().clique
        name = clique_name(step.domain, clique_id)
        of_domain, on_node = f"{DOMAIN_LABEL}={step.domain}", f"spec.nodeName={self._place.node}"
        followed = [
            Followed(DOMAINS, f"metadata.name={domain.name}", namespace=domain.namespace),
            Followed(PODS, on_node, of_domain),
        ]
        if clique_id and self._place.uses_cliques:
            followed.append(Followed(CLIQUES, f"metadata.name={name}"))

        def decide(objects: Objects) -> bool | None:
            found = [compute_domain(thing) for thing in objects[DOMAINS.plural]]
            ours = next((each for each in found if each.meta.uid == step.domain), None)
            if ours is None:
                raise DomainMissing(f"ComputeDomain not found: {step.domain}")
            cliques = [clique(thing) for thing in objects.get(CLIQUES.plural, ())]
            pods = [daemon_pod(thing) for thing in objects.get(PODS.plural, ())]
            reason = not_ready(self._place.node, ours, next(iter(cliques), None), pods, clique_id)
            journal.waits(f"{NOT_YET}: {reason}" if reason else "")
            return None if reason else True

        def on_failure(error: ApiError) -> None:
            journal.waits(f"{NOT_YET}: the API server does not tell: {error.message}")

        poll = partial(self._ask, followed, decide, on_failure)
        await self._followed(self._place.namespace, followed, decide, poll, on_failure)

    async def _ask(
        self,
        followed: list[Followed],
        decide: Callable[[Objects], bool | None],
        on_failure: Callable[[ApiError], None],
    ) -> bool | None:
        """What `decide` says of the objects now, each read by its own GET or LIST."""
        objects: dict[str, list[dict[str, Any]]] = {}
        for each in followed:
            namespace = self._place.namespace if each.namespace is None else each.namespace
            objects[each.resource.plural] = await self._objects(each.resource, namespace, each, on_failure)
        return decide(objects)

    async def _objects(
        self, resource: Resource, namespace: str, each: Followed, on_failure: Callable[[ApiError], None]
    ) -> list[dict[str, Any]]:
        name = each.field_selector.removeprefix("metadata.name=")
        try:
            if resource is PODS:
                page = await self._kube.list(
                    resource, namespace, field_selector=each.field_selector, label_selector=each.label_selector
                )
                return [document(item) for item in page.items]
            return [document(await self._kube.get(resource, name, namespace))]
        except ApiError as error:
            if error.is_missing(resource.plural, name) or (error.status == 403 and resource is PODS):
                return []
            raise

    async def _followed(
        self,
        namespace: str,
        followed: list[Followed] | tuple[Followed, ...],
        decide: Callable[[Objects], bool | None],
        poll: Callable[[], Any],
        on_failure: Callable[[ApiError], None] = lambda _error: None,
    ) -> None:
        """Return once `decide` is content, by watch; by `poll` every second where the API server denies watches."""

        def failed(error: ApiError) -> None:
            if error.status == 403:
                raise _Denied(error.message)
            on_failure(error)

        if self._may_watch:
            try:
                await until(self._kube, self._clock, namespace, followed, decide, on_failure=failed)
                return
            except _Denied as denied:
                self._may_watch = False
                telemetry.warning(
                    "The plugin may not watch, so it asks every second; give its service account list and watch",
                    cause=str(denied),
                )
        while not await answered(self._clock, poll, on_failure):
            await self._clock.sleep(POLL_S)
