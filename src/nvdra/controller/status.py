"""The status of ComputeDomains: written where it differs, with conditions where the installed CRD keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from nvdra import telemetry
from nvdra.api.compute_domain import NOT_READY, READY, ComputeDomain, Condition, Member, condition_wire, node_wire
from nvdra.api.objects import mapping, objects
from nvdra.controller.context import Context
from nvdra.controller.patches import patch
from nvdra.controller.settings import CRDS, DOMAINS
from nvdra.domains.status import Verdict
from nvdra.kube import document
from nvdra.ports import ApiError, Kube

READY_CONDITION = "Ready"
TEMPLATES_CONDITION = "TemplatesCreated"


async def write_status(
    context: Context, domain: ComputeDomain, nodes: Sequence[Member], verdict: Verdict, trouble: Verdict | None
) -> None:
    """Write the domain's status if it differs, and tell of a change in an Event.

    trouble   what keeps its objects from being made
    """
    conditions = _conditions(context, domain, verdict, trouble)
    if (domain.status, domain.nodes, domain.conditions) == (verdict.status, tuple(nodes), conditions):
        return
    status: dict[str, Any] = {"status": verdict.status, "nodes": [node_wire(each) for each in nodes] or None}
    if context.has_conditions():
        status["conditions"] = [condition_wire(each) for each in conditions]
    context.caches.domains.put(
        await patch(context.kube, DOMAINS, domain.meta, {"status": status}, subresource="status")
    )
    if domain.status != verdict.status:
        telemetry.info(1, "Changed status", domain=str(domain.meta), status=verdict.status, reason=verdict.message)
        await context.events.tell(domain.meta, "Normal", verdict.status, verdict.message)


def _conditions(
    context: Context, domain: ComputeDomain, verdict: Verdict, trouble: Verdict | None
) -> tuple[Condition, ...]:
    """The conditions that the domain should have; those that are not ours stay."""
    if not context.has_conditions():
        return domain.conditions
    created = trouble or Verdict(READY, "Created", "all objects of the domain exist")
    wanted = {READY_CONDITION: verdict, TEMPLATES_CONDITION: created}
    now = datetime.fromtimestamp(context.clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    there = {condition.type: condition for condition in domain.conditions}
    for kind, said in wanted.items():
        value = "False" if said.status == NOT_READY else "True"
        made = Condition(kind, value, said.reason, said.message, now)
        old = there.get(kind)
        there[kind] = replace(made, since=old.since) if old is not None and old.status == value else made
    return tuple(there.values())


class Schema:
    """Knows whether the installed CRD keeps conditions: the Go driver's drops them, and helm never upgrades a CRD."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.has_conditions = False

    async def look(self) -> None:
        """Read the CRD. If that is not allowed or not possible, no condition is written."""
        name = f"{DOMAINS.plural}.{DOMAINS.group}"
        try:
            thing = document(await self._kube.get(CRDS, name))
        except ApiError as error:
            telemetry.info(1, "Could not read the CRD, so no conditions are written", crd=name, cause=str(error))
            return
        found = False
        for version in objects(mapping(thing, "spec"), "versions"):
            if version.get("name") == DOMAINS.version:
                schema = mapping(mapping(version, "schema"), "openAPIV3Schema")
                status = mapping(mapping(schema, "properties"), "status")
                found = bool(mapping(mapping(status, "properties"), "conditions"))
        if found != self.has_conditions:
            telemetry.info(1, "Looked at the installed CRD", crd=name, conditions=found)
        self.has_conditions = found
