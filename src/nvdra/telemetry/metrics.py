"""Metrics: counters, gauges and histograms, and the text that Prometheus reads.

Written here rather than taken from a library because it is little, and a library's HTTP and platform parts cost
the plugin 1.5 MiB on every node. Series are made in advance where their labels are known, so that rates start at 0.
Updates come from the event loop's thread; a scrape on the same loop sees them whole.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, TypeAlias

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metric(Protocol):
    """Something with a name and lines to show."""

    name: str

    def lines(self) -> Iterable[str]: ...


class _Series:
    """A metric's values by label values."""

    kind = "untyped"

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self._head = f"# HELP {name} {_escaped_help(about)}\n# TYPE {name} {self.kind}"
        self._labels = tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def value(self, *labels: str) -> float:
        return self._values.get(self._key(labels), 0.0)

    def lines(self) -> Iterator[str]:
        if self._values:
            yield self._head
        for key, value in sorted(self._values.items()):
            yield f"{self.name}{_labels(self._labels, key)} {_number(value)}"

    def _key(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) != len(self._labels):
            raise ValueError(f"{self.name} has the labels {self._labels}, got {labels}")
        return labels


class Counter(_Series):
    """Only grows."""

    kind = "counter"

    def add(self, *labels: str, by: float = 1.0) -> None:
        """by=0 makes the series appear."""
        key = self._key(labels)
        self._values[key] = self._values.get(key, 0.0) + by


class Gauge(_Series):
    """Goes up and down."""

    kind = "gauge"

    def set(self, *labels: str, to: float) -> None:
        self._values[self._key(labels)] = to

    def add(self, *labels: str, by: float) -> None:
        key = self._key(labels)
        self._values[key] = self._values.get(key, 0.0) + by


