"""Server-side apply and JSON merge patch on decoded objects: who set which field, and what becomes of it.

A field is a path of keys. An item of a keyed list is one step of a path, the pairs of its keys; a list without keys is
one value. Source: the API conventions of Kubernetes, and the merge keys in its types and in the chart's CRDs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Item = tuple[tuple[str, Any], ...]
Path = tuple[str | Item, ...]

# By plural ("" for any) and path without items. Keys that an item lacks are None.
_KEYS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("", "metadata", "ownerReferences"): ("uid",),
    ("", "status", "conditions"): ("type",),
    ("resourceclaims", "status", "devices"): ("driver", "device", "pool", "shareID"),
    ("resourceclaims", "status", "devices", "conditions"): ("type",),
    ("computedomains", "status", "nodes"): ("name",),
    ("computedomaincliques", "daemons"): ("nodeName",),
}
_WHOLE = {("resourceclaims", "status", "devices", "data")}
_NOT_OWNED: set[Path] = {
    *(("apiVersion",), ("kind",)),
    *(("metadata", key) for key in ("name", "namespace", "uid", "resourceVersion", "generation")),
    *(("metadata", key) for key in ("creationTimestamp", "deletionTimestamp")),
}


def merged(old: Any, patch: Any) -> Any:
    """`old` with the merge patch applied, as RFC 7386 has it."""
    if not isinstance(patch, dict):
        return patch
    made = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), value)
    return made


def fields(plural: str, thing: Mapping[str, Any]) -> dict[Path, Any]:
    """Each field that a manager can own, with its value; an item of a keyed list is a field of its own, too."""
    return {path: value for path, value in _walk(plural, (), thing) if path not in _NOT_OWNED}


def changed(plural: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> set[Path]:
    """The fields that differ."""
    absent = object()
    one, other = fields(plural, before), fields(plural, after)
    return {path for path in one.keys() | other.keys() if one.get(path, absent) != other.get(path, absent)}


def applied(plural: str, live: Any, body: Any, left: set[Path]) -> Any:
    """`live` with the fields of `body` put in and the fields `left` taken out."""
    return _merge(plural, (), _without(plural, (), live, left), body)


def text(path: Path) -> str:
    """A path as a conflict names it: .status.devices[device="gpu-0"].data"""
    return "".join(
        f".{step}" if isinstance(step, str) else f"[{','.join(f'{key}={value!r}' for key, value in step)}]"
        for step in path
    )


def _keys(plural: str, path: Path) -> tuple[str, ...]:
    names = tuple(step for step in path if isinstance(step, str))
    return _KEYS.get((plural, *names)) or _KEYS.get(("", *names)) or ()


def _is_whole(plural: str, path: Path) -> bool:
    return (plural, *(step for step in path if isinstance(step, str))) in _WHOLE


def _item(keys: tuple[str, ...], thing: Any) -> Item:
    return tuple((key, thing.get(key)) for key in keys)


def _walk(plural: str, path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping) and value and not _is_whole(plural, path):
        for key, each in value.items():
            yield from _walk(plural, (*path, key), each)
    elif isinstance(value, list) and (keys := _keys(plural, path)):
        for each in value:
            inner = (*path, _item(keys, each))
            yield inner, None
            yield from _walk(plural, inner, each)
    else:
        yield path, value


def _merge(plural: str, path: Path, live: Any, body: Any) -> Any:
    if isinstance(body, Mapping) and isinstance(live, Mapping) and not _is_whole(plural, path):
        return {**live, **{key: _merge(plural, (*path, key), live.get(key), each) for key, each in body.items()}}
    if isinstance(body, list) and isinstance(live, list) and (keys := _keys(plural, path)):
        found = {_item(keys, each): each for each in live}
        for each in body:
            item = _item(keys, each)
            found[item] = _merge(plural, (*path, item), found.get(item), each)
        return list(found.values())
    return body


def _without(plural: str, path: Path, value: Any, left: set[Path]) -> Any:
    if isinstance(value, Mapping) and not _is_whole(plural, path):
        kept = {key: each for key, each in value.items() if (*path, key) not in left}
        return {key: _without(plural, (*path, key), each, left) for key, each in kept.items()}
    if isinstance(value, list) and (keys := _keys(plural, path)):
        inner = [((*path, _item(keys, each)), each) for each in value]
        return [_without(plural, at, each, left) for at, each in inner if at not in left]
    return value
