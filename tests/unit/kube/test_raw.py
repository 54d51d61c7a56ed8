"""JSON cut into pieces without being rewritten."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.kube import items, members

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON), st.sampled_from([None, 1]), st.booleans())
def test_the_pieces_are_the_members(thing: dict[str, Any], indent: int | None, ascii: bool) -> None:
    document = json.dumps(thing, indent=indent, ensure_ascii=ascii).encode()
    pieces = members(document)
    assert {name: json.loads(raw) for name, raw in pieces.items()} == thing
    assert all(raw in document for raw in pieces.values())


@given(st.lists(JSON), st.sampled_from([None, 1]))
def test_the_pieces_are_the_items(things: list[Any], indent: int | None) -> None:
    document = json.dumps({"kind": "List", "metadata": {"items": [1]}, "items": things}, indent=indent).encode()
    assert [json.loads(raw) for raw in items(document)] == things


def test_notation_and_doubled_keys_stay() -> None:
    document = b'{"items": [ {"n":1.50e0, "twice":1,"twice" : 2} ,{}]}'
    assert items(document) == (b'{"n":1.50e0, "twice":1,"twice" : 2}', b"{}")
    assert members(b'{"a":1,"a":2}') == {"a": b"2"}


@pytest.mark.parametrize(
    "odd", [rb'"\ud800"', b'"\xff\xfe"', b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000]
)
def test_what_is_not_read_does_not_matter(odd: bytes) -> None:
    assert members(b'{"a":%s,"b":2}' % odd) == {"a": odd, "b": b"2"}
    assert items(b'{"items":[1,%s,{"b":%s}]}' % (odd, odd)) == (b"1", odd, b'{"b":%s}' % odd)


@pytest.mark.parametrize("document", [b'{"items":null}', b"{}", b'{"items":[]}'])
def test_no_items_are_none(document: bytes) -> None:
    assert items(document) == ()


@pytest.mark.parametrize("document", [b"", b"[]", b"1", b'{"a"}', b'{"a":1', b'{"a":1;"b":2}', b"{1:2}", b'{"a":}'])
def test_what_is_no_object_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        members(document)
