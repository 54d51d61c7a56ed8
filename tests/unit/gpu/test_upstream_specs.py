"""The Go driver's own demo specs, unmodified and by path, where Go's module cache has them: their configs are taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra import claims
from nvdra.api import gates
from nvdra.checkpoint import Checkpoint
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.mps import StartMpsDaemon
from nvdra.gpu.steps import SetTimeSlice
from tests.unit.claims.world import POOL, claim_of
from tests.unit.gpu.scans import inventory

CACHE = Path(os.environ.get("GOMODCACHE", Path.home() / "go/pkg/mod"))
SPECS = CACHE / "sigs.k8s.io/dra-driver-nvidia-gpu@v0.4.1/demo/specs/quickstart"
DRIVER = GpuDriver(gates.parse("MPSSupport=true,TimeSlicingSettings=true"))

pytestmark = pytest.mark.skipif(not SPECS.is_dir(), reason="Go's module cache has no v0.4.1 of the Go driver")


def steps(spec: str) -> list[claims.Step]:
    """What a claim of the spec's template needs, each request given a GPU of its own."""
    documents = [each for each in yaml.safe_load_all((SPECS / spec).read_text()) if each]
    template = next(each for each in documents if each["kind"] in ("ResourceClaimTemplate", "ResourceClaim"))
    devices: dict[str, Any] = template["spec"].get("spec", template["spec"])["devices"]
    results = [
        {"request": request["name"], "driver": "gpu.nvidia.com", "pool": POOL, "device": f"gpu-{index}"}
        for index, request in enumerate(devices["requests"])
    ]
    configs = [{"source": "FromClaim", **config} for config in devices["config"]]
    one = claim_of(
        {
            "metadata": {"namespace": "ns", "name": "n", "uid": "c1"},
            "status": {"allocation": {"devices": {"results": results, "config": configs}}},
        }
    )
    needed = claims.plan(DRIVER, one, inventory(), Checkpoint("boot"), pool=POOL, has_file=True)
    assert isinstance(needed, claims.NeedsSteps), needed
    return list(needed.steps.apply)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_the_mps_demo_has_a_daemon(version: str) -> None:
    (step,) = steps(f"{version}/gpu-test-mps.yaml")
    assert isinstance(step, StartMpsDaemon)
    assert step.settings is not None
    assert step.settings.percentage == 50


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_the_demo_of_both_strategies_has_a_slice_and_a_daemon(version: str) -> None:
    assert {type(step) for step in steps(f"{version}/gpu-test5.yaml")} == {SetTimeSlice, StartMpsDaemon}
