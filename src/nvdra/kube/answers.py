"""Reads the API server's answers. Everything that is not a proper answer raises ApiError and no other error.

Load balancers, proxies and aggregators between a node and the API server may answer in its place, in their own formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from nvdra.kube.connection import Answer
from nvdra.kube.raw import members, parted
from nvdra.kube.retry_after import bounded, retry_after_s
from nvdra.ports import ApiError, Event

_EVENTS = {b"ADDED", b"MODIFIED", b"DELETED", b"BOOKMARK"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """One answer to a LIST: raw items, the list's resourceVersion, and where the next chunk begins ("" at the end)."""

    items: tuple[bytes, ...]
    resource_version: str
    more: str


def document(body: bytes) -> dict[str, Any]:
    """The object that an answer holds. Raises ApiError."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _odd(f"is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _odd("is not a JSON object")
    return found


def chunk(body: bytes, plural: str) -> Chunk:
    """An answer to a LIST; its items are not read. Raises ApiError for anything but a list of this kind."""
    try:
        others, items = parted(body)
    except ValueError as error:
        raise _odd(f"is not JSON: {error}") from None
    metadata = document(others.get("metadata", b"null"))
    version, more = metadata.get("resourceVersion"), metadata.get("continue") or ""
    kind = others.get("kind", b"").strip(b'"').decode(errors="replace")
    is_list = _is_list_of(kind, plural) and isinstance(version, str) and isinstance(more, str)
    if items is None or not is_list:
        raise _odd(f"to a LIST of {plural} is no such list (kind {kind[:40] or 'absent'})")
    return Chunk(items, str(version), str(more))


def _is_list_of(kind: str, plural: str) -> bool:
    """Whether "ResourceClaimList" is a list of "resourceclaims"."""
    name = kind.removesuffix("List").lower()
    return kind.endswith("List") and plural in (name, f"{name}s", f"{name}es", f"{name[:-1]}ies")


def event(line: bytes) -> Event:
    """One line of a watch. Raises ApiError, also for an ERROR event."""
    try:
        parts = members(line)
    except ValueError as error:
        raise _odd(f"to a watch is not JSON: {error}") from None
    kind, thing = parts.get("type", b"").strip(b'"'), parts.get("object", b"null")
    if kind == b"ERROR":
        status = document(thing)
        code = status.get("code")
        raise _from_status(code if isinstance(code, int) and 400 <= code < 600 else 0, status, None)
    if kind not in _EVENTS or not thing.startswith(b"{"):
        raise _odd(f"to a watch is an event of type {kind.decode(errors='replace')[:40] or 'none'} without an object")
    return Event(kind.decode(), thing)  # type: ignore[arg-type]


def versions(body: bytes) -> tuple[str, ...]:
    """The versions in an APIGroup, the preferred one first. Raises ApiError."""
    group = document(body)
    listed = group.get("versions")
    if group.get("kind") != "APIGroup" or not isinstance(listed, list):
        raise _odd("is no APIGroup")
    served = [name for each in listed if isinstance(each, dict) and isinstance(name := each.get("version"), str)]
    preferred = group.get("preferredVersion")
    first = preferred.get("version") if isinstance(preferred, dict) else None
    return tuple(sorted(served, key=lambda version: version != first))


def refusal(answer: Answer) -> ApiError:
    """The error of an answer whose status is not a success."""
    status, body, wait_s = answer.status, answer.body, retry_after_s(answer.retry_after)
    try:
        found = document(body)
    except ApiError:
        found = {}
    if found.get("kind") != "Status":
        # Not a Status object: an unknown path, or a program between this one and the API server.
        text = body.decode(errors="replace").strip()[:200] or "no text"
        return ApiError(status, "", f"HTTP {status}: {text}", wait_s)
    return _from_status(status, found, wait_s)


def _from_status(code: int, status: Mapping[str, Any], wait_s: float | None) -> ApiError:
    said = status.get("details")
    details: Mapping[str, Any] = said if isinstance(said, dict) else {}
    seconds = details.get("retryAfterSeconds")
    if wait_s is None and isinstance(seconds, int) and seconds > 0:
        wait_s = bounded(float(min(seconds, 10**9)))
    about = (_text(details, "kind"), _text(details, "name"))
    message = _text(status, "message") or f"HTTP {code}"
    return ApiError(code, _text(status, "reason"), message, wait_s, about=about)


def _text(thing: Mapping[str, Any], key: str) -> str:
    found = thing.get(key)
    return found if isinstance(found, str) else ""


def _odd(what: str) -> ApiError:
    return ApiError(0, "", f"the API server's answer {what}")
