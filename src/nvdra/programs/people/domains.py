"""nvdra domains: the ComputeDomains of a cluster, and why one is not Ready."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from nvdra.api.compute_domain import DOMAIN_LABEL
from nvdra.controller.settings import CLIQUES, DAEMON_SETS, DOMAINS, NODES, PODS, TEMPLATES
from nvdra.domains.report import Finding, Report, Snapshot, reports
from nvdra.kube import ConfigError, HttpKube, ResourceApi, access, document
from nvdra.ports import ApiError, Kube, Resource
from nvdra.programs.flags import KUBE, Flag, UsageError, parse_words
from nvdra.programs.people.paper import as_json, table

_ABOUT = """\
The ComputeDomains of a cluster: status, nodes, and for each node that is not ready the step that it waits for, since
when, and what to do. With NAMESPACE/NAME only that one. Nothing is changed.

Exit status: 0 if every domain shown is Ready, 1 if one is not or something is in its way, 2 if the command line is
wrong, 3 if it cannot be told."""


def _output(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("must be one of text, json")
    return text


_FLAGS = (
    Flag(("namespace", "n"), (), "", "only ComputeDomains of this namespace, and of a NAME that is given without one"),
    KUBE[0],
    Flag(("output", "o"), (), "text", "text or json", _output),
)


def main(argv: Sequence[str]) -> int:
    usage = "nvdra domains [OPTIONS] [NAMESPACE/NAME]"
    values, words = parse_words("nvdra domains", _ABOUT, _FLAGS, argv, os.environ, usage=usage)
    if len(words) > 1:
        raise UsageError(f"give one NAMESPACE/NAME of a ComputeDomain, or none; there are: {' '.join(words)}")
    name = words[0] if words else ""
    if name and "/" not in name:
        if not values["namespace"]:
            raise UsageError(f"{name!r} is not NAMESPACE/NAME")
        name = f"{values['namespace']}/{name}"
    try:
        found, notes = asyncio.run(_reports(str(values["kubeconfig"])))
    except (ConfigError, ApiError) as error:
        print(f"Error: ComputeDomains cannot be read: {error}", file=sys.stderr)
        return 3
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
    space = str(values["namespace"])
    shown = [each for each in found if (str(each.domain.meta) == name if name else space in ("", _space(each)))]
    if name and not shown:
        print(f"Error: there is no ComputeDomain {name}", file=sys.stderr)
        return 3
    if values["output"] == "json":
        print(as_json({"domains": [_json(each) for each in shown]}), end="")
    else:
        print(_page(shown), end="")
    return int(any(each.domain.status != "Ready" or _findings(each) for each in shown))


async def _reports(kubeconfig: str) -> tuple[list[Report], list[str]]:
    """All domains, and which objects could not be read."""
    async with HttpKube(access(kubeconfig, os.environ), user_agent="nvdra-domains") as kube:
        return await look(kube)


async def look(kube: Kube) -> tuple[list[Report], list[str]]:
    """All domains of an API server, and which objects could not be read. Raises ApiError if the domains cannot."""
    notes: list[str] = []

    async def objects(resource: Resource, selector: str = DOMAIN_LABEL) -> list[dict[str, Any]] | None:
        try:
            return [document(each) for each in (await kube.list(resource, label_selector=selector)).items]
        except ApiError as error:
            notes.append(f"{resource.plural} cannot be read, so some steps are not told: {error}")
            return None

    domains = [document(each) for each in (await kube.list(DOMAINS)).items]
    templates = await ResourceApi(kube).resource(TEMPLATES)
    read = await asyncio.gather(
        objects(DAEMON_SETS),
        objects(templates),
        objects(PODS),
        objects(CLIQUES, ""),
        objects(NODES),
        _claims(kube, notes),
    )
    return reports(Snapshot(domains, *read)), notes


async def _claims(kube: Kube, notes: list[str]) -> list[dict[str, Any]] | None:
    """Claims for channels; of all others nothing is kept."""
    found: list[dict[str, Any]] = []
    try:
        async for page in ResourceApi(kube).claims():
            found += [document(each) for each in page if b"ComputeDomainChannelConfig" in each]
    except ApiError as error:
        notes.append(f"resourceclaims cannot be read, so claims that are shared too often are not told: {error}")
        return None
    return found


def _space(report: Report) -> str:
    return report.domain.meta.namespace


def _findings(report: Report) -> list[Finding]:
    return [*report.findings, *(each.finding for each in report.nodes if each.finding is not None)]


def _page(found: Sequence[Report]) -> str:
    if not found:
        return "There are no ComputeDomains.\n"
    rows = [
        (
            str(each.domain.meta),
            each.domain.status or "none yet",
            f"{sum(node.finding is None for node in each.nodes)}/{len(each.nodes)}",
            each.domain.template,
            _age(each.domain.meta.created),
        )
        for each in found
    ]
    parts = [table(("DOMAIN", "STATUS", "READY NODES", "TEMPLATE", "AGE"), rows)]
    parts += [_details(each) for each in found if len(found) == 1 or _findings(each)]
    return "\n".join(parts)


def _details(report: Report) -> str:
    lines = [f"{report.domain.meta} (UID {report.domain.meta.uid})\n"]
    if report.nodes:
        rows = [
            (each.node, each.status, each.clique or "no fabric", "-" if each.index is None else str(each.index))
            for each in report.nodes
        ]
        lines.append(table(("NODE", "STATUS", "CLIQUE", "INDEX"), rows, "  "))
    for finding in _findings(report):
        subject = f"node {finding.node}: " if finding.node else ""
        since = f" (for {_age(finding.since)})" if finding.since else ""
        lines.append(f"  * {subject}{finding.step}{since}\n    → {finding.advice}\n")
    return "".join(lines)


def _json(report: Report) -> dict[str, Any]:
    meta = report.domain.meta
    return {
        "namespace": meta.namespace,
        "name": meta.name,
        "uid": meta.uid,
        "status": report.domain.status,
        "template": report.domain.template,
        "numNodes": report.domain.num_nodes,
        "nodes": [
            {"name": each.node, "clique": each.clique, "index": each.index, "status": each.status}
            for each in report.nodes
        ],
        "findings": [asdict(each) for each in _findings(report)],
    }


def _age(created: str) -> str:
    """How long ago this was, in one unit."""
    try:
        began = datetime.strptime(created[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return "unknown"
    seconds = max(int((datetime.now(UTC) - began).total_seconds()), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
