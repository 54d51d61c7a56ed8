"""What NVML events mean: faults, the devices they concern, and how they end."""

from __future__ import annotations

import pytest

from nvdra.api import gates
from nvdra.gpu import Inventory, from_scan, published
from nvdra.gpu.health import (
    DOUBLE_BIT_ECC_EVENT,
    IGNORED_XIDS,
    SINGLE_BIT_ECC_EVENT,
    XID_EVENT,
    Fault,
    HealthEvent,
    Target,
    Unattributed,
    extra_ignored,
    fault_of,
    lost,
    needs_recovery,
    unmonitored,
)
from nvdra.gpu.health_report import faults_of, tainted, verdicts
from nvdra.gpu.health_state import FLAP_S, NO_SCHEDULE_S, Health, Look
from nvdra.gpu.shares import Shares, shared
from nvdra.slices.layouts import specs_for
from tests.unit.gpu import scans

GPU = "0000:00:06.0"
XID, LOST, ECC = "gpu.nvidia.com/xid", "gpu.nvidia.com/gpu-lost", "gpu.nvidia.com/ecc"
WELL = Look(action=0, links=18)


def plain() -> Inventory:
    return from_scan(scans.node_scan(scans.h200_scan(0), scans.h200_scan(1)), {})


def partitioned(*, dynamic_mig: bool = False) -> Inventory:
    """GPU 0 with a partition of one slice at 0 (GPU instance 1) and one of three at 4 (GPU instance 5)."""
    gpu = scans.h200_scan(0, scans.instance(19, 0, 1), scans.instance(9, 4, 4, compute=2))
    return from_scan(scans.node_scan(gpu, scans.h200_scan(1)), {}, dynamic_mig=dynamic_mig)


def xid(number: int, gi_id: int = 0xFFFFFFFF) -> HealthEvent:
    return HealthEvent(GPU, XID_EVENT, number, gi_id)


def fault(number: int, inventory: Inventory | None = None, gi_id: int = 0xFFFFFFFF) -> Fault:
    found = fault_of(xid(number, gi_id), inventory or plain())
    assert found is not None
    return found


def hit(inventory: Inventory, health: Health) -> dict[str, list[tuple[str, str, str]]]:
    return {
        name: [(each.key, each.value, each.effect) for each in found]
        for name, device in inventory.devices.items()
        if (found := faults_of(device, health))
    }


@pytest.mark.parametrize("number", [13, 31, 43, 45, 68, 109])
def test_xids_of_programs_have_no_effect(number):
    assert fault(number) == Fault(Target(GPU), XID, str(number), "None")


@pytest.mark.parametrize("number", [48, 62, 63, 79, 95, 119])
def test_all_other_xids_keep_the_device_from_being_allocated(number):
    assert fault(number) == Fault(Target(GPU), XID, str(number), "NoSchedule")


def test_more_xids_are_ignored_by_flag_and_odd_parts_are_told():
    assert extra_ignored(" 94, ,95,x,-1,+7,1_0,18446744073709551616,") == (
        frozenset((94, 95)),
        ("x", "-1", "+7", "1_0", "18446744073709551616"),
    )
    assert fault_of(xid(94), plain(), IGNORED_XIDS | {94}) == Fault(Target(GPU), XID, "94", "None")


def test_only_ecc_errors_that_cannot_be_corrected_are_faults():
    assert fault_of(HealthEvent(GPU, DOUBLE_BIT_ECC_EVENT, 0), plain()) == Fault(
        Target(GPU), ECC, "double-bit", "NoSchedule"
    )
    assert fault_of(HealthEvent(GPU, SINGLE_BIT_ECC_EVENT, 0), plain()) is None


@pytest.mark.parametrize("gi_id", [0xFFFFFFFF, 0, 7])
def test_instance_ids_do_not_count_while_mig_mode_is_off(gi_id):
    inventory = plain()
    health = Health().raised(fault(48, inventory, gi_id), 0)
    assert hit(inventory, health) == {"gpu-0": [(XID, "48", "NoSchedule")]}


@pytest.mark.parametrize("dynamic_mig", [False, True])
def test_exactly_the_partition_hit_is_tainted(dynamic_mig):
    inventory = partitioned(dynamic_mig=dynamic_mig)
    health = Health().raised(fault(48, inventory, gi_id=5), 0)
    assert hit(inventory, health) == {"gpu-0-mig-3g71gb-9-4": [(XID, "48", "NoSchedule")]}


