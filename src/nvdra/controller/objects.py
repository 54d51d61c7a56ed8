"""The objects that a live domain needs: made where they are missing, updated where the options changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from nvdra import telemetry
from nvdra.api.compute_domain import DAEMON_CONTAINER, DAEMON_TARGET, DOMAIN_LABEL, WORKLOAD_TARGET, ComputeDomain
from nvdra.api.objects import Meta, mapping, meta_of, objects, text
from nvdra.controller.caches import DaemonSet
from nvdra.controller.context import Context
from nvdra.controller.patches import Waiting, delete_now, patch
from nvdra.controller.settings import DAEMON_SETS, TEMPLATES
from nvdra.domains.templates import daemon_claim_template, daemon_set, gates_text, workload_claim_template
from nvdra.kube import document, to_wire
from nvdra.ports import ApiError, Resource


class Clash(Exception):
    """An object with the name that a domain needs belongs to somebody else. The text is for people."""


class Duplicates(Exception):
    """A domain has an object twice; the text is the Go driver's."""


async def ensure_daemons(context: Context, domain: ComputeDomain) -> DaemonSet:
    """The domain's DaemonSet, made with its claim template if there is none in any namespace."""
    uid, namespace = domain.meta.uid, context.settings.namespace
    present = context.caches.daemon_sets(uid)
    found = [each for each in present if await _stays(context, DAEMON_SETS, each.meta)]
    if len(found) > 1:
        raise Duplicates("more than one DaemonSet found with same ComputeDomain UID")
    if found:
        return found[0]
    if not await _templates(context, uid, DAEMON_TARGET):
        await _make_template(context, daemon_claim_template(uid, namespace))
    body = daemon_set(uid, context.settings.daemons)
    raw = await _make(context, DAEMON_SETS, body, body)
    return context.caches.namespaces[0].daemon_sets.put(raw)


async def ensure_workload_template(context: Context, domain: ComputeDomain) -> None:
    """Make the ResourceClaimTemplate that the user named, unless one of this domain exists anywhere."""
    found = await _templates(context, domain.meta.uid, WORKLOAD_TARGET)
    if len(found) > 1:
        raise Duplicates("more than one ResourceClaimTemplate found with same ComputeDomain UID")
    if not found:
        body = workload_claim_template(domain, is_host_managed=context.settings.is_host_managed)
        await _make_template(context, body)


async def follow_options(context: Context, found: DaemonSet) -> None:
    """Bring a DaemonSet to this controller's image, and to its gates while no daemon runs.

    Its update strategy becomes OnDelete: a daemon that runs is never restarted for it. A daemon lives as long as its
    node's workload, so the next one has the new image. A domain whose daemons disagree on gates would be broken, so
    gates wait until it has none.
    """
    settings, uid = context.settings.daemons, found.meta.labels.get(DOMAIN_LABEL, "")
    if found.meta.namespace != settings.namespace or found.meta.is_deleting:
        return
    wanted = {"image": settings.image, "FEATURE_GATES": gates_text(settings.gates)}
    if context.caches.pods(uid):
        wanted.pop("FEATURE_GATES")
    changed = {name: value for name, value in wanted.items() if found.environment.get(name) != value}
    if not changed:
        return
    thing = document(await context.kube.get(DAEMON_SETS, found.meta.name, found.meta.namespace))
    pod = mapping(mapping(mapping(thing, "spec"), "template"), "spec")
    containers = [_with(each, changed) for each in objects(pod, "containers")]
    strategy = {"type": "OnDelete", "rollingUpdate": None}
    body = {"spec": {"updateStrategy": strategy, "template": {"spec": {"containers": containers}}}}
    context.caches.namespaces[0].daemon_sets.put(await patch(context.kube, DAEMON_SETS, meta_of(thing), body))
    telemetry.info(1, "Updated DaemonSet for daemons to come", daemonset=str(found.meta), changed=sorted(changed))


async def _templates(context: Context, uid: str, target: str) -> list[Meta]:
    """A domain's claim templates of one target, without those that somebody deleted."""
    resource = await context.api.resource(TEMPLATES)
    present = context.caches.claim_templates(uid, target)
    return [each for each in present if await _stays(context, resource, each)]


async def _stays(context: Context, resource: Resource, meta: Meta) -> bool:
    """Whether an object is not being deleted; of one that is, the finalizer is removed, so that it can be made anew."""
    if meta.is_deleting:
        await delete_now(context.kube, resource, meta)
    return not meta.is_deleting


async def _make_template(context: Context, body: Mapping[str, Any]) -> None:
    resource = await context.api.resource(TEMPLATES)
    wire = {
        **body,
        "apiVersion": f"{resource.group}/{resource.version}",
        "spec": {"spec": to_wire({"spec": body["spec"]["spec"]}, resource.version)["spec"]},
    }
    context.caches.templates.put(await _make(context, resource, body, wire))


async def _make(context: Context, resource: Resource, body: Mapping[str, Any], wire: Mapping[str, Any]) -> bytes:
    """Create an object; if it is there and the domain's, the object that is there. Raises Clash and Waiting."""
    wanted = meta_of(body)
    try:
        made = await context.kube.create(resource, orjson.dumps(wire), wanted.namespace)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
    else:
        telemetry.info(1, "Created object", kind=body["kind"], object=str(wanted))
        return made
    there = await context.kube.get(resource, wanted.name, wanted.namespace)
    found = meta_of(document(there))
    if found.labels.get(DOMAIN_LABEL) == wanted.labels[DOMAIN_LABEL]:
        return there
    if found.is_deleting:
        raise Waiting(f"{body['kind']} {found} of another ComputeDomain is still being deleted")
    raise Clash(_clash(body["kind"], found))


def _clash(kind: str, found: Meta) -> str:
    other = found.labels.get(DOMAIN_LABEL)
    owner = f"it belongs to the ComputeDomain with UID {other}" if other else "this driver did not make it"
    return (
        f"cannot create {kind} {found}: one with this name exists already, and {owner}. Delete it, or make a "
        "ComputeDomain with another name in spec.channel.resourceClaimTemplate"
    )


def _with(container: Mapping[str, Any], changed: Mapping[str, str]) -> Mapping[str, Any]:
    """The daemon's container with the changed image and variables."""
    if text(container, "name") != DAEMON_CONTAINER:
        return container
    variables = {name: value for name, value in changed.items() if name != "image"}
    env = [
        {**each, "value": variables.pop(text(each, "name"))} if text(each, "name") in variables else each
        for each in objects(container, "env")
    ]
    env += [{"name": name, "value": value} for name, value in variables.items()]
    return {**container, "image": changed.get("image", text(container, "image")), "env": env}
