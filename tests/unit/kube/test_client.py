"""HttpKube beyond the port's contract: TLS, tokens, warm connections, the queue, odd answers."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from nvdra.kube import Access, HttpKube, Response, access, answers, connections
from nvdra.kube.connection import Answer
from nvdra.kube.credentials import TokenFile
from nvdra.kube.retry_after import CAP_S, FLOOR_S, retry_after_s
from nvdra.ports import ApiError, Resource
from nvdra.testing.api_server import ApiServer
from nvdra.testing.kube import FakeKube

TLS = Path(__file__).parents[2] / "contract" / "tls"
WORDS = ("kind", "metadata", "items", "type", "object", "code", "details", "message", "name", "versions", "version")
NODES = Resource("", "v1", "nodes", namespaced=False)
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", namespaced=True)


@pytest.fixture
def server() -> ApiServer:
    return ApiServer(FakeKube())


def server_context(*, asks_for_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.crt", TLS / "server.key")
    if asks_for_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(TLS / "ca.crt")
    return context


def kubeconfig(folder: Path, url: str, user: dict[str, Any], cluster: dict[str, Any]) -> Access:
    path = folder / "kubeconfig"
    document = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "x", "user": user}],
    }
    path.write_text(json.dumps(document))
    return access(str(path), {})


async def test_tls_with_a_client_certificate(server: ApiServer, tmp_path: Path) -> None:
    user = {"client-certificate": str(TLS / "client.crt"), "client-key": str(TLS / "client.key")}
    async with server.serving(tls=server_context(asks_for_certificate=True)) as url:
        reach = kubeconfig(tmp_path, url, user, {"certificate-authority": str(TLS / "ca.crt")})
        async with HttpKube(reach) as kube:
            assert await kube.server_version() == "v1.37.2"


@pytest.mark.parametrize(
    ("cluster", "is_trusted"),
    [
        ({"certificate-authority": str(TLS / "ca.crt"), "tls-server-name": "api.test"}, True),
        ({"certificate-authority": str(TLS / "ca.crt"), "tls-server-name": "other.test"}, False),
        ({"certificate-authority": str(TLS / "client.crt")}, False),
        ({}, False),
        ({"insecure-skip-tls-verify": True}, True),
    ],
)
async def test_a_server_is_trusted_by_its_authority_and_name(
    cluster: dict[str, Any], is_trusted: bool, server: ApiServer, tmp_path: Path
) -> None:
    async with server.serving(tls=server_context()) as url, HttpKube(kubeconfig(tmp_path, url, {}, cluster)) as kube:
        if is_trusted:
            assert await kube.server_version() == "v1.37.2"
            return
        with pytest.raises(ApiError, match="no trusted connection") as caught:
            await kube.server_version()
        assert caught.value.status == 0
        assert url in caught.value.message


@pytest.mark.parametrize(("refused", "resumed"), [(False, 3), (True, 0)])
async def test_new_connections_resume_the_tls_session_until_its_identity_is_refused(
    server: ApiServer, tmp_path: Path, refused: bool, resumed: int
) -> None:
    tls = server_context()
    async with server.serving(tls=tls) as url:
        asker = kubeconfig(tmp_path, url, {"token": "t"}, {"certificate-authority": str(TLS / "ca.crt")})
        async with HttpKube(asker) as kube:
            await kube.server_version()
            if refused:
                server.token = "another"
                with pytest.raises(ApiError, match="Unauthorized"):
                    await kube.server_version()
                server.token = ""
            await server.kube.create(CLAIMS, b'{"metadata":{"name":"a"},"spec":{}}', "default")
            server.kube.delay_s = 0.3
            await asyncio.gather(*(kube.get(CLAIMS, "a", "default") for _ in range(4)))
    assert len(server.connections) == 4
    assert tls.session_stats()["hits"] == resumed


async def test_an_authority_that_was_replaced_is_trusted_from_the_next_call_on(
    server: ApiServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_bytes((TLS / "client.crt").read_bytes())
    async with server.serving(tls=server_context()) as url:
        host, port = url.removeprefix("https://").split(":")
        inside = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        async with HttpKube(access("", inside, str(tmp_path))) as kube:
            for _ in range(2):
                with pytest.raises(ApiError, match="no trusted connection"):
                    await kube.server_version()
            (tmp_path / "ca.crt").write_bytes((TLS / "ca.crt").read_bytes())
            with pytest.raises(ApiError, match="no trusted connection"):
                await kube.server_version()
            assert await kube.server_version() == "v1.37.2"


async def test_a_refused_token_is_read_again_once(server: ApiServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    server.token = "old"
    async with server.serving() as url, HttpKube(Access(url, credentials=TokenFile(str(file)))) as kube:
        await kube.server_version()
        server.token = "new"
        with pytest.raises(ApiError) as caught:
            await kube.server_version()
        assert (caught.value.status, caught.value.reason) == (401, "Unauthorized")
        file.write_text("new")
        requests = server.requests
        assert await kube.server_version() == "v1.37.2"
        assert server.requests == requests + 2
        server.token = "newer"
        file.write_text("newer")
        with pytest.raises(ApiError, match="Unauthorized"):
            await anext(kube.watch(NODES, resource_version="1"))
        events = kube.watch(NODES, resource_version="1")  # the next one bears the new token
        first = asyncio.ensure_future(anext(events))
        await kube.create(NODES, b'{"metadata":{"name":"a"}}')
        assert (await asyncio.wait_for(first, 10)).type == "ADDED"
        await events.aclose()  # type: ignore[attr-defined]


async def test_an_idle_connection_is_kept_warm_and_counted_apart(server: ApiServer) -> None:
    seen: list[Response] = []
    enough = asyncio.Event()

    def note(response: Response) -> None:
        seen.append(response)
        if sum(each.keeps_warm for each in seen) == 3:
            enough.set()

    async with server.serving() as url, HttpKube(Access(url), warm_every_s=0.01, on_response=note) as kube:
        await kube.server_version()
        async with asyncio.timeout(10):
            await enough.wait()
        await kube.server_version()
        assert len(server.connections) == 1
    assert not seen[0].keeps_warm
    assert {(each.verb, each.url, each.status) for each in seen} == {("GET", f"{url}/version", 200)}


async def test_a_busy_connection_is_not_asked_to_be_warm(server: ApiServer) -> None:
    seen: list[Response] = []
    async with server.serving() as url, HttpKube(Access(url), on_response=seen.append) as kube:
        for _ in range(50):
            await kube.server_version()
        assert len(server.connections) == 1
    assert not any(each.keeps_warm for each in seen)


async def test_warmth_outlives_an_absent_server(server: ApiServer) -> None:
    failed, back = asyncio.Event(), asyncio.Event()

    def note(response: Response) -> None:
        (back if response.status else failed).set()

    async with server.serving() as url, HttpKube(Access(url), warm_every_s=0.01, on_response=note):
        server.kube.go_away()
        async with asyncio.timeout(10):
            await failed.wait()
            server.kube.heal()
            back.clear()
            await back.wait()


async def test_gets_of_claims_never_wait_in_the_queue(server: ApiServer) -> None:
    await server.kube.create(CLAIMS, b'{"metadata":{"name":"a"},"spec":{}}', "default")
    await server.kube.create(NODES, b'{"metadata":{"name":"a"}}')
    async with server.serving() as url, HttpKube(Access(url), qps=0.001, burst=1) as kube:
        await kube.get(NODES, "a")
        waiting = asyncio.create_task(kube.get(NODES, "a"))
        for _ in range(20):
            await kube.get(CLAIMS, "a", "default")
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_get_told_to_come_again_does_so_within_its_time(server: ApiServer) -> None:
    await server.kube.create(CLAIMS, b'{"metadata":{"name":"a"},"spec":{}}', "default")
    async with server.serving() as url, HttpKube(Access(url)) as kube:
        server.kube.fail(429, verb="get", retry_after_s=0, times=2)
        assert await kube.get(CLAIMS, "a", "default", timeout_s=5)
        server.kube.fail(429, verb="get", retry_after_s=60)
        with pytest.raises(ApiError) as caught:
            await kube.get(CLAIMS, "a", "default", timeout_s=5)
        assert caught.value.retry_after_s == 60
        assert server.kube.calls["get", "resourceclaims"] == 4


async def test_gets_of_claims_wait_in_the_queue_once_the_server_asks_for_fewer_calls(server: ApiServer) -> None:
    await server.kube.create(CLAIMS, b'{"metadata":{"name":"a"},"spec":{}}', "default")
    async with server.serving() as url, HttpKube(Access(url), qps=0.001, burst=1) as kube:
        await kube.server_version()
        assert await kube.get(CLAIMS, "a", "default")
        server.kube.fail(429, verb="get", retry_after_s=0)
        with pytest.raises(ApiError, match="asked for fewer calls"):
            await kube.get(CLAIMS, "a", "default", timeout_s=0.5)
        assert server.kube.calls["get", "resourceclaims"] == 2


@pytest.mark.parametrize(
    "header", ["0", "-1", "nan", "inf", "1e10", "0.001", "9" * 5000, "Thu, 01 Jan 1970 00:00:00 GMT"]
)
async def test_whatever_retry_after_says_a_server_is_asked_seldom_and_again(header: str) -> None:
    asked = 0

    async def answer(_: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=429, headers={"Retry-After": header})

    async with odd(answer) as kube:
        with pytest.raises(ApiError) as caught:
            await kube.get(CLAIMS, "a", "default", timeout_s=1)
    assert 1 <= asked <= 5
    assert caught.value.retry_after_s is None or 0.25 <= caught.value.retry_after_s <= 60


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("0", FLOOR_S),
        ("3600", CAP_S),
        ("9" * 5000, CAP_S),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("nan", None),
        ("inf", None),
        ("1e10", None),
        ("soon", None),
        ("²", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", FLOOR_S),
        ("Sunday, 06-Nov-94 08:49:37 GMT", FLOOR_S),
        ("Sun Nov  6 08:49:37 1994", FLOOR_S),
        ("Fri, 31 Dec 9999 23:59:59 GMT", CAP_S),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_between_a_floor_and_a_cap(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


@asynccontextmanager
async def odd(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[HttpKube]:
    """A client of a server that answers like this."""
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with HttpKube(Access(f"http://127.0.0.1:{runner.addresses[0][1]}")) as kube:
            yield kube
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (200, b"", "not JSON"),
        (200, b"<html>", "not JSON"),
        (200, b"[]", "not a JSON object"),
        (502, b"<html>bad gateway</html>", "HTTP 502: <html>bad gateway</html>"),
        (500, b"", "HTTP 500: no text"),
        (302, b"", "HTTP 302"),
        (403, b'{"kind":"Status","message":"forbidden: no","reason":"Forbidden","code":403}', "forbidden: no"),
        (500, b'{"kind":"Status"}', "HTTP 500"),
    ],
)
async def test_odd_answers_are_errors_with_a_text(status: int, body: bytes, text: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "/elsewhere"} if status == 302 else {})

    async with odd(answer) as kube:
        with pytest.raises(ApiError, match=text) as caught:
            await kube.server_version()
        assert caught.value.status == (0 if status == 200 else status)


async def test_what_a_server_says_in_its_body_counts_as_retry_after() -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        body = b'{"kind":"Status","code":429,"reason":"TooManyRequests","details":{"retryAfterSeconds":3}}'
        return web.Response(status=429, body=body)

    async with odd(answer) as kube:
        with pytest.raises(ApiError) as caught:
            await kube.list(NODES)
        assert caught.value.retry_after_s == 3


async def test_a_watch_reads_lines_cut_anywhere_and_of_any_length() -> None:
    big = "x" * 1_500_000
    lines = [
        json.dumps({"type": "ADDED", "object": {"metadata": {"name": name}, "text": text}}).encode() + b"\n"
        for name, text in (("a", "é"), ("b", big), ("c", "line\nfeed"))
    ]
    stream = b"".join(lines)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for cut in (stream[:7], stream[7:61], stream[61:1_000_000], stream[1_000_000:-3], stream[-3:]):
            await response.write(cut)
            await asyncio.sleep(0)
        return response

    async with odd(answer) as kube:
        events = [event async for event in kube.watch(NODES, resource_version="1")]
    assert [json.loads(event.object)["metadata"]["name"] for event in events] == ["a", "b", "c"]
    assert len(json.loads(events[1].object)["text"]) == len(big)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["APIGroup", "Status"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)
bodies = st.binary(max_size=8) | anything.map(lambda thing: json.dumps(thing).encode())
READERS: tuple[Callable[[bytes], object], ...] = (
    answers.document,
    answers.chunk,
    answers.event,
    answers.versions,
    lambda body: answers.refusal(Answer(429, body)),
)


@given(bodies)
def test_only_one_error_leaves_whatever_is_answered(body: bytes) -> None:
    for read in READERS:
        with suppress(ApiError):
            read(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"kind":"Status","metadata":{"resourceVersion":"1"},"items":[]}',
        b'{"kind":"ResourceClaimList","items":[]}',
        b'{"kind":"ResourceClaimList","metadata":{"resourceVersion":"1"}}',
        b'{"kind":"ResourceClaimList","metadata":{"resourceVersion":1},"items":[]}',
        b'{"kind":"ResourceClaimList","metadata":{"resourceVersion":"1"},"items":{}}',
        b'{"kind":"ResourceClaimList","metadata":{"resourceVersion":"1","continue":7},"items":[]}',
        b'{"kind":"ResourceClaimList","metadata":{"resourceVersion":"1","continue":"x"},"items":[]}',
    ],
)
async def test_what_is_no_list_is_no_empty_list(body: bytes) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=body)

    async with odd(answer) as kube:
        with pytest.raises(ApiError, match="the API server's answer"):
            await kube.list(CLAIMS)


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"<html>\n",
        b'{"type":"ADDED"}x\n',
        b'{"type":"BOOKMARK","object":null}\n',
        b'{"type":"NEW","object":{}}\n',
        b'{"type":"ERROR","object":{"code":"odd","details":[]}}\n',
        b'{"type":"ERROR","object":{"code":[],"details":{"retryAfterSeconds":{}}}}\n',
    ],
)
async def test_a_watch_of_nonsense_is_an_error(line: bytes) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=line)

    async with odd(answer) as kube:
        with pytest.raises(ApiError):
            _ = [event async for event in kube.watch(NODES, resource_version="1")]


async def test_a_connection_that_nobody_takes_is_no_silence_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "OPEN_S", 0.05)
    with socket.socket() as deaf:  # takes connections and never says a word of TLS
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        async with HttpKube(Access(url)) as kube:
            with pytest.raises(ApiError, match=f"{url} cannot be reached: Connection timed out$"):
                await kube.get(CLAIMS, "a", "default", timeout_s=20)


async def test_nobody_there_is_named() -> None:
    async with HttpKube(Access("http://127.0.0.1:9")) as kube:
        with pytest.raises(ApiError, match=r"http://127\.0\.0\.1:9 cannot be reached: Connection refused$") as caught:
            await kube.get(CLAIMS, "a", "default", timeout_s=2)
    assert caught.value.status == 0