@pytest.mark.parametrize("dynamic_mig", [False, True])
def test_an_xid_of_the_whole_gpu_taints_every_partition_of_it(dynamic_mig):
    inventory = partitioned(dynamic_mig=dynamic_mig)
    health = Health().raised(fault(79, inventory), 0)
    of_gpu = {name for name in inventory.devices if name.startswith("gpu-0")}
    assert hit(inventory, health) == {name: [(XID, "79", "NoSchedule")] for name in of_gpu}
    assert len(of_gpu) >= 2


def test_an_event_of_an_unknown_partition_is_not_put_on_another():
    with pytest.raises(Unattributed, match=r"GPU instance 3 of GPU 0000:00:06\.0"):
        fault(48, partitioned(), gi_id=3)


def test_every_share_of_a_gpu_has_the_taint_of_its_device():
    inventory, off = plain(), gates.defaults()
    health = Health().raised(fault(48), 0)
    device = inventory.devices["gpu-0"]
    made = tainted(shared(published(device, off), Shares("4")), faults_of(device, health))
    assert made["allowMultipleAllocations"]
    assert made["taints"] == [{"key": XID, "value": "48", "effect": "NoSchedule"}]


def test_a_harmless_xid_does_not_hide_a_fatal_one():
    health = Health().raised(fault(48), 0).raised(fault(13), 5)
    assert hit(plain(), health) == {"gpu-0": [(XID, "48", "NoSchedule")]}
    health = Health().raised(fault(13), 0).raised(fault(48), 5)
    assert hit(plain(), health) == {"gpu-0": [(XID, "48", "NoSchedule")]}


def test_of_equal_effects_the_last_counts():
    health = Health().raised(fault(48), 0).raised(fault(79), 5)
    assert hit(plain(), health) == {"gpu-0": [(XID, "79", "NoSchedule")]}


def test_a_partition_has_the_worst_of_its_own_and_of_its_gpu():
    inventory = partitioned()
    health = Health().raised(fault(48, inventory, gi_id=5), 0).raised(fault(31, inventory), 1)
    assert hit(inventory, health) == {
        "gpu-0-mig-1g18gb-19-0": [(XID, "31", "None")],
        "gpu-0-mig-3g71gb-9-4": [(XID, "48", "NoSchedule")],
    }


def test_kinds_of_faults_stand_beside_each_other():
    health = Health().raised(fault(48), 0).raised(lost(GPU), 0).raised(unmonitored(GPU), 0)
    assert hit(plain(), health)["gpu-0"] == [
        (LOST, "", "NoSchedule"),
        ("gpu.nvidia.com/unmonitored", "", "None"),
        (XID, "48", "NoSchedule"),
    ]


# ── recovery ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fault_ends_a_minute_after_its_last_event_if_the_gpu_needs_nothing():
    health = Health().raised(fault(48), 0).raised(fault(48), 30)
    assert health.looked_at(GPU, WELL, 30 + NO_SCHEDULE_S - 1) == health
    assert not health.looked_at(GPU, WELL, 30 + NO_SCHEDULE_S).faults


def test_a_fault_stays_while_the_recovery_action_cannot_be_read():
    health = Health().raised(fault(48), 0)
    assert health.looked_at(GPU, Look(action=None, links=18), 10_000) == health


def test_a_fault_stays_while_the_gpu_needs_a_recovery_which_is_a_fault_too():
    health = Health().raised(fault(48), 0).looked_at(GPU, Look(action=1), 100)
    assert hit(plain(), health)["gpu-0"] == [
        ("gpu.nvidia.com/recovery-action", "gpu-reset", "NoSchedule"),
        (XID, "48", "NoSchedule"),
    ]
    assert health.looked_at(GPU, Look(action=1), 200) == health
    assert not health.looked_at(GPU, WELL, 200).faults


def test_what_was_missed_shows_in_the_recovery_action():
    health = Health().looked_at(GPU, Look(action=4), 0)
    assert health.of_gpu(GPU) == (needs_recovery(GPU, 4),)
    assert [each.value for each in health.of_gpu(GPU)] == ["drain-and-reset"]
    assert Health().looked_at(GPU, Look(action=99), 0).of_gpu(GPU)[0].value == "99"


