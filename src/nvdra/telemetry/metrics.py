"""Metrics: what a kubelet plugin counts, in the names that dashboards of the Go driver already read.

Series are made in advance where their labels are known, so that rates start at 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.process_collector import ProcessCollector

Operation: TypeAlias = Literal["prepare", "unprepare"]
OPERATIONS: tuple[Operation, ...] = ("prepare", "unprepare")

# The Go driver's registry has no such series, and they would double the number of ours.
disable_created_metrics()  # type: ignore[no-untyped-call]


def process_metrics(registry: CollectorRegistry) -> None:
    """The standard process_* figures, read when asked."""
    ProcessCollector(registry=registry)


class DriverMetrics:
    """What a kubelet plugin counts. Names, labels and buckets of the first six are the Go driver's.

    device_types   the driver's; every one is always shown, also at 0. The last one stands for types not named here
    now            seconds since 1970
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        driver: str,
        node: str,
        device_types: Sequence[str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._driver, self._types, self._now = driver, tuple(device_types), now
        per_call = ("driver", "operation")
        self._requests = Counter(
            "nvidia_dra_requests_total",
            "[ALPHA] Claims served with success, by operation.",
            per_call,
            registry=registry,
        )
        self._duration = Histogram(
            "nvidia_dra_request_duration_seconds",
            "[ALPHA] Time to serve a claim with success, waiting included.",
            per_call,
            buckets=[0.05 * 2**n for n in range(9)],
            registry=registry,
        )
        self._inflight = Gauge(
            "nvidia_dra_requests_inflight", "[ALPHA] Claims being served now.", per_call, registry=registry
        )
        self._unfinished = Counter(
            "nvidia_dra_requests_unfinished_total",
            "[ALPHA] Claims answered at their call's deadline while the work on them went on, by operation.",
            per_call,
            registry=registry,
        )
        self._prepared = Gauge(
            "nvidia_dra_prepared_devices",
            "[ALPHA] Devices prepared on this node.",
            ("node", "driver", "device_type"),
            registry=registry,
        )
        self._errors = {operation: _errors(registry, driver, operation) for operation in OPERATIONS}
        self._last = Gauge(
            "nvidia_dra_last_event_timestamp_seconds",
            "[ALPHA] When something last happened, since 1970: an error, a checkpoint write, a publication of slices.",
            ("driver", "event"),
            registry=registry,
        )
        self._registered = Gauge(
            "nvidia_dra_registered", "[ALPHA] 1 while registered with kubelet.", ("driver",), registry=registry
        )
        # Looking a series up costs more than counting in it: the busy ones are kept.
        self._served = {operation: self._requests.labels(driver, operation) for operation in OPERATIONS}
        self._took = {operation: self._duration.labels(driver, operation) for operation in OPERATIONS}
        self._under_way = {operation: self._inflight.labels(driver, operation) for operation in OPERATIONS}
        self._prepared_of = {kind: self._prepared.labels(node, driver, kind) for kind in self._types}
        for operation in OPERATIONS:
            self._unfinished.labels(driver, operation)
        self.registered(False)
        self.prepared({})

    def serving(self, operation: Operation) -> AbstractContextManager[None]:
        """Around the work on one claim: counts it as in flight."""
        return self._under_way[operation].track_inprogress()

    def succeeded(self, operation: Operation, seconds: float) -> None:
        """A claim was served in this time, waiting included."""
        self._served[operation].inc()
        self._took[operation].observe(seconds)

    def failed(self, operation: Operation, step: str) -> None:
        """A claim failed. step: lock_acquire, prepare_devices or unprepare_devices, publish_resources."""
        self._errors[operation].labels(self._driver, step).inc()
        self._last.labels(self._driver, "error").set(self._now())

    def unfinished(self, operation: Operation) -> None:
        """A claim was answered at its call's deadline. Its work goes on, stays in flight, and is counted at its end."""
        self._unfinished.labels(self._driver, operation).inc()

    def prepared(self, counts: Mapping[str, int]) -> None:
        """Devices prepared now, by type; types not named have none, others count as the last one."""
        shown = dict.fromkeys(self._types, 0)
        for device_type, count in counts.items():
            shown[device_type if device_type in shown else self._types[-1]] += count
        for device_type, count in shown.items():
            self._prepared_of[device_type].set(count)

    def wrote_record(self) -> None:
        self._last.labels(self._driver, "checkpoint_write").set(self._now())

    def published(self) -> None:
        """The slices on the API server are the wanted ones."""
        self._last.labels(self._driver, "slices_published").set(self._now())

    def registered(self, is_registered: bool) -> None:
        self._registered.labels(self._driver).set(float(is_registered))


def _errors(registry: CollectorRegistry, driver: str, operation: Operation) -> Counter:
    made = Counter(
        f"nvidia_dra_node_{operation}_errors_total",
        f"[ALPHA] Claims whose {operation} failed, by the step that failed.",
        ("driver", "error_type"),
        registry=registry,
    )
    for step in ("lock_acquire", f"{operation}_devices", "publish_resources"):
        made.labels(driver, step)
    return made
