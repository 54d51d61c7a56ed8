"""A claim's status as the checkpoint keeps it, in plain Python: Go's structs as small functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from tests.twins.checkpoint import text

Write = Callable[[Any], str]


def _object(members: Iterable[tuple[str, str | None]]) -> str:
    return "{" + ",".join(f"{text(key)}:{value}" for key, value in members if value is not None) + "}"


def _list(item: Write) -> Write:
    return lambda items: "[" + ",".join(item(one) for one in items) + "]"


def _if(read: dict[str, Any], key: str, write: Write = text) -> tuple[str, str | None]:
    """A pointer: written if it is there."""
    value = read.get(key)
    return key, None if value is None else write(value)


def _full(read: dict[str, Any], key: str, write: Write = text) -> tuple[str, str | None]:
    """`omitempty`: written if it is there and not empty."""
    value = read.get(key)
    return key, write(value) if value else None


def _word(read: dict[str, Any], key: str) -> tuple[str, str]:
    return key, text(read.get(key) or "")


def _time(value: str) -> str:
    moment = datetime.fromisoformat(value).astimezone(UTC)
    return text(moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


def _result(read: dict[str, Any]) -> str:
    return _object(
        [
            *(_word(read, key) for key in ("request", "driver", "pool", "device")),
            _if(read, "adminAccess"),
            _full(read, "tolerations", _list(_toleration)),
            _full(read, "bindingConditions"),
            _full(read, "bindingFailureConditions"),
            _if(read, "shareID"),
        ]
    )


def _toleration(read: dict[str, Any]) -> str:
    words = [_full(read, key) for key in ("key", "operator", "value", "effect")]
    return _object([*words, _if(read, "tolerationSeconds")])


def _config(read: dict[str, Any]) -> str:
    def opaque(value: dict[str, Any]) -> str:
        return _object([_word(value, "driver"), ("parameters", text(value.get("parameters")))])

    return _object([_word(read, "source"), _full(read, "requests"), _if(read, "opaque", opaque)])


def _requirement(read: dict[str, Any]) -> str:
    return _object([_word(read, "key"), _word(read, "operator"), _full(read, "values")])


def _selector(read: dict[str, Any]) -> str:
    def term(value: dict[str, Any]) -> str:
        requirements = _list(_requirement)
        return _object([_full(value, key, requirements) for key in ("matchExpressions", "matchFields")])

    terms = read.get("nodeSelectorTerms")
    return _object([("nodeSelectorTerms", "null" if terms is None else _list(term)(terms))])


def _allocation(read: dict[str, Any]) -> str:
    devices = read.get("devices") or {}
    inner = _object([_full(devices, "results", _list(_result)), _full(devices, "config", _list(_config))])
    return _object([("devices", inner), _if(read, "nodeSelector", _selector), _if(read, "allocationTimestamp", _time)])


def _consumer(read: dict[str, Any]) -> str:
    return _object([_full(read, "apiGroup"), *(_word(read, key) for key in ("resource", "name", "uid"))])


def status(read: dict[str, Any]) -> bytes:
    """The projection of `status`, device statuses aside."""
    members = [_if(read, "allocation", _allocation), _full(read, "reservedFor", _list(_consumer))]
    return _object(members).encode()
