"""Claims as the API server sends them, of every served version."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.api import ClaimError, ClaimRef, OpaqueConfig, Result, decode_claim, decode_status
from tests.twins import claim as twin

STATUS: dict[str, Any] = {
    "allocation": {
        "devices": {
            "results": [
                {
                    "request": "a/b",
                    "driver": "gpu.nvidia.com",
                    "pool": "node-a",
                    "device": "gpu-0",
                    "adminAccess": True,
                },
                {"request": "c", "driver": "other.com", "pool": "p", "device": "x", "shareID": "s-1"},
            ],
            "config": [
                {"source": "FromClass", "opaque": {"driver": "gpu.nvidia.com", "parameters": {"kind": "GpuConfig"}}},
                {"source": "FromClaim", "requests": ["a"]},
            ],
        }
    },
    "reservedFor": [{"resource": "pods", "name": "p", "uid": "u1"}],
}


def body(status: Any, version: str = "v1", **metadata: str) -> bytes:
    claim = {
        "kind": "ResourceClaim",
        "apiVersion": f"resource.k8s.io/{version}",
        "metadata": {"namespace": "ns", "name": "c", "uid": "u"} | metadata,
        "spec": {"devices": {}},
        "status": status,
    }
    return json.dumps(claim, ensure_ascii=False).encode()


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
def test_what_a_claim_was_given(version: str) -> None:
    claim = decode_claim(body(STATUS, version))
    assert claim.ref == ClaimRef("ns", "c", "u")
    assert claim.results == (
        Result("a/b", "gpu.nvidia.com", "node-a", "gpu-0", admin_access=True),
        Result("c", "other.com", "p", "x", share_id="s-1"),
    )
    assert claim.configs == (
        OpaqueConfig("FromClass", (), "gpu.nvidia.com", b'{"kind": "GpuConfig"}'),
        OpaqueConfig("FromClaim", ("a",), None, b"null"),
    )
    assert decode_status(claim.status) == (
        claim.results,
        (OpaqueConfig("FromClass", (), "gpu.nvidia.com", b'{"kind":"GpuConfig"}'), claim.configs[1]),
    )


def test_parameters_are_the_bytes_that_were_sent() -> None:
    """Duplicate keys, long numbers and their order are for the strict decoder to judge."""
    parameters = '{ "b": 1.50, "a": 1e400, "a": "\\u003c" }'
    text = body(
        {"allocation": {"devices": {"config": [{"source": "FromClaim", "opaque": {"driver": "d", "parameters": "@"}}]}}}
    )
    claim = decode_claim(text.replace(b'"@"', f"  {parameters}\n".encode()))
    assert claim.configs[0].parameters == parameters.encode()
    assert b'"parameters":{"b":1.50,"a":1e400,"a":"\\u003c"}' in claim.status


@pytest.mark.parametrize("status", [None, {}, {"allocation": None}, {"reservedFor": []}])
def test_a_claim_without_devices_is_unallocated(status: Any) -> None:
    with pytest.raises(ClaimError, match=r"^claim ns/c not allocated$") as caught:
        decode_claim(body(status))
    assert caught.value.kind == "unallocated"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the text ends at byte 0"),
        (b"{", "the text ends at byte 1"),
        (b"[]", "not a ResourceClaim: the body is a list"),
        (b'{"kind":"Status"}', 'not a ResourceClaim: kind "Status"'),
        (b'{"kind":1}', "not a ResourceClaim"),
        (b"{}", "metadata.namespace is missing"),
        (body(STATUS, uid=""), "metadata.uid is missing"),
        (body({"allocation": []}), "claim ns/c: status.allocation: an object was expected, found a list"),
        (body({"allocation": {"devices": {"results": [1]}}}), r"status.allocation.devices.results\[0\]: an object"),
        (body({"allocation": {"devices": {"config": [{"requests": [1]}]}}}), r"config\[0\].requests\[0\]: a string"),
        (body({"allocation": {"devices": {"results": [{"adminAccess": "x"}]}}}), r"adminAccess: a boolean"),
        (body({"allocation": {"allocationTimestamp": "today"}}), 'allocationTimestamp: "today" is no RFC 3339 time'),
        (body({"allocation": {"devices": {"results": [{"consumedCapacity": {"m": "x"}}]}}}), '"x" is no quantity'),
        (b"\xff", "at byte 0: a value was expected"),
    ],
)
def test_what_is_no_claim_is_malformed(content: bytes, text: str) -> None:
    with pytest.raises(ClaimError, match=text) as caught:
        decode_claim(content)
    assert caught.value.kind == "malformed"


words = st.text(st.characters(codec="utf-8"), max_size=6)
texts = st.lists(words, max_size=2)
maybe = st.none()


def some(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of these members, unknown ones among them."""
    return st.fixed_dictionaries(
        {}, optional={key: maybe | member for key, member in (members | {"later": words}).items()}
    )


