"""NodePrepareResources and NodeUnprepareResources over the real socket, in both versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.api import ClaimRef
from nvdra.kubelet import Failure, Plugin, SocketPaths, answers
from nvdra.kubelet.proto.dra.v1 import api_pb2 as v1
from nvdra.testing.kubelet import AnsweredDevice, ClaimAnswer, DraClient, PluginError
from tests.unit.kubelet.doors import Driver, claim, device, until

VERSIONS = ["v1.DRAPlugin", "v1beta1.DRAPlugin"]


@pytest.fixture(params=VERSIONS)
async def client(plugin: Plugin, request: pytest.FixtureRequest) -> AsyncIterator[DraClient]:
    client = DraClient(plugin.paths.dra, request.param)
    yield client
    await client.close()


async def test_a_device_is_told_with_base_request_names_and_its_share_in_v1_alone(
    client: DraClient, driver: Driver
) -> None:
    driver.script["u1"] = (device("u1", requests=("gpu/small", "gpu", "gpu/large", "other"), share_id="5e1f"),)
    version_1 = client.package == "v1"
    assert await client.prepare([claim("u1")]) == {
        "u1": ClaimAnswer(
            (
                AnsweredDevice(
                    requests=("gpu", "other"),
                    pool="node-a",
                    device="gpu-0",
                    cdi_ids=("k8s.gpu.nvidia.com/claim=u1-gpu-0",),
                    share_id="5e1f" if version_1 else None,
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


async def test_work_goes_on_when_kubelet_stops_waiting(plugin: Plugin, driver: Driver) -> None:
    driver.gate = asyncio.Event()
    client = DraClient(plugin.paths.dra, deadline_s=0.1)
    with pytest.raises(PluginError, match="DEADLINE_EXCEEDED"):
        await client.prepare([claim("u1")])
    assert driver.finished == []
    driver.gate.set()
    await until(lambda: driver.finished)
    assert driver.finished == ["u1"]
    await client.close()


async def test_calls_are_served_side_by_side(plugin: Plugin, driver: Driver) -> None:
    driver.gate = asyncio.Event()
    client = DraClient(plugin.paths.dra)
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


@given(
    st.lists(st.tuples(names, names, names), max_size=6),
    st.lists(st.tuples(st.lists(st.tuples(names, st.booleans()), max_size=4), names, names, names), max_size=4),
)
def test_claims_and_devices_survive_the_wire(
    claims: list[tuple[str, str, str]], devices: list[tuple[list[tuple[str, bool]], str, str, str]]
) -> None:
    request = v1.NodePrepareResourcesRequest(
        claims=[v1.Claim(namespace=namespace, name=name, uid=uid) for namespace, name, uid in claims]
    ).SerializeToString()
    refs = answers.claims_of(request)
    last = {uid: ClaimRef(namespace, name, uid) for namespace, name, uid in claims}
    assert refs == tuple(last.values())

    answer = tuple(
        device(name, name, tuple(f"{base}/sub" if has_sub else base for base, has_sub in requests), share_id=share)
        for requests, _, name, share in devices
    )
    told = v1.NodePrepareResourcesResponse.FromString(answers.prepared("v1", refs, {ref.uid: answer for ref in refs}))
    assert set(told.claims) == set(last)
    for entry in told.claims.values():
        assert entry.error == ""
        assert [tuple(d.request_names) for d in entry.devices] == [
            tuple(dict.fromkeys(base for base, _ in requests)) for requests, *_ in devices
        ]
        assert [d.share_id for d in entry.devices] == [share for *_, share in devices]
