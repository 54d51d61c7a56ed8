"""Field and label selectors as the API server reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from nvdra.ports import ApiError

_FIELDS = {
    "resourceslices": ("metadata.name", "spec.driver", "spec.nodeName"),
    "pods": ("metadata.name", "metadata.namespace", "spec.nodeName"),
    "nodes": ("metadata.name",),
}
_ALWAYS = ("metadata.name", "metadata.namespace")
_SET = re.compile(r"\s*([\w./-]+)\s+(in|notin)\s+\(([^)]*)\)\s*(?:,|$)")
_ONE = re.compile(r"\s*(!?)([\w./-]+)\s*(?:(==|!=|=)\s*([\w./-]*))?\s*(?:,|$)")

Matcher = Callable[[Mapping[str, Any]], bool]


def field_matcher(plural: str, selector: str, minor: int) -> Matcher:
    """Whether an object is selected. ApiError 400 for a field that cannot be selected by.

    minor   of the server: slices can be selected by their pool since 1.37
    """
    known = _FIELDS.get(plural, _ALWAYS)
    if plural == "resourceslices" and minor >= 37:
        known = (*known, "spec.pool.name")
    terms = []
    for term in filter(None, selector.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|!=|=)(.*)", term)
        if found is None or found[1] not in known:
            raise ApiError(400, "BadRequest", f'field label not supported: "{term}"')
        terms.append((found[1].split("."), found[2] != "!=", found[3]))
    return lambda thing: all((_text(thing, path) == value) is wanted for path, wanted, value in terms)


def label_matcher(selector: str) -> Matcher:
    """Whether an object with this metadata is selected."""
    terms: list[Matcher] = []
    at = 0
    while at < len(selector):
        if found := _SET.match(selector, at):
            values = {value.strip() for value in found[3].split(",")}
            terms.append(_in(found[1], values, found[2] == "in"))
        elif (found := _ONE.match(selector, at)) and found.end() > at:
            if found[3]:
                terms.append(_in(found[2], {found[4]}, found[3] != "!="))
            else:
                terms.append(_has(found[2], not found[1]))
        else:
            raise ApiError(400, "BadRequest", f'unable to parse the label selector "{selector}"')
        at = found.end()
    return lambda metadata: all(term(metadata.get("labels") or {}) for term in terms)


def _in(key: str, values: set[str], wanted: bool) -> Matcher:
    return lambda labels: (labels.get(key) in values) is wanted


def _has(key: str, wanted: bool) -> Matcher:
    return lambda labels: (key in labels) is wanted


def _text(thing: Any, path: list[str]) -> str:
    for key in path:
        thing = thing.get(key) if isinstance(thing, Mapping) else None
    return "" if thing is None else str(thing)
