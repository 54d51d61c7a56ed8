"""Metrics as Prometheus reads them; its own parser is the oracle."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as OracleHistogram
from prometheus_client.parser import text_string_to_metric_families

from nvdra.telemetry.http import EndpointError, MetricsServer
from nvdra.telemetry.metrics import CONTENT_TYPE, Counter, DriverMetrics, Gauge, Histogram, ProcessMetrics, Registry

DRIVER = "gpu.nvidia.com"


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def metrics(registry: Registry) -> DriverMetrics:
    return DriverMetrics(registry, driver=DRIVER, node="node-a", now=lambda: 1234.5)


def test_series_exist_from_the_start(registry: Registry, metrics: DriverMetrics) -> None:
    text = registry.text().decode()
    for operation in ("prepare", "unprepare"):
        labels = f'{{driver="{DRIVER}",operation="{operation}"}}'
        assert f"\nnvidia_dra_requests_total{labels} 0\n" in text
        assert f"\nnvidia_dra_request_duration_seconds_count{labels} 0\n" in text
        assert f"\nnvidia_dra_requests_inflight{labels} 0\n" in text
        for step in ("lock_acquire", f"{operation}_devices", "publish_resources"):
            assert f'nvidia_dra_node_{operation}_errors_total{{driver="{DRIVER}",error_type="{step}"}} 0\n' in text
    for device_type in ("gpu", "mig", "vfio", "unknown"):
        labels = f'{{node="node-a",driver="{DRIVER}",device_type="{device_type}"}}'
        assert f"\nnvidia_dra_prepared_devices{labels} 0\n" in text


def test_names_types_and_help(registry: Registry, metrics: DriverMetrics) -> None:
    metrics.failed("prepare", "lock_acquire")
    families = {f.name: f for f in text_string_to_metric_families(registry.text().decode())}
    assert {name: family.type for name, family in families.items()} == {
        "nvidia_dra_requests": "counter",
        "nvidia_dra_request_duration_seconds": "histogram",
        "nvidia_dra_requests_inflight": "gauge",
        "nvidia_dra_prepared_devices": "gauge",
        "nvidia_dra_node_prepare_errors": "counter",
        "nvidia_dra_node_unprepare_errors": "counter",
        "nvidia_dra_request_queue_seconds": "histogram",
        "nvidia_dra_last_event_timestamp_seconds": "gauge",
        "nvidia_dra_registered": "gauge",
    }
    assert all(family.documentation.startswith("[ALPHA] ") for family in families.values())


def test_what_is_counted(registry: Registry, metrics: DriverMetrics) -> None:
    metrics.succeeded("prepare", 0.05)
    metrics.succeeded("prepare", 0.3)
    metrics.succeeded("prepare", 99)
    metrics.failed("unprepare", "lock_acquire")
    metrics.waited("unprepare", 0.004)
    metrics.prepared({"gpu": 3, "odd": 2})
    metrics.registered(True)
    metrics.published()
    metrics.wrote_record()
    with metrics.serving("prepare"):
        during = samples(registry.text())
    found = samples(registry.text())
    prepare, unprepare = (
        (("driver", DRIVER), ("operation", "prepare")),
        (("driver", DRIVER), ("operation", "unprepare")),
    )
    assert during["nvidia_dra_requests_inflight", prepare] == 1
    assert found["nvidia_dra_requests_inflight", prepare] == 0
    assert found["nvidia_dra_requests_total", prepare] == 3
    assert found["nvidia_dra_requests_total", unprepare] == 0
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "nvidia_dra_request_duration_seconds_bucket" and ("operation", "prepare") in labels
    }
    bounds = ["0.05", "0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "12.8", "+Inf"]
    assert buckets == dict(zip(bounds, [1, 1, 1, 2, 2, 2, 2, 2, 2, 3], strict=True))
    assert found["nvidia_dra_request_duration_seconds_sum", prepare] == pytest.approx(99.35)
    assert found["nvidia_dra_node_unprepare_errors_total", (("driver", DRIVER), ("error_type", "lock_acquire"))] == 1
    assert found["nvidia_dra_request_queue_seconds_count", unprepare] == 1
    for event in ("error", "slices_published", "checkpoint_write"):
        assert found["nvidia_dra_last_event_timestamp_seconds", (("driver", DRIVER), ("event", event))] == 1234.5
    assert found["nvidia_dra_registered", (("driver", DRIVER),)] == 1
    counts = {
        dict(labels)["device_type"]: value
        for (name, labels), value in found.items()
        if name == "nvidia_dra_prepared_devices"
    }
    assert counts == {"gpu": 3, "mig": 0, "vfio": 0, "unknown": 2}
    metrics.prepared({})
    assert 'device_type="gpu"} 0\n' in registry.text().decode()


def test_work_that_fails_is_not_in_flight_any_more(registry: Registry, metrics: DriverMetrics) -> None:
    with pytest.raises(ZeroDivisionError), metrics.serving("prepare"):
        raise ZeroDivisionError
    assert f'nvidia_dra_requests_inflight{{driver="{DRIVER}",operation="prepare"}} 0\n' in registry.text().decode()


def test_the_process_tells_of_itself(registry: Registry) -> None:
    registry.add(ProcessMetrics())
    found = {name: value for (name, _), value in samples(registry.text()).items()}
    assert set(found) == {
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
    }
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    resident = int(status["VmRSS"].split()[0]) * 1024
    assert abs(found["process_resident_memory_bytes"] - resident) < 64 << 20
    assert 3 <= found["process_open_fds"] <= found["process_max_fds"]
    assert (
        os.stat("/proc/self").st_ctime - 60 < found["process_start_time_seconds"] < os.stat("/proc/self").st_ctime + 60
    )


def test_labels_are_held_to() -> None:
    with pytest.raises(ValueError, match="has the labels"):
        Counter("x_total", "x", ("a",)).add("1", "2")
    with pytest.raises(ValueError, match="has the labels"):
        Gauge("x", "x").set("1", to=1)


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_any_label_and_value_survives(label: str, value: float) -> None:
    gauge = Gauge("x", 'help with \\ and "quotes"\nand lines', ("k",))
    gauge.set(label, to=value)
    registry = Registry()
    registry.add(gauge)
    # The parser splits lines as str.splitlines does, which a label must not meet raw either way.
    (line,) = [part for part in registry.text().decode().split("\n") if part.startswith("x{")]
    if label == "".join(label.splitlines()):
        assert samples((line + "\n").encode()) == {("x", (("k", label),)): value}


@given(st.lists(st.floats(0, 20), max_size=30))
def test_a_histogram_counts_as_the_library_does(values: list[float]) -> None:
    bounds = [0.05 * 2**n for n in range(9)]
    ours, registry, theirs_registry = Histogram("h", "h", ("k",), bounds), Registry(), CollectorRegistry()
    registry.add(ours)
    theirs = OracleHistogram("h", "h", ["k"], buckets=bounds, registry=theirs_registry)
    ours.touch("v")
    theirs.labels("v")
    for value in values:
        ours.observe("v", value=value)
        theirs.labels("v").observe(value)
    expected = {k: v for k, v in samples(generate_latest(theirs_registry)).items() if not k[0].endswith("_created")}
    assert samples(registry.text()) == pytest.approx(expected)


async def fetch(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.fixture
async def server(registry: Registry, metrics: DriverMetrics):  # type: ignore[no-untyped-def]
    server = MetricsServer(registry, endpoint="127.0.0.1:0")
    await server.start()
    yield server
    await server.stop(grace_s=1)


async def test_the_page(server: MetricsServer, registry: Registry) -> None:
    answer = await fetch(server.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Type: {CONTENT_TYPE}".encode() in head
    assert f"Content-Length: {len(body)}".encode() in head
    found = samples(body)
    assert found["promhttp_metric_handler_requests_in_flight", ()] == 1
    assert found["promhttp_metric_handler_requests_total", (("code", "200"),)] == 0
    assert samples(registry.text())["promhttp_metric_handler_requests_total", (("code", "200"),)] == 1
    assert b"nvidia_dra_prepared_devices" in body


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics?x=1 HTTP/1.0", b"200"),
        (b"HEAD /metrics HTTP/1.1", b"200"),
        (b"GET /metrics/ HTTP/1.1", b"404"),
        (b"GET / HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"nonsense", b"400"),
        (b"GET /metrics SPDY/3", b"400"),
    ],
)
async def test_other_requests(server: MetricsServer, request_line: bytes, status: bytes) -> None:
    answer = await fetch(server.port, request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.split(b" ")[1] == status
    assert answer.partition(b"\r\n\r\n")[2] == b"" if request_line.startswith(b"HEAD") else answer


async def test_a_head_without_end_is_refused(server: MetricsServer) -> None:
    answer = await fetch(server.port, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 40000 + b"\r\n\r\n")
    assert answer.split(b" ")[1] == b"400"


async def test_a_path_may_lack_its_slash(registry: Registry) -> None:
    server = MetricsServer(registry, endpoint="127.0.0.1:0", path="deep/page")
    await server.start()
    assert (await fetch(server.port, b"GET /deep/page HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await fetch(server.port, b"")


async def test_a_taken_address_is_named(registry: Registry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EndpointError) as refused:
            await MetricsServer(registry, endpoint=endpoint).start()
    assert str(refused.value) == f"listen on metrics endpoint: listen tcp {endpoint}: address already in use"


@pytest.mark.parametrize("endpoint", ["", "8080", "localhost:", "localhost:http", ":99999"])
async def test_an_address_that_is_none_is_refused(registry: Registry, endpoint: str) -> None:
    with pytest.raises(EndpointError, match="not of the form host:port"):
        await MetricsServer(registry, endpoint=endpoint).start()
