"""The webhook's process over real TLS: what it answers, what it withstands, certificates renewed, a clean end."""

from __future__ import annotations

import asyncio
import re
import ssl
import urllib.request
from collections.abc import AsyncIterator

import pytest

from tests.contract.webhook_process import PATH, Client, Webhook, head, make_pair, openssl, webhook
from tests.unit.webhook.reviews import UID, claim, entry, parameters, review, spec

GOOD = review(claim(spec(entry(parameters(), "gpu"))))
BAD = review(claim(spec(entry(parameters(speed="a-secret-word"), "gpu"))))
JSON = "application/json"


@pytest.fixture
async def running() -> AsyncIterator[Webhook]:
    async with webhook() as made:
        await made.start()
        yield made


@pytest.fixture
async def client(running: Webhook) -> AsyncIterator[Client]:
    connected = await running.connect()
    yield connected
    await connected.close()


# ── answers ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_reviews_are_answered_one_after_the_other(client: Client) -> None:
    for _ in range(3):
        assert (await client.judge(GOOD)).review() == {"uid": UID, "allowed": True}
        refused = (await client.judge(BAD)).review()
        assert (refused["uid"], refused["allowed"], refused["status"]["reason"]) == (UID, False, "Invalid")
        assert refused["status"]["message"] == (
            "1 configs failed to validate: error decoding object at spec.devices.config[0].opaque.parameters: "
            'strict decoding error: unknown field "speed"'
        )
    # Sent at once, answered in their order.
    one = head(PATH, len(GOOD), content_type=JSON) + GOOD
    two = head(PATH, len(BAD), content_type=JSON) + BAD
    await client.send(one + two + one)
    assert [(await client.reply()).review()["allowed"] for _ in range(3)] == [True, False, True]
    # The next one's first lines come with the last one's end.
    large = GOOD + b" " * 100_000
    await client.send(head(PATH, len(large), content_type=JSON) + large + one[:40])
    assert (await client.reply()).review()["allowed"]
    await client.send(one[40:])
    assert (await client.reply()).review()["allowed"]


@pytest.mark.parametrize("path", ["/readyz", "/livez", "/healthz", "/readyz?verbose"])
async def test_health(client: Client, path: str) -> None:
    assert [(await client.ask(path)).body, (await client.ask(path, b"any method")).body] == [b"ok", b"ok"]


async def test_content_types(client: Client) -> None:
    for taken in (JSON, "application/json; charset=utf-8", "Application/JSON;x=y"):
        assert (await client.ask(PATH, GOOD, content_type=taken)).review()["allowed"]
    for other in ("text/plain", "application/jsonx", "application/yaml"):
        reply = await client.ask(PATH, GOOD, content_type=other)
        assert (reply.status, reply.body.decode()) == (415, f"contentType={other}, expected application/json")
    reply = await client.ask(PATH, GOOD)
    assert (reply.status, reply.body) == (415, b"contentType=, expected application/json")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "request could not be decoded: "),
        (b"{", "request could not be decoded: "),
        (b"\xff\xfe", "request could not be decoded: "),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}', "the AdmissionReview has no request"),
        (
            b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}',
            "unsupported group version kind: admission.k8s.io/v1beta1, Kind=AdmissionReview",
        ),
    ],
)
async def test_what_is_no_review(client: Client, body: bytes, reason: str) -> None:
    reply = await client.judge(body)
    assert reply.status == 400
    assert reply.body.decode().startswith(f"failed to read AdmissionReview from request body: {reason}")
    assert (await client.judge(GOOD)).review()["allowed"]


async def test_other_paths_and_what_is_no_http(running: Webhook, client: Client) -> None:
    assert (await client.ask("/validate")).status == 404
    await client.send(b"this is no HTTP\r\n\r\n")
    assert (await client.reply()).status == 400
    assert await client.is_closed()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")  # without TLS
    async with asyncio.timeout(30):
        assert b"200" not in await reader.read()
    writer.close()
    assert (await (await running.connect()).ask()).body == b"ok"


async def test_logs_say_which_object_and_nothing_of_what_it_says(running: Webhook, client: Client) -> None:
    await client.judge(GOOD)
    await client.judge(BAD)
    admitted, refused = await running.logged('"Admitted"'), await running.logged('"Refused"')
    for line in (admitted, refused):
        assert f'resource="resourceclaims" object="ns/c" operation="CREATE" uid="{UID}"' in line
    assert 'reason="Invalid"' in refused
    assert "a-secret-word" not in running.log
    assert "GpuConfig" not in running.log


