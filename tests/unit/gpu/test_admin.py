"""Administrative access: the devices it is given for, and configs that it goes without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nvdra import claims
from nvdra.api.configs import GpuConfig
from nvdra.checkpoint import Checkpoint
from nvdra.claims import Ready, Refuse
from nvdra.gpu.admin import Asked, refused_config, refused_device
from tests.unit.claims.world import claim, gpu_config, plan, prepared, release

SEES = {"device": "gpu-0", "adminAccess": True}
OTHERS_CONFIG = (
    "prepare devices failed: request r0 has adminAccess: true, which never changes a GPU, so GpuConfig cannot be "
    "applied to it: let the requests of that config name only requests without adminAccess"
)


def of_class(**more: Any) -> dict[str, Any]:
    return {**gpu_config(**more), "source": "FromClass"}


def test_a_vfio_device_is_refused_once_and_for_all():
    found = plan(claim("new", {"device": "gpu-vfio-0", "adminAccess": True}))
    assert found == Refuse(
        "prepare devices failed: request r0 has adminAccess: true, which never changes a GPU and is given for full "
        "GPUs and for MIG devices made beforehand, not for a VFIO device",
        permanent=True,
    )


@pytest.mark.parametrize(
    "config",
    [
        [gpu_config()],
        [of_class()],
        [of_class(requests=["r0"])],
        [gpu_config(requests=["r0"])],
        [gpu_config(requests=["r1", "r0"])],
        [gpu_config(requests=["r0"]), gpu_config(requests=["r1"])],
    ],
)
def test_a_config_that_would_be_applied_to_it_is_refused_once_and_for_all(config: list[dict[str, Any]]):
    assert plan(claim("new", SEES, config=config)) == Refuse(OTHERS_CONFIG, permanent=True)


@pytest.mark.parametrize(
    "config",
    [
        [gpu_config()],
        [gpu_config(requests=["r1"])],
        [of_class(), gpu_config(requests=["r1"]), gpu_config()],
        [gpu_config(), gpu_config(requests=["r1"])],
        [of_class(requests=["r1"])],
    ],
)
def test_a_config_meant_for_other_results_of_the_claim_is_no_reason(config: list[dict[str, Any]]):
    found = plan(claim("new", SEES, "gpu-1", config=config))
    assert isinstance(found, Ready), found
    assert [[result.device for result, _ in group.members] for group in found.groups] == [["gpu-0"], ["gpu-1"]]


@pytest.mark.parametrize(
    "config", [[gpu_config(requests=["r0"]), gpu_config()], [of_class(requests=["r0"]), gpu_config()]]
)
def test_below_a_config_for_others_one_that_names_the_request_counts(config: list[dict[str, Any]]):
    assert plan(claim("new", SEES, "gpu-1", config=config)) == Refuse(OTHERS_CONFIG, permanent=True)


def test_configs_of_other_kinds_and_drivers_are_no_reason():
    mig = gpu_config({"kind": "MigDeviceConfig"})
    theirs = {"source": "FromClaim", "opaque": {"driver": "gpu.example.com", "parameters": {"a": 1}}}
    assert isinstance(plan(claim("new", SEES, config=[mig, theirs])), Ready)


def test_it_has_a_group_of_its_own_with_a_config_that_does_nothing():
    found = plan(claim("new", "gpu-1", SEES, {"device": "gpu-2", "adminAccess": True}))
    assert isinstance(found, Ready)
    assert [(group.config, len(group.members)) for group in found.groups] == [(GpuConfig(), 1), (GpuConfig(), 2)]


def test_what_it_was_answered_before_is_answered_again_whatever_its_configs():
    """As the Go driver's v0.4.1 left it."""
    plain = claim("c1", "gpu-0", config=[gpu_config()])
    admin = claim("c1", SEES, config=[gpu_config()])
    entry = prepared(plain).entries["c1"]
    checkpoint = Checkpoint("boot", {"c1": replace(entry, status=admin.status)})
    assert plan(admin, checkpoint) == claims.AlreadyPrepared(claims.answers(entry))
    assert release(admin, checkpoint) == claims.Forget()


def test_at_admission_requests_are_judged_by_the_same_rule():
    sees, uses = Asked("a", "gpu", True), Asked("b", "gpu", False)
    assert refused_device(sees) == refused_device(uses) == ""
    assert "not for a VFIO device" in refused_device(Asked("a", "vfio", True))
    assert refused_device(Asked("a", "", True)) == refused_device(Asked("b", "vfio", False)) == ""
    assert refused_config((sees, uses), [((), "GpuConfig")]) == ""
    assert refused_config((sees,), [((), "GpuConfig")]).startswith("request a has adminAccess: true, ")
    assert refused_config((sees,), [((), "MigDeviceConfig")]) == ""
    assert refused_config((Asked("a", "", True),), [((), "GpuConfig")]) == ""
