"""Metadata of API objects, read leniently: what cannot be read is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Meta:
    """The metadata that decisions are made on.

    created      as the API server writes it, so that texts compare like times
    is_deleting  the object has a deletionTimestamp
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    created: str = ""
    is_deleting: bool = False
    finalizers: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """`<namespace>/<name>`, or the name of an object without namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def meta_of(thing: Mapping[str, Any]) -> Meta:
    """The metadata of a decoded object."""
    metadata = mapping(thing, "metadata")
    labels = {key: value for key, value in mapping(metadata, "labels").items() if isinstance(value, str)}
    return Meta(
        text(metadata, "name"),
        text(metadata, "namespace"),
        text(metadata, "uid"),
        text(metadata, "resourceVersion"),
        text(metadata, "creationTimestamp"),
        bool(metadata.get("deletionTimestamp")),
        tuple(each for each in items(metadata, "finalizers") if isinstance(each, str)),
        labels,
    )


def mapping(thing: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in an object; empty if absent."""
    found = thing.get(key)
    return found if isinstance(found, Mapping) else {}


def items(thing: Mapping[str, Any], key: str) -> list[Any]:
    """A list in an object; empty if absent."""
    found = thing.get(key)
    return found if isinstance(found, list) else []


def objects(thing: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects of a list in an object."""
    return [each for each in items(thing, key) if isinstance(each, Mapping)]


def text(thing: Mapping[str, Any], key: str) -> str:
    """A text in an object; "" if absent."""
    found = thing.get(key)
    return found if isinstance(found, str) else ""


def whole(thing: Mapping[str, Any], key: str, default: int = 0) -> int:
    """An integer in an object."""
    found = thing.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else default
