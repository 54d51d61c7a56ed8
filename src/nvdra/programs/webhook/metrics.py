"""What the webhook counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from nvdra.telemetry.metrics import process_metrics
from nvdra.webhook import Verdict

VERDICTS = ("admitted", "refused", "unreadable")


class WebhookMetrics:
    """Reviews by verdict, their times, connections, and the certificate's end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        process_metrics(registry)
        self._reviews = Counter(
            "nvidia_dra_webhook_reviews_total",
            "Requests to the admission path: admitted, refused, or unreadable (answered with an HTTP error).",
            ("verdict",),
            registry=registry,
        )
        self._duration = Histogram(
            "nvidia_dra_webhook_review_duration_seconds",
            "Time to judge a review that has come in whole.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1),
            registry=registry,
        )
        self._connections = Gauge("nvidia_dra_webhook_connections", "Open connections.", registry=registry)
        self._expires = Gauge(
            "nvidia_dra_webhook_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, since 1970; 0 if that cannot be told.",
            registry=registry,
        )
        self._loads = Counter(
            "nvidia_dra_webhook_certificate_loads_total",
            "Certificates loaded, at the start and when the files changed, by result.",
            ("result",),
            registry=registry,
        )
        self._of = {verdict: self._reviews.labels(verdict) for verdict in VERDICTS}
        self._loaded = {result: self._loads.labels(result) for result in ("success", "failure")}

    def answered(self, status: int, verdict: Verdict | None, took_s: float) -> None:
        """A request to the admission path was answered."""
        if verdict is None:
            self._of["unreadable"].inc()
            return
        self._of["admitted" if verdict.refusal is None else "refused"].inc()
        self._duration.observe(took_s)

    def connected(self, count: int) -> None:
        """So many connections are open now."""
        self._connections.set(count)

    def loaded(self, expires: float | None) -> None:
        """A certificate is in use from now on."""
        self._loaded["success"].inc()
        self._expires.set(expires or 0.0)

    def failed_to_load(self) -> None:
        """The files changed, and what they are now cannot be used."""
        self._loaded["failure"].inc()