def test_an_nvlink_error_ends_only_when_as_many_links_are_up_as_before():
    found = fault_of(xid(74), plain(), links=18)
    assert found is not None
    health = Health().raised(found, 0)
    assert health.looked_at(GPU, Look(0, links=17), 1000) == health
    assert not health.looked_at(GPU, WELL, 1000).faults


def test_a_program_s_xid_is_shown_for_some_seconds():
    health = Health().raised(fault(31), 0)
    assert health.looked_at(GPU, WELL, 9) == health
    assert not health.looked_at(GPU, Look(action=None), 10).faults
    assert XID in {each.key for each in health.looked_at(GPU, Look(action=1), 1000).of_gpu(GPU)}


def test_a_look_at_one_gpu_ends_no_fault_of_another():
    other = Fault(Target("0000:01:06.0"), XID, "48", "NoSchedule")
    health = Health().raised(fault(48), 0).raised(other, 0)
    assert health.looked_at(GPU, WELL, 1000).addresses == {"0000:01:06.0"}


def test_a_fault_that_comes_back_three_times_in_an_hour_stays_until_it_is_cleared():
    health, now = Health(), 0.0
    for _ in range(3):
        health = health.raised(fault(48), now)
        now += NO_SCHEDULE_S
        health = health.looked_at(GPU, WELL, now)
    assert hit(plain(), health) == {"gpu-0": [(XID, "48", "NoSchedule")]}
    assert health.looked_at(GPU, WELL, now + 10 * FLAP_S) == health
    health = health.cleared(lambda target: target.address == GPU)
    assert health == Health()
    assert not health.raised(fault(48), now).looked_at(GPU, WELL, now + NO_SCHEDULE_S).faults


def test_a_fault_that_comes_back_slowly_ends_each_time():
    health, now = Health(), 0.0
    for _ in range(5):
        health = health.raised(fault(48), now).looked_at(GPU, WELL, now + NO_SCHEDULE_S)
        assert not health.faults
        now += FLAP_S / 2 + 1


def test_a_storm_counts_once_for_the_flap_guard():
    health = Health()
    for at in range(100):
        health = health.raised(fault(48), at / 100)
    assert not health.looked_at(GPU, WELL, 1 + NO_SCHEDULE_S).faults


def test_unmonitored_ends_with_the_registration_alone():
    health = Health().raised(unmonitored(GPU), 0)
    assert health.looked_at(GPU, WELL, 1000) == health
    assert not health.monitored(GPU).faults


# ── what others are told ───────────────────────────────────────────────────────────────────────────────────────


def test_kubelet_hears_why_a_device_is_unhealthy():
    inventory = plain()
    health = Health().raised(fault(79), 0).raised(Fault(Target("0000:01:06.0"), XID, "31", "None"), 0)
    told = {each.device: each for each in verdicts(inventory, health, {})}
    assert (told["gpu-0"].verdict, told["gpu-0"].message) == ("unhealthy", "XID 79: a GPU error")
    assert (told["gpu-1"].verdict, told["gpu-1"].message) == (
        "healthy",
        "XID 31: an error of a program, not of the GPU",
    )
    blind = verdicts(inventory, Health().raised(unmonitored(GPU), 0), {})
    assert [each.verdict for each in blind] == ["unknown", "healthy"]


def test_kubelet_hears_of_a_lost_gpu_that_is_not_published_any_more():
    health = Health().raised(lost(GPU), 0)
    (told,) = verdicts(Inventory(), health, {"gpu-0": GPU, "gpu-1": "0000:01:06.0"})
    assert (told.device, told.verdict) == ("gpu-0", "unhealthy")


@pytest.mark.parametrize(("minor", "effects"), [(37, ["None", "NoSchedule"]), (34, ["NoSchedule"])])
def test_servers_that_know_no_effect_none_get_the_other_taints(minor, effects):
    inventory = plain()
    health = Health().raised(unmonitored(GPU), 0).raised(fault(48), 0)
    devices = [
        tainted(published(device, gates.defaults()), faults_of(device, health)) for device in inventory.devices.values()
    ]
    (spec,) = specs_for(devices, has_counters=False, is_counted=False, minor=minor)
    assert [taint["effect"] for device in spec.devices for taint in device.get("taints", ())] == effects
