"""The claims of the topology page, put to the scheduler's allocator: nodes that have what they ask for, or lack it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra.allocation import Cluster, explanation
from nvdra.api import gates
from nvdra.gpu import NvLink, PciFacts, from_scan, published
from nvdra.gpu.topology import Locality
from tests.contract.explained import DRIVER, node, slice_of
from tests.unit.gpu.scans import gpu_scan, node_scan

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/guide/topology.md").read_text(encoding="utf-8")
CLASSES = (ROOT / "deploy/helm/dra-driver-nvidia-gpu/templates/device-classes.yaml").read_text()


def claim_of(template: str) -> dict[str, Any]:
    """The claim that the page's template of this name makes."""
    documents = [d for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) for d in yaml.safe_load_all(block)]
    (found,) = [d for d in documents if d["kind"] == "ResourceClaimTemplate" and d["metadata"]["name"] == template]
    return {
        "apiVersion": found["apiVersion"],
        "kind": "ResourceClaim",
        "metadata": {"name": template, "namespace": "ml"},
        "spec": found["spec"]["spec"],
        "status": {},
    }


def device_classes() -> list[dict[str, Any]]:
    """The chart's classes of GPUs, and the class of another driver's network cards."""
    found = {"dranet": "device.driver == 'dra.net'"}
    for name, driver, condition in re.findall(r'deviceClass" \(list \. "([^"]+)" "([^"]+)" "([^"]+)"\)', CLASSES):
        attributes = f"device.attributes['{driver}']"
        found[name] = f"device.driver == '{driver}' && {condition.replace('$', attributes)}"
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": name},
            "spec": {"selectors": [{"cel": {"expression": expression}}]},
        }
        for name, expression in found.items()
    ]


def devices(*, links: int = 0, linked: bool = False, root: str = "pci0000:15") -> list[dict[str, Any]]:
    """Two GPUs as the plugin publishes them."""
    ends = tuple(NvLink(number, True, 4, None, 2) for number in range(links))
    scan = node_scan(
        *(gpu_scan(minor, nvlinks=ends) for minor in range(2)), p2p={(0, 1): 0, (1, 0): 0} if linked else {}
    )
    facts = {f"0000:0{minor + 1}:00.0": PciFacts(pcie_root=root) for minor in range(2)}
    found = from_scan(scan, facts, localities=dict.fromkeys(facts, Locality(0, "0000:16:00.0")))
    return [published(each, gates.defaults(), found.topology[each.name]) for each in found.devices.values()]


def nic(root: str) -> dict[str, Any]:
    return {"name": "eth0", "attributes": {"resource.kubernetes.io/pcieRoot": {"string": root}}}


def fits(template: str, **nodes: list[dict[str, Any]]) -> set[str]:
    """The nodes on which the page's claim can be allocated."""
    cluster = Cluster("1.37", [])
    things = [claim_of(template), *device_classes()]
    for name, own in nodes.items():
        things += [node(name), slice_of(name, own)]
        things.append(slice_of(f"{name}-nics", [nic("pci0000:15")], driver="dra.net", nodeName=name))
    for thing in things:
        cluster.add(json.dumps(thing).encode())
    told = explanation(cluster.explain(f"ml/{template}"))
    assert told.errors == ()
    return set(told.fits)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [("two-linked-gpus", {"linked"}), ("all-links", {"linked", "apart"}), ("gpu-and-nic", {"linked", "apart"})],
)
def test_a_claim_of_the_page_fits_where_it_should(template: str, wanted: set[str]) -> None:
    found = fits(
        template,
        linked=devices(links=18, linked=True),
        apart=devices(links=18),
        bare=devices(root="pci0000:99"),
    )
    assert found == wanted


def test_the_attributes_of_the_page_are_those_that_are_published() -> None:
    (device, _) = devices(links=18, linked=True)
    told = set(re.findall(r"^\| `([^`]+)` \| (?:string|int) \|", PAGE, re.MULTILINE))
    assert told - {"resource.kubernetes.io/numaNode"} <= device["attributes"].keys()
    assert {"nvlinkDomain", "nvlinkCount", "pcieSwitch", "cpuSocket"} <= told
    assert DRIVER == "gpu.nvidia.com"
