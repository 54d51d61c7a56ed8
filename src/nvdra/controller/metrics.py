"""The controller's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from nvdra.api.compute_domain import NOT_READY, READY


class ControllerMetrics:
    """Metrics of one controller. The first is the Go driver's; it counts what is, not what was written last.

    statuses   the statuses of all ComputeDomains
    depth      how many of them wait to be worked on
    """

    def __init__(
        self, registry: CollectorRegistry, statuses: Callable[[], Iterable[str]], depth: Callable[[], int]
    ) -> None:
        domains = Gauge(
            "nvidia_dra_compute_domain_info",
            "[ALPHA] Number of ComputeDomains by status.",
            ("status",),
            registry=registry,
        )
        domains.labels(READY).set_function(lambda: float(list(statuses()).count(READY)))
        domains.labels(NOT_READY).set_function(lambda: float(list(statuses()).count(NOT_READY)))
        waiting = Gauge(
            "nvidia_dra_compute_domain_queue_depth",
            "[ALPHA] ComputeDomains that wait to be worked on.",
            registry=registry,
        )
        waiting.set_function(lambda: float(depth()))
        self._leader = Gauge(
            "nvidia_dra_compute_domain_controller_leader",
            "[ALPHA] 1 while this replica acts, 0 while it stands by.",
            registry=registry,
        )
        self._worked = Counter(
            "nvidia_dra_compute_domain_reconciles_total",
            "[ALPHA] Times a ComputeDomain was worked on, by result.",
            ("result",),
            registry=registry,
        )
        for result in ("success", "conflict", "error"):
            self._worked.labels(result)
        self._calls = Counter(
            "rest_client_requests_total",
            "[ALPHA] Number of HTTP requests, partitioned by status code and method.",
            ("code", "method"),
            registry=registry,
        )

    def leads(self, leads: bool) -> None:
        self._leader.set(float(leads))

    def worked(self, result: str) -> None:
        """A domain was worked on. result: success, conflict or error."""
        self._worked.labels(result).inc()

    def called(self, verb: str, status: int) -> None:
        """The API server answered; status 0 if it did not."""
        self._calls.labels(str(status) if status else "<error>", verb).inc()
