"""nvdra claim lint: mistakes in claims and templates before they are created."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvdra.allocation import RELEASES, AllocationError, Cluster, release_of
from nvdra.kube import ConfigError
from nvdra.ports import ApiError
from nvdra.programs.flags import GATES, Flag, UsageError, parse_words
from nvdra.programs.people.explain_cluster import from_cluster, from_files
from nvdra.programs.people.forecast_slices import ForecastError
from nvdra.programs.people.lint_findings import Finding, findings
from nvdra.programs.people.local_node import gates_of
from nvdra.programs.people.paper import as_json, counted
from nvdra.programs.people.simulate_fleet import wanted
from nvdra.programs.people.simulate_scenario import SHARES, typed_fleet

_ABOUT = """\
Mistakes in ResourceClaims and ResourceClaimTemplates before they are created: each selector is compiled as the API
server and the scheduler compile it, and evaluated on every device of the cluster (or of --from, or of --nodes); configs
are checked by the webhook's functions.

  nvdra claim lint claim.yaml                          against the devices of the cluster
  nvdra claim lint --from cluster.json claim.yaml      against a dump (see nvdra claim explain --help)
  nvdra claim lint --nodes 1xh100x8@DynamicMIG=true claim.yaml

Exit status: 0 if there is no error (warnings are allowed), 1 if there is one, 2 if called wrongly, 3 if it cannot be
told."""


def _output(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("must be one of text, json")
    return text


_FLAGS = (
    Flag(("from",), (), "", "files with objects, separated by commas, instead of the cluster; - is standard input"),
    Flag(("nodes",), (), (), "devices of node types instead: COUNTxTYPE[@GATES]", wanted, repeats=True),
    *GATES,
    SHARES,
    Flag(("release",), (), "", f"Kubernetes release: {', '.join(RELEASES)}; else the cluster's own, or the newest"),
    Flag(("kubeconfig",), ("KUBECONFIG",), "", "kubeconfig file; inside a cluster the pod's own account"),
    Flag(("output", "o"), (), "text", "text or json", _output),
)


def main(argv: Sequence[str]) -> int:
    usage = "nvdra claim lint [OPTIONS] FILE..."
    values, words = parse_words("nvdra claim lint", _ABOUT, _FLAGS, argv, os.environ, usage=usage)
    if not words:
        raise UsageError("give files with claims or templates, YAML or JSON; - is standard input")
    try:
        cluster = _cluster(values)
        found = [each for name in words for each in findings(name, _documents(name), cluster, gates_of(values))]
    except (AllocationError, ConfigError, ApiError, ForecastError, LintError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"Error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 3
    errors = sum(each.level == "error" for each in found)
    if values["output"] == "json":
        print(as_json({"errors": errors, "findings": [each.as_json() for each in found]}), end="")
    else:
        _print(found, errors)
    return 1 if errors else 0


class LintError(Exception):
    """A file cannot be read; the text is for people."""


def _print(found: Sequence[Finding], errors: int) -> None:
    for each in found:
        print(f"{each.place}: {each.level}: {each.text} [{each.code}]")
        if each.hint:
            print(f"    {each.hint}")
    warnings = sum(each.level == "warning" for each in found)
    print(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")


def _cluster(values: dict[str, Any]) -> Cluster:
    """Classes and devices to try selectors on."""
    if values["nodes"]:
        if values["from"]:
            raise UsageError("--from and --nodes exclude each other")
        release = str(values["release"] or RELEASES[-1])
        cluster = Cluster(release, [])
        fleet = typed_fleet(values, release)
        for group in fleet.groups:
            cluster.add(_list(group.slices, "ResourceSlice"))
        cluster.add(_list(fleet.classes, "DeviceClass"))
        return cluster
    if values["from"]:
        objects = from_files(str(values["from"]).split(","))
    else:
        objects = asyncio.run(from_cluster(str(values["kubeconfig"]), "default", os.environ))
    release = str(values["release"]) or (release_of(objects.version) if objects.version else RELEASES[-1])
    cluster = Cluster(release, [])
    for source, document in objects.documents:
        try:
            cluster.add(document) if isinstance(document, bytes) else cluster.add_file(document)
        except AllocationError as error:
            raise AllocationError(f"{source}: {error}") from None
    return cluster


def _list(items: bytes, kind: str) -> bytes:
    made = [{**each, "kind": kind} for each in json.loads(items)]
    return json.dumps({"kind": "List", "items": made}).encode()


def _documents(name: str) -> list[Any]:
    """The documents of a file, lists taken apart."""
    import yaml

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        found = [each for each in yaml.safe_load_all(text) if each is not None]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise LintError(f"{name}: neither YAML nor JSON: {' '.join(str(error).split())}") from None
    return [item for each in found for item in _items(each)]


def _items(document: Any) -> list[Any]:
    items = document.get("items") if isinstance(document, dict) else None
    return items if isinstance(items, list) else [document]
