"""NodePrepareResources and NodeUnprepareResources over the real socket, in both versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume, given
from hypothesis import strategies as st

from nvdra.api import ClaimRef
from nvdra.checkpoint import PreparedDevice
from nvdra.kubelet import Failure, Plugin, SocketPaths, answers
from nvdra.kubelet.wire.messages import MessageError
from nvdra.testing.kubelet import DraClient, PluginError, Told, ToldDevice
from tests.proto.dra.v1 import api_pb2 as v1
from tests.proto.dra.v1beta1 import api_pb2 as v1beta1
from tests.unit.kubelet.doors import CoreClient, Driver, claim, device, until

VERSIONS = ["v1.DRAPlugin", "v1beta1.DRAPlugin"]


@pytest.fixture(params=[DraClient, CoreClient])
def spoken(request: pytest.FixtureRequest) -> type[DraClient]:
    """Who asks: our client, or gRPC's."""
    kind: type[DraClient] = request.param
    return kind


@pytest.fixture(params=VERSIONS)
async def client(plugin: Plugin, spoken: type[DraClient], request: pytest.FixtureRequest) -> AsyncIterator[DraClient]:
    client = spoken(plugin.paths.dra, request.param)
    yield client
    await client.close()


async def test_a_device_is_told_with_base_request_names_and_its_share_in_v1_alone(
    client: DraClient, driver: Driver
) -> None:
    driver.script["u1"] = (device("u1", requests=("gpu/small", "gpu", "gpu/large", "other"), share_id="5e1f"),)
    is_v1 = client.version == "v1.DRAPlugin"
    assert await client.prepare([claim("u1")]) == {
        "u1": Told(
            (
                ToldDevice(
                    requests=("gpu", "other"),
                    pool="node-a",
                    device="gpu-0",
                    cdi_ids=("k8s.gpu.nvidia.com/claim=u1-gpu-0",),
                    share_id="5e1f" if is_v1 else None,
                ),
            )
        )
    }


async def test_every_claim_gets_exactly_one_entry_whatever_becomes_of_the_others(
    client: DraClient, driver: Driver
) -> None:
    driver.script = {"bad": Failure("no such device"), "mute": Failure(""), "lost": "missing", "none": ()}
    told = await client.prepare([claim(uid) for uid in ("good", "bad", "mute", "lost", "none", "good")])
    assert {uid: entry.error for uid, entry in told.items()} == {
        "good": "",
        "bad": "no such device",
        "mute": "the driver gave no answer for this claim",
        "lost": "the driver gave no answer for this claim",
        "none": "",
    }
    assert [len(told[uid].devices) for uid in ("good", "bad", "mute", "lost", "none")] == [1, 0, 0, 0, 0]
    assert driver.prepared == [["good", "bad", "mute", "lost", "none"]]


async def test_unprepare_answers_the_same_way(client: DraClient, driver: Driver) -> None:
    driver.script = {"bad": Failure("busy"), "lost": "missing"}
    assert await client.unprepare([claim("good"), claim("bad"), claim("lost"), claim("good")]) == {
        "good": "",
        "bad": "busy",
        "lost": "the driver gave no answer for this claim",
    }
    assert driver.unprepared == [["good", "bad", "lost"]]


async def test_a_call_without_claims_succeeds_and_reaches_nobody(client: DraClient, driver: Driver) -> None:
    assert await client.prepare([]) == {}
    assert await client.unprepare([]) == {}
    assert driver.prepared == []
    assert driver.unprepared == []


async def test_an_unforeseen_error_is_the_claims_and_the_plugin_goes_on(client: DraClient, driver: Driver) -> None:
    driver.script["u1"] = ZeroDivisionError("one bad claim")
    told = await client.prepare([claim("u1"), claim("u2")])
    assert {uid: entry.error for uid, entry in told.items()} == {
        "u1": "internal error: ZeroDivisionError: one bad claim",
        "u2": "internal error: ZeroDivisionError: one bad claim",
    }
    assert (await client.prepare([claim("u2")]))["u2"].error == ""


async def test_the_same_question_gets_the_same_bytes(client: DraClient, driver: Driver) -> None:
    driver.script["u0"] = (device("u0", "gpu-1"), device("u0", "gpu-0"))
    claims = [claim(f"u{i}") for i in range(20)]
    first = await client.prepare_bytes(claims)
    assert await client.prepare_bytes(claims) == first
    assert len(first) > 20 * 36


async def test_work_goes_on_when_kubelet_stops_waiting(plugin: Plugin, driver: Driver, spoken: type[DraClient]) -> None:
    driver.gate = asyncio.Event()
    client = spoken(plugin.paths.dra, deadline_s=0.1)
    with pytest.raises(PluginError, match="DEADLINE_EXCEEDED"):
        await client.prepare([claim("u1")])
    assert driver.finished == []
    driver.gate.set()
    await until(lambda: driver.finished)
    assert driver.finished == ["u1"]
    await client.close()


