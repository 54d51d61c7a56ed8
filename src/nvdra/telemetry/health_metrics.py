"""Metrics of GPU health; they exist only while health is watched."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge


class HealthMetrics:
    """What the health monitor counts."""

    def __init__(self, registry: CollectorRegistry, *, driver: str, node: str) -> None:
        self._driver, self._node = driver, node
        self._events = Counter(
            "nvidia_dra_health_events_total",
            "[ALPHA] Health events of GPUs, by kind and by the effect of their taint.",
            ("driver", "kind", "effect"),
            registry=registry,
        )
        self._taints = Gauge(
            "nvidia_dra_tainted_devices",
            "[ALPHA] Devices with a taint of this driver, by key and effect.",
            ("node", "driver", "key", "effect"),
            registry=registry,
        )

    def event(self, kind: str, effect: str) -> None:
        self._events.labels(self._driver, kind, effect).inc()

    def tainted(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Devices by taint key and effect; all others have none."""
        self._taints.clear()
        for (key, effect), count in counts.items():
            self._taints.labels(self._node, self._driver, key, effect).set(count)