async def test_metrics() -> None:
    async with webhook() as made:
        await made.start(http_endpoint="127.0.0.1:0")
        asked = await made.connect()
        for body in (GOOD, GOOD, BAD, b"{"):
            await asked.judge(body)
        port = re.search(r'"Serving metrics".* port=(\d+)', made.log)
        assert port is not None
        url = f"http://127.0.0.1:{port[1]}/metrics"
        page = (await asyncio.to_thread(urllib.request.urlopen, url, timeout=30)).read().decode()
        for line in (
            'nvidia_dra_webhook_reviews_total{verdict="admitted"} 2.0',
            'nvidia_dra_webhook_reviews_total{verdict="refused"} 1.0',
            'nvidia_dra_webhook_reviews_total{verdict="unreadable"} 1.0',
            "nvidia_dra_webhook_review_duration_seconds_count 3.0",
            "nvidia_dra_webhook_connections 1.0",
            'nvidia_dra_webhook_certificate_loads_total{result="success"} 1.0',
        ):
            assert f"\n{line}\n" in page
        assert re.search(r"\nnvidia_dra_webhook_certificate_expiry_timestamp_seconds 1\.\d+e\+09\n", page)


# ── sizes, times, numbers ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_of_3_mb_is_judged_and_a_larger_one_refused(running: Webhook) -> None:
    large = GOOD.replace(b'"name":"c"', b'"name":"c","annotations":{"a":"%b"}' % (b"x" * 3_000_000))
    assert (await (await running.connect()).judge(large)).review()["allowed"]
    larger = b" " * (4 << 20)
    announced = await running.connect()
    reply = await announced.judge(larger)
    assert (reply.status, reply.body) == (413, b"the request's body is larger than 3145728 bytes")
    assert reply.headers["connection"] == "close"
    assert await announced.is_closed()
    piecewise = await running.connect()
    await piecewise.send(f"POST {PATH} HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for _ in range(4):
        await piecewise.send(b"100000\r\n%b\r\n" % (b" " * (1 << 20)))
    assert (await piecewise.reply()).status == 413
    headed = await running.connect()
    await headed.send(head(PATH, 0, many="x" * 100_000))
    assert (await headed.reply()).status == 431
    assert (await (await running.connect()).judge(GOOD)).review()["allowed"]


async def test_a_client_that_waits_for_leave_to_send(client: Client) -> None:
    await client.send(head(PATH, len(GOOD), content_type=JSON, expect="100-continue"))
    await client.send(GOOD)
    with pytest.raises(KeyError):  # "100 Continue" has no length
        await client.reply()
    assert (await client.reply()).review()["allowed"]


async def test_slow_clients_are_cut_off_and_cost_others_nothing(running: Webhook) -> None:
    silent, head_only, body_part = [await running.connect() for _ in range(3)]
    await head_only.send(b"POST /validate")
    await body_part.send(head(PATH, len(GOOD), content_type=JSON) + GOOD[:100])
    assert (await (await running.connect()).judge(GOOD)).review()["allowed"]
    assert await silent.is_closed()
    for slow in (head_only, body_part):
        reply = await slow.reply()
        assert (reply.status, reply.body) == (408, b"the request did not come in time")
        assert await slow.is_closed()


async def test_five_hundred_connections_at_once(running: Webhook) -> None:
    shaking_hands = asyncio.Semaphore(16)  # this process is slower at it than the server waits

    async def opened() -> Client:
        async with shaking_hands:
            client = await running.connect()
            assert (await client.ask()).body == b"ok"
            return client

    clients = await asyncio.gather(*(opened() for _ in range(500)))
    for body, is_allowed in ((GOOD, True), (BAD, False)):
        replies = await asyncio.gather(*(each.judge(body) for each in clients))
        assert {reply.review()["allowed"] for reply in replies} == {is_allowed}
    assert running.rss_mib() <= 60
    await asyncio.gather(*(each.close() for each in clients))
    assert (await (await running.connect()).ask()).body == b"ok"


# ── certificates ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_renewed_certificate_counts_from_the_next_connection_on(running: Webhook) -> None:
    first = await running.connect()
    assert first.host == "w.ns.svc"
    for turn in range(3):
        renewed = running.folder / f"renewed-{turn}"
        make_pair(renewed, f"w{turn}.ns.svc")
        running.volume.put(renewed)
        # With a host name and, as kubelet's probes, without.
        for host in ("127.0.0.1", None):
            client = await running.connect(trusted=renewed / "tls.crt", host=host)
            assert client.host == f"w{turn}.ns.svc"
            assert (await client.judge(GOOD)).review()["allowed"]
            await client.close()
    # Who was there before goes on.
    assert (await first.judge(GOOD)).review()["allowed"]
    await running.logged('"Loaded certificate" names=["w2.ns.svc"]')


async def test_a_renewal_that_cannot_be_used_leaves_the_old_certificate(running: Webhook) -> None:
    broken = running.folder / "broken"
    make_pair(broken)
    openssl(broken, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "tls.key")
    running.volume.put(broken)
    assert (await (await running.connect()).judge(GOOD)).review()["allowed"]
    line = await running.logged("Could not load the renewed certificate, the last one stays in use")
    assert "key values mismatch" in line
    (broken / "tls.crt").write_text("")
    running.volume.put(broken)
    assert (await (await running.connect()).judge(GOOD)).review()["allowed"]
    renewed = running.folder / "renewed"
    make_pair(renewed, "new.ns.svc")
    running.volume.put(renewed)
    assert (await running.connect(trusted=renewed / "tls.crt")).host == "new.ns.svc"
    assert running.log.count("Could not load the renewed certificate") == 2


async def test_an_expired_certificate_is_reported_and_replaced() -> None:
    async with webhook() as made:
        expired = made.folder / "expired"
        make_pair(expired, days=-1)
        made.volume.put(expired)
        await made.start()
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
            await made.connect(trusted=expired / "tls.crt")
        await made.logged(
            "The certificate has expired: the API server refuses this webhook until the files are renewed"
        )
        made.volume.put(made.folder / "first")
        assert (await (await made.connect()).judge(GOOD)).review()["allowed"]


async def test_a_service_of_another_name_is_refused_by_the_client_alone(running: Webhook) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await running.connect(host="other.ns.svc")
    assert (await (await running.connect(host="w.ns.svc")).judge(GOOD)).review()["allowed"]
    # So that the mistake can be seen.
    await running.logged('"Loaded certificate" names=["w.ns.svc"] expires=')


# ── start and end ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_end_costs_no_review(running: Webhook) -> None:
    idle, begun = await running.connect(), await running.connect()
    await begun.send(head(PATH, len(GOOD), content_type=JSON) + GOOD[:100])
    running.process.terminate()
    await running.logged("Stopping")
    # The Service may still lead here: it serves, and says that it is leaving.
    late = await running.connect()
    reply = await late.judge(GOOD)
    assert reply.review()["allowed"]
    assert reply.headers["connection"] == "close"
    left = await (await running.connect()).ask("/readyz")
    assert (left.status, left.body) == (503, b"shutting down")
    assert (await (await running.connect()).ask("/livez")).body == b"ok"
    await begun.send(GOOD[100:])
    assert (await begun.reply()).review()["allowed"]
    assert await idle.is_closed()
    assert await running.stop() == 0
    assert running.log.rstrip().endswith("] shutdown")


async def refused_to_start(made: Webhook, **flags: str) -> str:
    """What it says; its only line."""
    process = await made.launch(**flags)
    async with asyncio.timeout(60):
        assert await process.wait() == 1
    return made.log.splitlines()[-1]


async def test_flags_and_files_that_cannot_be_used() -> None:
    async with webhook() as made:
        assert "No such file or directory" in await refused_to_start(made, tls_cert_file="/nowhere/tls.crt")
        key = str(made.folder / "locked.key")
        openssl(made.folder, "ec", "-in", "volume/tls.key", "-aes128", "-passout", "pass:x", "-out", key)
        assert "the key is encrypted" in await refused_to_start(made, tls_private_key_file=key)
        line = await refused_to_start(made, tls_cert_file=str(made.volume.key))
        assert line.startswith("Error: cannot load the certificate ")
        assert line.endswith("; --tls-cert-file and --tls-private-key-file name the files")
        assert await refused_to_start(made, tls_cert_file="") == (
            'Error: invalid value "" for flag -tls-cert-file: it must name a file'
        )
        assert 'invalid value "70000" for flag -port' in await refused_to_start(made, port="70000")
        assert "unrecognized feature gate: Luck" in await refused_to_start(made, feature_gates="Luck=true")
        await made.start()
        (made.folder / "again").mkdir()
        port, again = str(made.port), Webhook(made.folder / "again")
        assert await refused_to_start(again, port=port) == (
            f"Error: cannot listen on port {port}: Address already in use; choose another with --port"
        )


async def test_required_flags() -> None:
    from tests.contract.webhook_process import PROGRAM

    process = await asyncio.create_subprocess_exec(PROGRAM, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        _, error = await process.communicate()
    assert (process.returncode, error.decode()) == (
        1,
        'Error: Required flags "tls-cert-file, tls-private-key-file" not set\n',
    )
