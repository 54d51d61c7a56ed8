"""nvdra claim explain: why a claim is pending, by the scheduler's own rules."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from nvdra.allocation import RELEASES, AllocationError, Cluster, explanation, release_of
from nvdra.kube import ConfigError
from nvdra.ports import ApiError
from nvdra.programs.flags import Flag, UsageError, boolean, parse_words
from nvdra.programs.people.explain_cluster import Objects, from_cluster, from_files
from nvdra.programs.people.explain_page import page
from nvdra.programs.people.paper import as_json

_ABOUT = """\
Why a claim is pending. The claim (or all claims of a pod) is tried on every node as kube-scheduler's allocator would;
each refusal is named with its rule, object and numbers, and changes that would help are tried before they are shown.
Nothing is changed. Objects come from the cluster, or from files written with

  kubectl get nodes,deviceclasses,resourceslices,resourceclaims,pods -A -o json > cluster.json

The scheduler also looks at things that are not asked here: other resources, affinity, and only a sample of nodes.

Exit status: 0 if everything asked for fits somewhere or is allocated, 1 if something does not, 2 if the command line
is wrong, 3 if it cannot be told."""


def _output(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("must be one of text, json")
    return text


_FLAGS = (
    Flag(("all",), (), False, "every claim without an allocation", boolean),
    Flag(("from",), (), "", "files with objects, separated by commas, instead of the cluster; - is standard input"),
    Flag(("namespace", "n"), (), "", "namespace of a NAME that is given without one"),
    Flag(("node",), (), "", "only this node"),
    Flag(("release",), (), "", f"answer as this Kubernetes release: {', '.join(RELEASES)}; else the cluster's own"),
    Flag(
        ("allocator-features",),
        (),
        "",
        "Name=true|false, separated by commas, if the cluster's gates are not the defaults",
    ),
    Flag(("kubeconfig",), ("KUBECONFIG",), "", "kubeconfig file; inside a cluster the pod's own account"),
    Flag(("output", "o"), (), "text", "text or json", _output),
)


def main(argv: Sequence[str]) -> int:
    usage = "nvdra claim explain [OPTIONS] NAMESPACE/NAME"
    values, words = parse_words("nvdra claim explain", _ABOUT, _FLAGS, argv, os.environ, usage=usage)
    if len(words) != (0 if values["all"] else 1):
        raise UsageError("give one NAMESPACE/NAME of a claim or pod, or --all")
    if words and values["namespace"] and "/" not in words[0]:
        words = [f"{values['namespace']}/{words[0]}"]
    if words and words[0].count("/") != 1:
        raise UsageError(f"{words[0]!r} is not NAMESPACE/NAME")
    try:
        objects = _objects(values, words[0].split("/")[0] if words else "")
        cluster = _loaded(values, objects)
        answers = [json.loads(cluster.explain(name, values["node"] or None)) for name in words or cluster.pending()]
    except (AllocationError, ConfigError, ApiError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 3
    for note in (*objects.notes, *cluster.notes()):
        print(f"Note: {note}", file=sys.stderr)
    if values["output"] == "json":
        print(as_json(answers[0] if words else {"claims": answers}), end="")
    else:
        _print(answers)
    return max((_status(answer) for answer in answers), default=0)


def _objects(values: dict[str, Any], namespace: str) -> Objects:
    if values["from"]:
        return from_files(str(values["from"]).split(","))
    return asyncio.run(from_cluster(str(values["kubeconfig"]), namespace, os.environ))


def _loaded(values: dict[str, Any], objects: Objects) -> Cluster:
    """The cluster with all objects. Raises AllocationError."""
    release = values["release"] or (release_of(objects.version) if objects.version else RELEASES[-1])
    try:
        cluster = Cluster(release, _gates(str(values["allocator_features"])))
    except AllocationError as error:
        raise AllocationError(f"{error}; --release says which release to answer as") from None
    for source, document in objects.documents:
        try:
            cluster.add(document) if isinstance(document, bytes) else cluster.add_file(document)
        except AllocationError as error:
            raise AllocationError(f"{source}: {error}") from None
    return cluster


def _gates(text: str) -> list[tuple[str, bool]]:
    gates = []
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            gates.append((name, boolean(value)))
        except ValueError as error:
            raise UsageError(f'invalid value "{text}" for flag -allocator-features: {error}') from None
    return gates


def _status(answer: dict[str, Any]) -> int:
    if not answer["claims"] and not any(
        note["code"] in ("claim.missing", "claim.deleting") for note in answer["notes"]
    ):
        return 0
    if answer["fits"]:
        return 0
    return 3 if any(node["verdict"] == "unknown" for node in answer["nodes"]) else 1


def _print(answers: list[dict[str, Any]]) -> None:
    if not answers:
        print("No claim is without an allocation.")
    for index, answer in enumerate(answers):
        print("\n" if index else "", end="")
        print(page(explanation(json.dumps(answer))), end="")