class Histogram:
    """How often a value was at most each of the buckets' bounds."""

    def __init__(self, name: str, about: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        self.name = name
        self._head = f"# HELP {name} {_escaped_help(about)}\n# TYPE {name} histogram"
        self._labels = tuple(labels)
        self._bounds = tuple(buckets)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def touch(self, *labels: str) -> None:
        """Make the series appear."""
        self._counts.setdefault(labels, [0] * (len(self._bounds) + 1))
        self._sums.setdefault(labels, 0.0)

    def observe(self, *labels: str, value: float) -> None:
        self.touch(*labels)
        self._counts[labels][bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def lines(self) -> Iterator[str]:
        if self._counts:
            yield self._head
        names = (*self._labels, "le")
        for key, counts in sorted(self._counts.items()):
            running = 0
            for bound, count in zip((*map(_number, self._bounds), "+Inf"), counts, strict=True):
                running += count
                yield f"{self.name}_bucket{_labels(names, (*key, bound))} {running}"
            yield f"{self.name}_sum{_labels(self._labels, key)} {_number(self._sums[key])}"
            yield f"{self.name}_count{_labels(self._labels, key)} {running}"


class ProcessMetrics:
    """The standard process_* figures, read when asked."""

    name = "process"

    def lines(self) -> Iterator[str]:
        import resource

        page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            # After the program's name in parentheses, which may hold anything: field 3 and on.
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/stat", encoding="utf-8") as file:
            boot_s = next((float(line.split()[1]) for line in file if line.startswith("btime ")), 0.0)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        space, _ = resource.getrlimit(resource.RLIMIT_AS)
        figures: tuple[tuple[str, str, str, float], ...] = (
            (
                "cpu_seconds_total",
                "counter",
                "CPU time used, user and system.",
                (int(fields[11]) + int(fields[12])) / tick,
            ),
            ("max_fds", "gauge", "How many file descriptors may be open.", limit),
            ("open_fds", "gauge", "How many file descriptors are open.", len(os.listdir("/proc/self/fd")) - 1),
            ("resident_memory_bytes", "gauge", "Resident memory.", int(fields[21]) * page),
            ("start_time_seconds", "gauge", "When the process started, since 1970.", boot_s + int(fields[19]) / tick),
            ("virtual_memory_bytes", "gauge", "Virtual memory.", int(fields[20])),
            ("virtual_memory_max_bytes", "gauge", "How much virtual memory there may be.", space),
        )
        for name, kind, about, value in figures:
            full = f"process_{name}"
            shown = "1.8446744073709552e+19" if value < 0 else _number(value)  # no limit, as the Go library shows it
            yield f"# HELP {full} {about}\n# TYPE {full} {kind}\n{full} {shown}"


class Registry:
    """What one program exposes."""

    def __init__(self) -> None:
        self._metrics: list[Metric] = []

    def add(self, *metrics: Metric) -> None:
        self._metrics.extend(metrics)

    def text(self) -> bytes:
        """The exposition, in the text format 0.0.4, metrics by name."""
        lines = [line for metric in sorted(self._metrics, key=lambda m: m.name) for line in metric.lines()]
        return ("\n".join(lines) + "\n").encode()


Operation: TypeAlias = Literal["prepare", "unprepare"]
OPERATIONS: tuple[Operation, ...] = ("prepare", "unprepare")


class DriverMetrics:
    """What a kubelet plugin counts. Names, labels and buckets of the first six are the Go driver's.

    device_types   every one is always shown, also at 0
    now            seconds since 1970
    """

    def __init__(
        self,
        registry: Registry,
        *,
        driver: str,
        node: str,
        device_types: Sequence[str] = ("gpu", "mig", "vfio", "unknown"),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._driver, self._node, self._types, self._now = driver, node, tuple(device_types), now
        per_call = ("driver", "operation")
        self._requests = Counter(
            "nvidia_dra_requests_total", "[ALPHA] Claims served with success, by operation.", per_call
        )
        self._duration = Histogram(
            "nvidia_dra_request_duration_seconds",
            "[ALPHA] Time to serve a claim with success, waiting included.",
            per_call,
            [0.05 * 2**n for n in range(9)],
        )
        self._inflight = Gauge("nvidia_dra_requests_inflight", "[ALPHA] Claims being served now.", per_call)
        self._prepared = Gauge(
            "nvidia_dra_prepared_devices", "[ALPHA] Devices prepared on this node.", ("node", "driver", "device_type")
        )
        self._errors = {
            operation: Counter(
                f"nvidia_dra_node_{operation}_errors_total",
                f"[ALPHA] Claims whose {operation} failed, by the step that failed.",
                ("driver", "error_type"),
            )
            for operation in OPERATIONS
        }
        self._queue = Histogram(
            "nvidia_dra_request_queue_seconds",
            "[ALPHA] Time a claim waited for its turn in the record.",
            per_call,
            (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 10),
        )
        self._last = Gauge(
            "nvidia_dra_last_event_timestamp_seconds",
            "[ALPHA] When something last happened, since 1970: an error, a checkpoint write, a publication of slices.",
            ("driver", "event"),
        )
        self._registered = Gauge("nvidia_dra_registered", "[ALPHA] 1 while registered with kubelet.", ("driver",))
        for operation in OPERATIONS:
            self._requests.add(driver, operation, by=0)
            self._duration.touch(driver, operation)
            self._queue.touch(driver, operation)
            self._inflight.set(driver, operation, to=0)
            for step in ("lock_acquire", f"{operation}_devices", "publish_resources"):
                self._errors[operation].add(driver, step, by=0)
        self._registered.set(driver, to=0)
        self.prepared({})
        registry.add(
            self._requests,
            self._duration,
            self._inflight,
            self._prepared,
            *self._errors.values(),
            self._queue,
            self._last,
            self._registered,
        )

    @contextmanager
    def serving(self, operation: Operation) -> Iterator[None]:
        """Around the work on one claim: counts it as in flight."""
        self._inflight.add(self._driver, operation, by=1)
        try:
            yield
        finally:
            self._inflight.add(self._driver, operation, by=-1)

    def succeeded(self, operation: Operation, seconds: float) -> None:
        """A claim was served in this time, waiting included."""
        self._requests.add(self._driver, operation)
        self._duration.observe(self._driver, operation, value=seconds)

    def failed(self, operation: Operation, step: str) -> None:
        """A claim failed. step: lock_acquire, prepare_devices or unprepare_devices, publish_resources."""
        self._errors[operation].add(self._driver, step)
        self._last.set(self._driver, "error", to=self._now())

    def waited(self, operation: Operation, seconds: float) -> None:
        """A claim's turn came after this time."""
        self._queue.observe(self._driver, operation, value=seconds)

    def prepared(self, counts: Mapping[str, int]) -> None:
        """Devices prepared now, by type; types not named have none, types not known count as unknown."""
        shown = dict.fromkeys(self._types, 0)
        for device_type, count in counts.items():
            shown[device_type if device_type in shown else "unknown"] += count
        for device_type, count in shown.items():
            self._prepared.set(self._node, self._driver, device_type, to=count)

    def wrote_record(self) -> None:
        self._last.set(self._driver, "checkpoint_write", to=self._now())

    def published(self) -> None:
        """The slices on the API server are the wanted ones."""
        self._last.set(self._driver, "slices_published", to=self._now())

    def registered(self, is_registered: bool) -> None:
        self._registered.set(self._driver, to=float(is_registered))


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
