"""The info metric that joins claims, pods and GPUs: which hardware a claim has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

NAME = "nvdra_claim_device_info"
LABELS = ("claim", "namespace", "pod", "device", "uuid", "pci", "minor")


class ClaimDevices(Collector):
    """One series for each device of each prepared claim and each pod of the claim, always 1.

    rows   values of LABELS; called on the threads that serve scrapes
    """

    def __init__(self, registry: CollectorRegistry, rows: Callable[[], Iterable[tuple[str, ...]]]) -> None:
        self._rows = rows
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            NAME, "[ALPHA] Devices of prepared claims on this node, to join with metrics of GPUs.", labels=LABELS
        )
        for row in sorted(set(self._rows())):
            family.add_metric(row, 1)
        yield family
