"""Consumable shares: what is published, which claims may share a device, and how their devices are named."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra import claims
from nvdra.api import gates
from nvdra.api.claim import Claim
from nvdra.checkpoint import Checkpoint
from nvdra.claims import NeedsSteps, Ready, Refuse, Sealed
from nvdra.gpu import published
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.shares import NOT_SHARED, Shares, shared, shares
from nvdra.gpu.sharing import Sharing
from nvdra.slices import slice_problems
from tests.unit.claims.world import POOL, claim, gpu_config, h200s
from tests.unit.gpu import scans

ON = gates.parse("ConsumableShares=true,TimeSlicingSettings=true")
NODE = scans.inventory()
DRIVER = GpuDriver(ON, Sharing(Shares("unlimited")))
IDS = tuple(f"00000000-0000-4000-8000-{number:012d}" for number in range(4))


def share(number: int, device: str = "gpu-0", **more: Any) -> dict[str, Any]:
    return {"device": device, "shareID": IDS[number], "consumedCapacity": {"memory": "1Gi"}, **more}


def plan(one: Claim, *others: Sealed, driver: GpuDriver = DRIVER) -> Any:
    entries = {f"o{index}": other.entry for index, other in enumerate(others)}
    return claims.plan(driver, one, NODE, Checkpoint("boot", entries), pool=POOL, has_file=True)


def sealed(one: Claim, *others: Sealed) -> Sealed:
    ready = plan(one, *others)
    if isinstance(ready, NeedsSteps):
        ready = ready.completed({})
    assert isinstance(ready, Ready), ready
    return claims.seal(DRIVER, ready)


def slicing(interval: str) -> dict[str, Any]:
    sharing = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": interval}}
    return gpu_config({"sharing": sharing})


# ── what is published ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("setting", "mode"), [("", ""), (" disabled ", ""), ("memory", "memory"), ("unlimited ", "unlimited"), ("4", "4")]
)
def test_the_setting_counts_with_the_gate(setting: str, mode: str) -> None:
    assert shares(setting, ON) == Shares(mode)
    assert shares(setting, gates.defaults()) == NOT_SHARED


@pytest.mark.parametrize(
    ("mode", "default", "least"), [("unlimited", "0", "0"), ("memory", "143771Mi", "1Mi"), ("4", "0", "0")]
)
def test_memory_is_rounded_down_and_has_a_policy(mode: str, default: str, least: str) -> None:
    device = h200s(dynamic=False).devices["gpu-0"]
    made = shared(published(device, ON), Shares(mode))
    assert made["allowMultipleAllocations"] is True
    assert made["capacity"]["memory"] == {
        "value": "143771Mi",
        "requestPolicy": {"default": default, "validRange": {"min": least, "max": "143771Mi", "step": "1Mi"}},
    }
    assert ("shares" in made["capacity"]) is (mode == "4")


def test_a_number_of_shares_is_a_capacity() -> None:
    made = shared(published(NODE.devices["gpu-0"], ON), Shares("4"))
    assert made["capacity"]["shares"] == {
        "value": "4",
        "requestPolicy": {"default": "1", "validRange": {"min": "1", "max": "4", "step": "1"}},
    }


def test_shares_are_no_counter_of_a_gpu_that_is_partitioned_on_demand() -> None:
    node = h200s()
    before = node.counter_sets()
    for device in node.devices.values():
        shared(published(device, ON), Shares("4"))
    assert node.counter_sets() == before
    assert "shares" not in before[0]["counters"]


def test_a_device_without_memory_is_shared_without_a_limit() -> None:
    assert shared({"name": "gpu-0"}, Shares("memory")) == {"name": "gpu-0", "allowMultipleAllocations": True}


def test_nothing_changes_where_devices_are_not_shared() -> None:
    device = published(NODE.devices["gpu-0"], ON)
    assert shared(device, NOT_SHARED) == device


def test_the_api_server_would_take_the_slice() -> None:
    devices = [shared(published(device, ON), Shares("4")) for device in NODE.devices.values()]
    pool = {"name": POOL, "generation": 1, "resourceSliceCount": 1}
    assert not slice_problems({"driver": "gpu.nvidia.com", "nodeName": POOL, "pool": pool, "devices": devices}, 37)


# ── which claims share ─────────────────────────────────────────────────────────────────────────────────────────


def test_claims_with_equal_configs_share_a_device() -> None:
    first = sealed(claim("c1", share(1)))
    second = sealed(claim("c2", share(2)), first)
    assert [(each.device, each.share_id) for each in second.answers] == [("gpu-0", IDS[2])]


def test_without_the_option_a_device_is_one_claims() -> None:
    refuse = plan(claim("c2", share(2)), sealed(claim("c1", share(1))), driver=GpuDriver(ON))
    assert refuse == Refuse(
        "unable to prepare claim c2: requested device gpu-0 is already allocated to different claim o0"
    )


def test_claims_with_different_configs_do_not_share() -> None:
    first = sealed(claim("c1", share(1), config=[slicing("Long")]))
    assert plan(claim("c2", share(2)), first) == Refuse(
        "unable to prepare claim c2: requested device gpu-0 has conflicting configuration with already prepared claim "
        "o0"
    )
    assert isinstance(plan(claim("c3", share(3), config=[slicing("Long")]), first), NeedsSteps)


def test_a_config_that_cannot_be_read_is_named() -> None:
    first = sealed(claim("c1", share(1)))
    refuse = plan(claim("c2", share(2), config=[slicing("Half")]), first)
    assert isinstance(refuse, Refuse)
    assert refuse.reason.startswith(
        "unable to prepare claim c2: error resolving config for incoming claim c2 on device gpu-0: "
        "error validating config: unknown time-slice interval: Half"
    )


def test_the_slice_of_a_shared_gpu_is_reset_with_its_last_claim() -> None:
    first = sealed(claim("c1", share(1), config=[slicing("Long")]))
    second = sealed(claim("c2", share(2), config=[slicing("Long")]), first)
    both = Checkpoint("boot", {"c1": first.entry, "c2": second.entry})
    assert isinstance(claims.unprepare(DRIVER, claim("c1").ref, NODE, both), claims.Forget)
    last = claims.unprepare(DRIVER, claim("c2").ref, NODE, Checkpoint("boot", {"c2": second.entry}))
    assert isinstance(last, claims.TearDownFirst)


def test_a_passed_through_gpu_is_never_shared() -> None:
    assert (
        DRIVER.share_refused(claim("c1"), claim("c2", "gpu-vfio-0").results[0], "o", sealed(claim("c1", "gpu-0")).entry)
        is None
    )


# ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_share_in_one_claim_has_a_cdi_name_of_its_own() -> None:
    made = sealed(claim("c1", share(1), share(2), share(3, "gpu-1")))
    assert [each.cdi_ids for each in made.answers] == [
        ("k8s.gpu.nvidia.com/claim=c1-gpu-0",),
        (f"k8s.gpu.nvidia.com/claim=c1-gpu-0-{IDS[2]}",),
        ("k8s.gpu.nvidia.com/claim=c1-gpu-1",),
    ]
    assert [each.share_id for each in made.answers] == [IDS[1], IDS[2], IDS[3]]
    assert set(made.cdi_devices) == {"c1-gpu-0", f"c1-gpu-0-{IDS[2]}", "c1-gpu-1"}


def test_a_lost_checkpoint_takes_over_claims_with_shares() -> None:
    one = claim("c1", share(1), share(2))
    files = {"c1": {"gpu-0"}}
    adopted = claims.settle(DRIVER, files, {"c1": one}, NODE, POOL).adopted
    assert claims.answers(adopted["c1"]) == sealed(one).answers


def test_shares_of_one_device_in_one_claim_take_one_config() -> None:
    long = slicing("Long")
    long["requests"] = ["r0"]
    refuse = plan(claim("c1", share(1), share(2), config=[long]))
    assert isinstance(refuse, Refuse)
    assert refuse.permanent
    assert "requested device gpu-0 has conflicting configuration" in refuse.reason
