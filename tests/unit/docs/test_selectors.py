"""Every selector that the guide or the chart shows runs on any GPU that we publish: none ends a pod's scheduling."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nvdra.allocation import Cluster, Explanation, explanation
from nvdra.api import gates
from nvdra.gpu import Gpu, PciFacts, published
from nvdra.gpu.mig import MigDevice
from nvdra.gpu.mig_profile import MigProfile
from tests.contract.explained import claim, device_class, node, slice_of

ROOT = Path(__file__).parents[3]
PAGES = [*sorted((ROOT / "docs/guide").glob("*.md")), ROOT / "README.md"]

BARE = Gpu(
    minor=0,
    uuid="GPU-0",
    product_name="NVIDIA X",
    brand="Nvidia",
    architecture="Hopper",
    cuda_compute_capability="9.0.0",
    driver_version="580.159.4",
    cuda_driver_version="13.0.0",
    pci_bus_id="0000:01:00.0",
    memory_bytes=None,
    addressing_mode=None,
    pci=PciFacts(),
)
PROFILE = MigProfile("1g.10gb", 19, 1, 16, 1, 1, 0, 1, 0, 10 << 30)
PARTITION = MigDevice(BARE, PROFILE, 0, 1, 1, 0, "MIG-0")
ALWAYS_THERE = (
    "architecture",
    "brand",
    "cudaComputeCapability",
    "cudaDriverVersion",
    "driverVersion",
    "productName",
    "resource.kubernetes.io/pciBusID",
    "type",
    "uuid",
)


def shown(page: Path) -> list[str]:
    """Selectors in the page's YAML blocks and in its tables; those of a table's row that asks of two kinds as well."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        found += re.findall(r"expression: (?!>)(.+)", block)
        found += [" ".join(lines.split()) for lines in re.findall(r"expression: >-\n((?: {14,}.+\n)+)", block)]
    spans = re.findall(r"`([^`\n]*\bdevice\.(?:attributes|capacity)\[[^`\n]*)`", text)
    return found + [span for span in spans if not span.endswith("…")]


EXPRESSIONS = sorted({(page.name, expression) for page in PAGES for expression in shown(page)})


def answer(expression: str, kind: str = "gpu") -> Explanation:
    """What the scheduler's allocator says of a claim with this selector, on a node with the barest devices.

    kind   of devices that the claim's class has: it is asked before the selector
    """
    cluster = Cluster("1.37", [])
    on = gates.defaults()
    devices = [published(BARE, on), published(PARTITION, on)]
    chosen = device_class(f"device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == '{kind}'")
    asked = claim("one", selectors=[{"cel": {"expression": expression}}])
    for thing in (node("n"), slice_of("n", devices), chosen, asked):
        cluster.add(json.dumps(thing).encode())
    return explanation(cluster.explain("ml/one"))


def test_the_guide_shows_selectors() -> None:
    assert len(EXPRESSIONS) > 12


@pytest.mark.parametrize(("page", "expression"), EXPRESSIONS)
def test_a_selector_that_is_shown_ends_no_scheduling(page: str, expression: str) -> None:
    assert answer(expression, "mig" if page == "mig.md" else "gpu").errors == ()


def test_an_unguarded_selector_would_end_it_for_all_nodes() -> None:
    ((code, text, _),) = answer("device.attributes['resource.kubernetes.io'].numaNode == 1").errors
    assert "no such key: numaNode" in text, code


@pytest.mark.parametrize("device", [BARE, PARTITION], ids=["gpu", "mig"])
def test_what_needs_no_guard_is_always_published(device: Gpu | MigDevice) -> None:
    assert tuple(published(device, gates.defaults())["attributes"]) == tuple(
        sorted((*ALWAYS_THERE, *(("parentUUID", "profile") if isinstance(device, MigDevice) else ())))
    )


def test_selectors_of_the_charts_classes_read_only_what_is_always_there() -> None:
    text = (ROOT / "deploy/helm/dra-driver-nvidia-gpu/templates/device-classes.yaml").read_text()
    read = set(re.findall(r"device\.(?:attributes|capacity)\[[^]]+\]\.(\w+)", text))
    assert read <= {*ALWAYS_THERE, "id"}  # "id" is of compute-domain.nvidia.com's channels