async def test_calls_are_served_side_by_side(plugin: Plugin, driver: Driver, spoken: type[DraClient]) -> None:
    driver.gate = asyncio.Event()
    client = spoken(plugin.paths.dra)
    calls = [asyncio.create_task(client.prepare([claim(f"u{i}")])) for i in range(40)]
    await until(lambda: len(driver.prepared) == 40)
    driver.gate.set()
    told = await asyncio.gather(*calls)
    assert [list(answer) for answer in told] == [[f"u{i}"] for i in range(40)]
    await client.close()


async def test_what_is_no_message_and_what_is_no_method_is_refused(plugin: Plugin, paths: SocketPaths) -> None:
    async with grpc.aio.insecure_channel(f"unix:{paths.dra}") as channel:
        prepare = channel.unary_unary("/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await prepare(b"\xff\xff\xff", timeout=30)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        other = channel.unary_unary("/k8s.io.kubelet.pkg.apis.dra.v1alpha3.Node/NodePrepareResources")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await other(b"", timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_large_calls_pass(client: DraClient, driver: Driver) -> None:
    claims = [claim(f"u{i}", name="n" * 200, namespace="s" * 60) for i in range(3000)]
    told = await client.prepare(claims)
    assert [uid for uid in told if told[uid].error] == []
    assert len(told) == 3000


names = st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=12)


@given(st.lists(st.tuples(names, names, names), max_size=6))
def test_a_request_says_the_same_to_both_codecs(claims: list[tuple[str, str, str]]) -> None:
    message = v1.NodePrepareResourcesRequest(
        claims=[v1.Claim(namespace=namespace, name=name, uid=uid) for namespace, name, uid in claims]
    )
    refs = [ClaimRef(namespace, name, uid) for namespace, name, uid in claims]
    assert answers.request_for(refs) == message.SerializeToString()
    assert answers.claims_of(message.SerializeToString()) == tuple({ref.uid: ref for ref in refs}.values())


@given(
    st.lists(names, max_size=4, unique=True),
    st.lists(
        st.tuples(
            st.lists(st.tuples(names, st.booleans()), max_size=4), names, names, st.lists(names), names | st.none()
        ),
        max_size=4,
    ),
    st.sampled_from(["v1", "v1beta1"]),
)
def test_an_answer_says_the_same_to_both_codecs(uids: list[str], devices: list[Any], version: Any) -> None:
    answer = tuple(
        PreparedDevice(
            uuid="",
            requests=tuple(f"{base}/sub" if has_sub else base for base, has_sub in requests),
            pool=pool,
            device=device_name,
            cdi_ids=tuple(cdi_ids),
            share_id=share_id,
        )
        for requests, pool, device_name, cdi_ids, share_id in devices
    )
    messages = v1 if version == "v1" else v1beta1
    expected = messages.NodePrepareResourcesResponse()
    for uid in uids:
        entry = expected.claims[uid]
        for requests, pool, device_name, cdi_ids, share_id in devices:
            told = entry.devices.add(
                request_names=dict.fromkeys(base for base, _ in requests),
                pool_name=pool,
                device_name=device_name,
                cdi_device_ids=cdi_ids,
            )
            if version == "v1" and share_id is not None:
                told.share_id = share_id
    refs = [ClaimRef("", "", uid) for uid in uids]
    data = answers.prepared(version, refs, dict.fromkeys(uids, answer))
    assert messages.NodePrepareResourcesResponse.FromString(data) == expected
    assert answers.prepared(version, refs, dict.fromkeys(uids, answer)) == data


@given(st.dictionaries(names, names | st.none(), max_size=4))
def test_an_unprepare_answer_says_the_same_to_both_codecs(errors: dict[str, str | None]) -> None:
    expected = v1.NodeUnprepareResourcesResponse()
    for uid, error in errors.items():
        expected.claims[uid].error = "" if error is None else error or answers.UNANSWERED.error
    refs = [ClaimRef("", "", uid) for uid in errors]
    told = {uid: None if error is None else Failure(error) for uid, error in errors.items()}
    assert v1.NodeUnprepareResourcesResponse.FromString(answers.unprepared(refs, told)) == expected


@given(st.binary(max_size=60))
def test_what_is_no_message_is_an_error_of_its_own(data: bytes) -> None:
    try:
        refs = answers.claims_of(data)
    except MessageError:
        with pytest.raises(DecodeError):
            v1.NodePrepareResourcesRequest.FromString(_strict(data))
        return
    assert all(isinstance(ref, ClaimRef) for ref in refs)


def _strict(data: bytes) -> bytes:
    """Itself: groups, which the library skips and ours refuses, are no part of any message here."""
    assume(not any(byte & 7 in (3, 4) for byte in data))
    return data