tolerations = some(key=words, operator=words, value=words, effect=words, tolerationSeconds=st.integers(0, 9))
results = some(
    request=words,
    driver=words,
    pool=words,
    device=words,
    adminAccess=st.booleans(),
    shareID=words,
    tolerations=st.lists(tolerations, max_size=2),
    bindingConditions=texts,
    bindingFailureConditions=texts,
)
parameters = st.recursive(
    maybe | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
configs = some(source=words, requests=texts, opaque=some(driver=words, parameters=parameters))
requirements = st.lists(some(key=words, operator=words, values=texts), max_size=2)
terms = st.lists(some(matchExpressions=requirements, matchFields=requirements), max_size=2)
offsets = st.integers(-720, 840).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(1000, 1, 1), datetime(9000, 1, 1), timezones=offsets)
allocations = some(
    devices=some(results=st.lists(results, max_size=2), config=st.lists(configs, max_size=2)),
    nodeSelector=some(nodeSelectorTerms=terms),
    allocationTimestamp=moments.map(datetime.isoformat),
)
consumers = some(apiGroup=words, resource=words, name=words, uid=words)
statuses = st.fixed_dictionaries({"allocation": allocations}, optional={"reservedFor": st.lists(consumers, max_size=2)})


@given(statuses)
def test_a_status_is_projected_as_the_twin_does(status: dict[str, Any]) -> None:
    claim = decode_claim(body(status))
    assert claim.status == twin.status(status)
    assert decode_claim(body(json.loads(claim.status))).status == claim.status
    sent = (status["allocation"].get("devices") or {}).get("results") or []
    assert [result.device for result in claim.results] == [result.get("device") or "" for result in sent]


ODD = [
    rb'{"a":"\ud800"}',
    b'{"a":"\xff\xfe\xe2\x82"}',
    *(b"[" * depth + b"]" * depth for depth in (190, 193, 990, 1_030, 9_800)),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_the_config_of_another_driver_may_hold_anything(odd: bytes) -> None:
    opaque = {"source": "FromClaim", "opaque": {"driver": "other.example.com", "parameters": "ODD"}}
    status = {"allocation": {"devices": {"results": STATUS["allocation"]["devices"]["results"], "config": [opaque]}}}
    claim = decode_claim(body(status).replace(b'"ODD"', odd))
    results, configs = decode_status(claim.status)
    assert (results, configs) == (claim.results, claim.configs)
    assert configs[0].parameters == bytes(byte if byte < 128 else ord("?") for byte in odd)


def test_a_claim_nested_deeper_than_a_checkpoint_may_be_is_refused_by_its_name() -> None:
    deep = body(STATUS).replace(b'"node-a"', b"[" * 9_901 + b"]" * 9_901)
    with pytest.raises(ClaimError, match="nested too deep") as caught:
        decode_claim(deep)
    assert caught.value.ref == ClaimRef("ns", "c", "u")


@pytest.mark.parametrize("status", [[], 5, "x", True])
def test_a_status_that_is_no_object_is_no_answer_about_the_claim(status: object) -> None:
    text = json.dumps(
        {"kind": "ResourceClaim", "metadata": {"namespace": "n", "name": "c", "uid": "u"}, "status": status}
    )
    with pytest.raises(ClaimError) as refused:
        decode_claim(text.encode())
    assert refused.value.kind == "malformed"


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+00:01"])
def test_a_time_that_has_no_utc_form_is_refused_before_it_is_stored(time: str) -> None:
    allocation = {"devices": {"results": []}, "allocationTimestamp": time}
    text = json.dumps({"metadata": {"namespace": "n", "name": "c", "uid": "u"}, "status": {"allocation": allocation}})
    with pytest.raises(ClaimError) as refused:
        decode_claim(text.encode())
    assert refused.value.kind == "malformed"
