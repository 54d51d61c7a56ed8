"""Metrics as Prometheus reads them."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from nvdra.gpu.driver import DEVICE_TYPES
from nvdra.telemetry.http import EndpointError, MetricsServer
from nvdra.telemetry.metrics import DriverMetrics, process_metrics

DRIVER = "gpu.nvidia.com"


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> DriverMetrics:
    return DriverMetrics(registry, driver=DRIVER, node="node-a", device_types=DEVICE_TYPES, now=lambda: 1234.5)


def test_series_exist_from_the_start(registry: CollectorRegistry, metrics: DriverMetrics) -> None:
    found = samples(generate_latest(registry))
    for operation in ("prepare", "unprepare"):
        labels = (("driver", DRIVER), ("operation", operation))
        assert found["nvidia_dra_requests_total", labels] == 0
        assert found["nvidia_dra_request_duration_seconds_count", labels] == 0
        assert found["nvidia_dra_requests_inflight", labels] == 0
        assert found["nvidia_dra_requests_unfinished_total", labels] == 0
        for step in ("lock_acquire", f"{operation}_devices", "publish_resources"):
            labels = (("driver", DRIVER), ("error_type", step))
            assert found[f"nvidia_dra_node_{operation}_errors_total", labels] == 0
    for device_type in ("gpu", "mig", "vfio", "unknown"):
        labels = (("device_type", device_type), ("driver", DRIVER), ("node", "node-a"))
        assert found["nvidia_dra_prepared_devices", labels] == 0
    # What the Go driver's own test looks for in the page.
    assert f'nvidia_dra_requests_total{{driver="{DRIVER}",operation="prepare"}} 0' in generate_latest(registry).decode()


def test_names_types_and_help(registry: CollectorRegistry, metrics: DriverMetrics) -> None:
    metrics.failed("prepare", "lock_acquire")
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())}
    assert {name: family.type for name, family in families.items()} == {
        "nvidia_dra_requests": "counter",
        "nvidia_dra_request_duration_seconds": "histogram",
        "nvidia_dra_requests_inflight": "gauge",
        "nvidia_dra_requests_unfinished": "counter",
        "nvidia_dra_prepared_devices": "gauge",
        "nvidia_dra_node_prepare_errors": "counter",
        "nvidia_dra_node_unprepare_errors": "counter",
        "nvidia_dra_last_event_timestamp_seconds": "gauge",
        "nvidia_dra_registered": "gauge",
    }
    assert all(family.documentation.startswith("[ALPHA] ") for family in families.values())


def test_what_is_counted(registry: CollectorRegistry, metrics: DriverMetrics) -> None:
    metrics.succeeded("prepare", 0.05)
    metrics.succeeded("prepare", 0.3)
    metrics.succeeded("prepare", 99)
    metrics.failed("unprepare", "lock_acquire")
    metrics.prepared({"gpu": 3, "odd": 2})
    metrics.registered(True)
    metrics.published()
    metrics.wrote_record()
    with metrics.serving("prepare"):
        during = samples(generate_latest(registry))
    found = samples(generate_latest(registry))
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
    gone = (("device_type", "gpu"), ("driver", DRIVER), ("node", "node-a"))
    assert samples(generate_latest(registry))["nvidia_dra_prepared_devices", gone] == 0


def test_work_that_fails_is_not_in_flight_any_more(registry: CollectorRegistry, metrics: DriverMetrics) -> None:
    with pytest.raises(ZeroDivisionError), metrics.serving("prepare"):
        raise ZeroDivisionError
    labels = (("driver", DRIVER), ("operation", "prepare"))
    assert samples(generate_latest(registry))["nvidia_dra_requests_inflight", labels] == 0


def test_the_process_tells_of_itself(registry: CollectorRegistry) -> None:
    process_metrics(registry)
    found = {name: value for (name, _), value in samples(generate_latest(registry)).items()}
    assert set(found) == {
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
    }
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    resident = int(status["VmRSS"].split()[0]) * 1024
    assert abs(found["process_resident_memory_bytes"] - resident) < 64 << 20
    assert 3 <= found["process_open_fds"] <= found["process_max_fds"]
    assert (
        os.stat("/proc/self").st_ctime - 60 < found["process_start_time_seconds"] < os.stat("/proc/self").st_ctime + 60
    )


async def fetch(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


@pytest.fixture
async def server(registry: CollectorRegistry, metrics: DriverMetrics):  # type: ignore[no-untyped-def]
    server = MetricsServer(registry, endpoint="127.0.0.1:0")
    await server.start()
    yield server
    await server.stop()


async def test_the_page(server: MetricsServer, registry: CollectorRegistry) -> None:
    answer = await fetch(server.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"200"
    assert b"Content-Type: text/plain; version=" in head
    found = samples(body)
    assert found["promhttp_metric_handler_requests_in_flight", ()] == 1
    assert found["promhttp_metric_handler_requests_total", (("code", "200"),)] == 0
    assert samples(generate_latest(registry))["promhttp_metric_handler_requests_total", (("code", "200"),)] == 1
    assert b"nvidia_dra_prepared_devices" in body


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics?x=1 HTTP/1.0", b"200"),
        (b"HEAD /metrics HTTP/1.1", b"200"),
        (b"GET /metrics/ HTTP/1.1", b"404"),
        (b"GET / HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
    ],
)
async def test_other_requests(server: MetricsServer, request_line: bytes, status: bytes) -> None:
    answer = await fetch(server.port, request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.split(b" ")[1] == status
    assert answer.partition(b"\r\n\r\n")[2] == b"" if request_line.startswith(b"HEAD") else answer


async def test_the_page_comes_while_idle_clients_hold_every_connection(server: MetricsServer) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(100)]
    answer = await asyncio.wait_for(fetch(server.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), 30)
    assert answer.split(b" ")[1] == b"200"
    # The oldest made way; the last ones are still open.
    assert await asyncio.wait_for(idle[0][0].read(), 30) == b""
    idle[-1][1].write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(idle[-1][0].read(), 30)).split(b" ")[1] == b"200"
    for _, writer in idle:
        writer.close()


async def test_a_collector_that_fails_is_told_and_costs_one_page(
    server: MetricsServer, registry: CollectorRegistry, capfd: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        def describe(self) -> list[object]:
            return []

        def collect(self) -> list[object]:
            raise ValueError("no figures")

    failing = Failing()
    registry.register(failing)  # type: ignore[arg-type]
    answer = await fetch(server.port, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert answer.split(b" ")[1] == b"500"
    assert b"no figures" in answer
    registry.unregister(failing)  # type: ignore[arg-type]
    answer = await fetch(server.port, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert b'promhttp_metric_handler_requests_total{code="500"} 1.0' in answer
    assert "Traceback" not in capfd.readouterr().err


async def test_a_path_may_lack_its_slash(registry: CollectorRegistry) -> None:
    server = MetricsServer(registry, endpoint="127.0.0.1:0", path="deep/page")
    await server.start()
    assert (await fetch(server.port, b"GET /deep/page HTTP/1.0\r\n\r\n")).split(b" ")[1] == b"200"
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await fetch(server.port, b"")


async def test_a_taken_address_is_named(registry: CollectorRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EndpointError) as refused:
            await MetricsServer(registry, endpoint=endpoint).start()
    assert str(refused.value) == f"listen on metrics endpoint: listen tcp {endpoint}: address already in use"


@pytest.mark.parametrize("endpoint", ["", "8080", "localhost:", "localhost:http", ":99999"])
async def test_an_address_that_is_none_is_refused(registry: CollectorRegistry, endpoint: str) -> None:
    with pytest.raises(EndpointError, match="not of the form host:port"):
        await MetricsServer(registry, endpoint=endpoint).start()
