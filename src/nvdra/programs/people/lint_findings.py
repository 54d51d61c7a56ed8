"""What is wrong with claims and templates, by the engine's trial of their selectors and the webhook's verdict."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nvdra.allocation import AllocationError, Cluster
from nvdra.api.gates import Gates
from nvdra.programs.people.paper import counted
from nvdra.webhook import judge

Json = Mapping[str, Any]

_KINDS = {"ResourceClaim": "resourceclaims", "ResourceClaimTemplate": "resourceclaimtemplates"}
_GROUP = "resource.k8s.io"
_COSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake.

    place  file, object, request
    code   stable, for scripts
    hint   what to do; "" if the text says it
    """

    place: str
    level: Literal["error", "warning"]
    code: str
    text: str
    hint: str = ""

    def as_json(self) -> dict[str, str]:
        return {"place": self.place, "level": self.level, "code": self.code, "text": self.text, "hint": self.hint}


def findings(name: str, documents: Sequence[Any], cluster: Cluster, gates: Gates) -> list[Finding]:
    """Returns every finding of a file's documents, in their order."""
    found: list[Finding] = []
    claims = 0
    for at, document in enumerate(documents):
        if not isinstance(document, dict):
            found.append(Finding(f"{name}, document {at + 1}", "error", "claim.form", "is not an object"))
            continue
        kind = str(document.get("kind"))
        if kind not in _KINDS:
            continue
        claims += 1
        metadata = document.get("metadata")
        title = metadata.get("name") or metadata.get("generateName") if isinstance(metadata, dict) else None
        found += _of_object(f"{name}: {kind} {title or at + 1}", kind, document, cluster, gates)
    if not claims:
        found.append(Finding(name, "error", "claim.none", "holds no ResourceClaim and no ResourceClaimTemplate"))
    return found


def _of_object(place: str, kind: str, document: Json, cluster: Cluster, gates: Gates) -> Iterator[Finding]:
    version = str(document.get("apiVersion"))
    group, _, version_name = version.partition("/")
    if group != _GROUP or version_name != "v1":
        yield Finding(
            place, "error", "claim.version", f"apiVersion is {version}, not {_GROUP}/v1", "selectors are not checked"
        )
    refusal = _refusal(kind, document, gates)
    if refusal:
        yield Finding(place, "error", "claim.config", f"the webhook would refuse it: {refusal}")
    if version_name != "v1":
        return
    spec = document.get("spec")
    spec = spec.get("spec") if kind == "ResourceClaimTemplate" and isinstance(spec, dict) else spec
    metadata = document.get("metadata") if isinstance(document.get("metadata"), dict) else {}
    claim = {"metadata": {"name": str((metadata or {}).get("name") or "claim")}, "spec": spec}
    try:
        answer = json.loads(cluster.lint(json.dumps(claim)))
    except AllocationError as error:
        yield Finding(place, "error", "claim.form", f"is no valid claim: {error}")
        return
    if not answer["requests"]:
        yield Finding(place, "error", "claim.form", "has no request")
    for request in answer["requests"]:
        yield from _of_request(f"{place}, request {request['name']}", request, answer)
    known = set(answer["known"]["attributes"])
    for at, attribute in enumerate(answer["constraints"]):
        if attribute and known and attribute not in known:
            text = f"constraint #{at}: no device has the attribute {attribute}: the claim can never be allocated"
            yield Finding(place, "error", "attribute.unknown", text, _similar(attribute, known))


def _of_request(place: str, request: Json, answer: Json) -> Iterator[Finding]:
    if not request["class"]:
        yield Finding(place, "error", "class.missing", "names no device class")
    elif not request["classExists"]:
        yield Finding(place, "error", "class.missing", f"device class {request['class']} does not exist")
    broken = False
    for selector in request["selectors"]:
        if not request["classExists"]:  # nothing is known of the devices that such a class would admit
            selector = {**selector, "failures": ()}
        found = list(_of_selector(place, request, selector, answer))
        broken = broken or any(each.level == "error" for each in found)
        yield from found
    if not request["matched"] and not broken and request["classExists"] and answer["devices"]:
        text = f"none of {counted(answer['devices'], 'device')} matches its selectors"
        yield Finding(place, "warning", "devices.none", text)


def _of_selector(place: str, request: Json, selector: Json, answer: Json) -> Iterator[Finding]:
    name = f"selector #{selector['index']}" if selector["of"] == "request" else f"class {request['class']}"
    if selector["error"]:
        yield Finding(place, "error", "cel.compile", f"{name}: {_one_line(selector['error'])}")
        return
    if selector["newError"]:
        text = f"{name}: the API server may refuse it while the cluster can go back a release: "
        yield Finding(place, "warning", "cel.new", text + _one_line(selector["newError"]))
    unknown = [one for one in selector["references"] if one["name"] not in answer["known"][one["kind"]]]
    for one in unknown if answer["devices"] and selector["of"] == "request" else ():
        kind = "attribute" if one["kind"] == "attributes" else "capacity"
        text = f"{name}: no device has the {kind} {one['name']}"
        yield Finding(place, "error", f"{kind}.unknown", text, _similar(one["name"], answer["known"][one["kind"]]))
    for failure in selector["failures"]:
        if any(f"no such key: {one['name'].rpartition('/')[2]}" in failure["text"] for one in unknown):
            continue
        text = (
            f"{name} fails on {counted(failure['devices'], 'device')}, such as {failure['example']}: {failure['text']}"
        )
        hint = "an error stops the whole pod, on every node: test first, as in has(…) && …, or write .?name.orValue(…)"
        code = "cel.cost" if "cost limit" in failure["text"] else "cel.unguarded"
        yield Finding(place, "error", code, text, hint if code == "cel.unguarded" else "")
    if selector["cost"] > selector["limit"] * _COSTLY and not selector["failures"]:
        text = f"{name} costs {selector['cost']:,} of {selector['limit']:,} on a device of this fleet"
        yield Finding(place, "warning", "cel.cost", text, "a device with more attributes would pass the limit")


def _similar(name: str, known: Sequence[str] | set[str]) -> str:
    """A question with the names that were probably meant; "" if none is near."""
    domain, _, own = name.rpartition("/")
    of_domain = {each.rpartition("/")[2]: each for each in sorted(known) if each.rpartition("/")[0] == domain}
    close = [of_domain[each] for each in difflib.get_close_matches(own, of_domain, n=2, cutoff=0.7)]
    close = close or difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.8)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _refusal(kind: str, document: Json, gates: Gates) -> str:
    """Why the webhook would refuse the object; "" if it would not."""
    group, _, version = str(document.get("apiVersion")).partition("/")
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "lint",
            "operation": "CREATE",
            "resource": {"group": group, "version": version, "resource": _KINDS[kind]},
            "object": document,
        },
    }
    verdict = judge(json.dumps(review, default=str).encode(), gates)
    return "" if verdict.refusal is None else verdict.refusal.message
