"""Planning claims on GPUs that are partitioned on demand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra import claims
from nvdra.api.configs import MigDeviceConfig
from nvdra.checkpoint import Checkpoint, PreparedMig
from nvdra.claims import AlreadyPrepared, NeedsSteps, Ready, Refuse, Repair, RollBackFirst, Steps, WaitForClaim
from nvdra.gpu import Gpu, Inventory, LeftOut, MigDevice
from nvdra.gpu.driver import GpuDriver
from nvdra.gpu.partitions import unmanaged_partitions
from nvdra.gpu.steps import CreatePartition, LeaveMigMode
from nvdra.gpu.unpublished import withdrawn
from tests.unit.claims import world
from tests.unit.claims.world import (
    DYNAMIC,
    carried_out,
    claim,
    gpu_config,
    h200s,
    mig_plan,
    mig_prepared,
    partition,
    plan,
    started,
)
from tests.unit.gpu.scans import h200_scan, instance

ONE, TWO, THREE, FOUR, WHOLE = (
    partition("1g18gb", 19, 0),
    partition("2g35gb", 14, 0),
    partition("3g71gb", 9, 4),
    partition("4g71gb", 5, 0),
    partition("7g141gb", 0, 0),
)
UUID = h200_scan().uuid
ADDRESS = "0000:00:06.0"


def reason(outcome) -> str:
    assert isinstance(outcome, Refuse), outcome
    return outcome.reason


def conflicting(device: str, other: str) -> str:
    return f"unable to prepare claim new: requested device {device} is already allocated to different claim {other}"


def names(found: NeedsSteps) -> list[str]:
    assert isinstance(found, NeedsSteps), found
    steps = found.steps.apply
    return [step.spec.name if isinstance(step, CreatePartition) else f"whole {step.gpu.name}" for step in steps]


# --- steps ---


def test_a_partition_is_made_for_its_claim():
    found = mig_plan(claim("c1", ONE))
    spec = h200s().devices[ONE]
    assert found == NeedsSteps(claim("c1", ONE), found.groups, Steps((CreatePartition(spec.parent, ONE, 19, 0, spec),)))
    assert [(group.config, [device for _, device in group.members]) for group in found.groups] == [
        (MigDeviceConfig(), [spec])
    ]
    assert found.steps.resources == {ADDRESS}


def test_while_its_steps_are_under_way_the_checkpoint_holds_its_allocation_and_name():
    one = claim("c1", ONE, name="train")
    assert mig_plan(one).started == started(one)


def test_each_device_of_a_claim_takes_its_own_step_in_the_allocation_s_order():
    other = partition("1g18gb", 19, 3, minor=1)
    node = h200s(h200_scan(0), h200_scan(1), h200_scan(2))
    found = mig_plan(claim("c1", THREE, "gpu-2", other, ONE), inventory=node)
    assert names(found) == [THREE, other, ONE]
    assert found.steps.resources == {ADDRESS, "0000:01:06.0"}


def test_two_results_on_one_partition_make_it_once():
    found = mig_plan(claim("c1", ONE, ONE))
    assert names(found) == [ONE]
    sealed = carried_out(found)
    assert list(sealed.cdi_devices) == [f"c1-{ONE}"]
    assert len(sealed.answers) == 2


def test_a_gpu_in_one_piece_takes_no_step():
    assert isinstance(mig_plan(claim("c1", "gpu-0")), Ready)


def test_a_gpu_whose_mode_was_left_on_is_made_whole_first():
    left_on = h200s(h200_scan(mig_mode=(1, 1)))
    found = mig_plan(claim("c1", "gpu-0"), inventory=left_on)
    assert isinstance(found, NeedsSteps)
    assert found.steps == Steps((LeaveMigMode(left_on.devices["gpu-0"]),))
    assert found.steps.resources == {ADDRESS}


def test_without_the_gate_a_gpu_is_never_repartitioned():
    node = h200s(h200_scan(), h200_scan(1, instance(19, 0, 1)), dynamic=False)
    assert isinstance(plan(claim("c1", "gpu-0"), inventory=node), Ready)
    live = partition("1g18gb", 19, 0, minor=1)
    found = plan(claim("c1", live), inventory=node)
    assert isinstance(found, Ready)
    assert isinstance(found.groups[0].members[0][1], MigDevice)
    assert "MIG mode is on" in reason(plan(claim("c1", "gpu-1"), inventory=node))
    assert 'not found for device "gpu-0-mig-1g18gb-19-0"' in reason(plan(claim("c1", ONE), inventory=node))


def test_a_virtual_gpu_is_never_repartitioned():
    guest = h200s(h200_scan(0, instance(19, 0, 1), virtualization_mode=2))
    assert isinstance(mig_plan(claim("c1", ONE), inventory=guest), Ready)
    assert isinstance(mig_plan(claim("c1", TWO), inventory=guest), Refuse)


# --- what it leaves behind ---


def test_a_prepared_partition_says_where_it_lies():
    (device,) = carried_out(mig_plan(claim("c1", THREE))).answers
    assert (device.device, device.uuid) == (THREE, "MIG-9-4")
    assert device.mig == PreparedMig(device.uuid, 0, UUID, 5, 0)
    assert device.cdi_ids == (f"k8s.gpu.nvidia.com/claim=c1-{THREE}",)


def test_gpus_and_partitions_of_one_claim_are_sealed_together():
    node = h200s(h200_scan(0), h200_scan(1))
    sealed = carried_out(mig_plan(claim("c1", "gpu-1", ONE), inventory=node))
    assert [answer.device for answer in sealed.answers] == ["gpu-1", ONE]
    assert [answer.mig is None for answer in sealed.answers] == [True, False]
    assert {name: type(held.device) for name, held in sealed.cdi_devices.items()} == {
        f"c1-{ONE}": MigDevice,
        "c1-gpu-1": Gpu,
    }


# --- who holds what ---


def slices(device: str) -> set[int]:
    """Memory slices of the H200 that a device takes, from the measured table alone."""
    if device == "gpu-0":
        return set(range(8))
    profile_id, start = map(int, device.rsplit("-", 2)[1:])
    size = {19: 1, 20: 1, 14: 2, 15: 2, 9: 4, 5: 4, 0: 8}[profile_id]
    return set(range(start, start + size))


DEVICES = st.sampled_from(sorted(h200s().devices))


@given(DEVICES, DEVICES)
def test_devices_keep_each_other_away_exactly_if_they_share_a_slice(one, other):
    checkpoint = mig_prepared(claim("c1", one))
    found = mig_plan(claim("new", other), checkpoint)
    if slices(one) & slices(other):
        assert reason(found) == conflicting(other, "c1")
    else:
        assert isinstance(found, NeedsSteps)


@given(DEVICES, DEVICES)
def test_of_another_gpu_they_never_do(one, other):
    node = h200s(h200_scan(0), h200_scan(1))
    checkpoint = mig_prepared(claim("c1", one), inventory=node)
    elsewhere = other.replace("gpu-0", "gpu-1", 1)
    assert isinstance(mig_plan(claim("new", elsewhere), checkpoint, inventory=node), NeedsSteps | Ready)


def test_a_place_is_held_whatever_text_the_profile_has():
    # The same profile as another release of the driver called it.
    checkpoint = mig_prepared(claim("c1", ONE))
    old = replace(
        checkpoint.entries["c1"],
        status=checkpoint.entries["c1"].status.replace(ONE.encode(), b"gpu-0-mig-1g-18gb-19-0"),
    )
    (group,) = old.prepared
    (device,) = group.devices
    old = replace(old, prepared=(replace(group, devices=(replace(device, device="gpu-0-mig-1g-18gb-19-0"),)),))
    assert reason(mig_plan(claim("new", ONE), Checkpoint("boot", {"c1": old}))) == conflicting(ONE, "c1")


def test_a_place_of_another_profile_with_the_same_text_is_another_device():
    same_text = partition("1g18gb", 20, 0)
    assert 'not found for device "gpu-0-mig-1g18gb-20-0"' in reason(mig_plan(claim("new", same_text)))


@pytest.mark.parametrize("minor", [1, 5])
def test_a_partition_conflicts_on_the_checkpoint_s_gpu_after_its_minor_changed(minor):
    checkpoint = mig_prepared(claim("c1", TWO))
    renumbered = h200s(h200_scan(0, uuid="GPU-new"), h200_scan(minor, instance(14, 0, 2), uuid=UUID))
    there = partition("1g18gb", 19, 1, minor=minor)
    assert reason(mig_plan(claim("new", there), checkpoint, inventory=renumbered)) == conflicting(there, "c1")
    assert isinstance(
        mig_plan(claim("new", partition("1g18gb", 19, 2, minor=minor)), checkpoint, inventory=renumbered), NeedsSteps
    )
    assert unmanaged_partitions(renumbered, checkpoint) == ()


def test_what_another_release_holds_by_mig_keeps_the_whole_gpu():
    checkpoint = Checkpoint("boot", {"c1": world.unsupported(claim("c1", ONE), "mig")})
    assert reason(mig_plan(claim("new", THREE), checkpoint)) == conflicting(THREE, "c1")
    assert withdrawn(h200s(), checkpoint) == {"gpu-0"}


@pytest.mark.parametrize("lost", ["gpu-0", TWO])
def test_the_place_of_a_file_whose_checkpoint_was_lost_is_refused_under_every_name(lost):
    assert reason(mig_plan(claim("new", ONE), unsettled={lost: "c1"})) == (
        f"unable to prepare claim new: requested device {ONE} may still be in use by claim c1: "
        "the checkpoint was lost and the API server has not said yet what became of that claim"
    )
    assert isinstance(mig_plan(claim("new", THREE), unsettled={TWO: "c1"}), NeedsSteps)
    assert isinstance(mig_plan(claim("c1", ONE), unsettled={lost: "c1"}), NeedsSteps)


# --- administrators ---


ADMIN = {"device": ONE, "adminAccess": True}
SEES = {"device": "gpu-0", "adminAccess": True}


def test_a_partition_is_not_made_for_an_administrator_and_asking_again_helps_nothing():
    for checkpoint in (None, mig_prepared(claim("c1", ONE))):
        found = mig_plan(claim("new", ADMIN, THREE), checkpoint)
        assert found == Refuse(
            "prepare devices failed: request r0 has adminAccess: true, which never changes a GPU and is given for full "
            "GPUs and for MIG devices made beforehand, not for a MIG device made on demand (feature gate DynamicMIG)",
            permanent=True,
        )


def test_a_partition_made_beforehand_is_given_to_an_administrator_too():
    node = h200s(h200_scan(0, instance(19, 0, 1)), dynamic=False)
    checkpoint = world.prepared(claim("c1", ONE), inventory=node)
    assert isinstance(plan(claim("new", ADMIN), checkpoint, inventory=node), Ready)


def test_an_administrator_sees_a_partitioned_gpu_and_nothing_is_done_to_it():
    divided = h200s(h200_scan(0, instance(19, 0, 1)))
    checkpoint = mig_prepared(claim("c1", ONE))
    assert isinstance(mig_plan(claim("new", SEES), checkpoint, inventory=divided), Ready)
    beside = mig_plan(claim("new", SEES, THREE), checkpoint, inventory=divided)
    assert names(beside) == [THREE]
    left_on = h200s(h200_scan(0, mig_mode=(1, 1)))
    assert isinstance(mig_plan(claim("new", SEES), inventory=left_on), Ready)
    assert names(mig_plan(claim("new", "gpu-0"), inventory=left_on)) == ["whole gpu-0"]


@pytest.mark.parametrize("wanted", [ONE, WHOLE, "gpu-0"])
def test_an_administrator_s_claim_keeps_nobody_waiting(wanted):
    checkpoint = mig_prepared(claim("c1", SEES))
    alone = mig_plan(claim("new", wanted))
    assert mig_plan(claim("new", wanted), checkpoint) == alone
    begun = Checkpoint("boot", {"c1": started(claim("c1", SEES))})
    assert mig_plan(claim("new", wanted), begun, in_work={"c1"}) == alone


def test_an_administrator_waits_for_nobody():
    begun = Checkpoint("boot", {"c1": started(claim("c1", ONE))})
    for in_work in (frozenset[str](), frozenset({"c1"})):
        assert isinstance(mig_plan(claim("new", SEES), begun, in_work=in_work), Ready)


def test_a_partition_that_another_release_gave_an_administrator_is_answered_again():
    one = claim("c1", ONE)
    checkpoint = world.administered(mig_prepared(one), one)
    standing = h200s(h200_scan(0, instance(19, 0, 1)))
    assert mig_plan(world.claim_of_admin(one), checkpoint, inventory=standing) == AlreadyPrepared(
        claims.answers(checkpoint.entries["c1"])
    )


def test_a_partition_that_exists_for_an_admin_claim_is_not_created_again():
    one = claim("c1", ONE)
    checkpoint = world.administered(mig_prepared(one), one)
    standing = h200s(h200_scan(0, instance(19, 0, 1)))
    found = mig_plan(claim("new", ONE, THREE), checkpoint, inventory=standing)
    assert names(found) == [THREE]
    assert list(found.steps.facts) == [step.device for step in found.steps.shared] == [ONE]
    assert [step.uuid for step in found.steps.shared] == ["MIG-19-0"]
    assert found.steps.resources == {ADDRESS}
    assert [answer.uuid for answer in carried_out(found).answers] == ["MIG-19-0", "MIG-9-4"]
    # Whoever used it may have taken it away: an administrator's claim is no word for it.
    assert names(mig_plan(claim("new", ONE), checkpoint)) == [ONE]


# --- what stands in the way ---


@pytest.mark.parametrize("wanted", [ONE, TWO, "gpu-0"])
def test_a_claim_in_work_on_the_place_is_waited_for(wanted):
    checkpoint = Checkpoint("boot", {"c1": started(claim("c1", ONE))})
    assert mig_plan(claim("new", wanted), checkpoint, in_work={"c1"}) == WaitForClaim("c1")
    assert isinstance(mig_plan(claim("new", THREE), checkpoint, in_work={"c1"}), NeedsSteps)


@pytest.mark.parametrize("wanted", [ONE, TWO, "gpu-0"])
def test_a_claim_that_was_begun_and_that_nobody_works_on_is_rolled_back_first(wanted):
    begun = claim("c1", ONE)
    checkpoint = Checkpoint("boot", {"c1": started(begun)})
    assert mig_plan(claim("new", wanted), checkpoint) == RollBackFirst(begun.ref, checkpoint.entries["c1"])


def test_a_claim_being_unprepared_is_rolled_back_first_at_the_checkpoint_s_placement():
    checkpoint = mig_prepared(claim("c1", ONE))
    unprepared = replace(checkpoint.entries["c1"], state="PrepareStarted")
    renumbered = h200s(h200_scan(5, uuid=UUID))
    wanted = claim("new", partition("2g35gb", 14, 0, minor=5))
    found = mig_plan(wanted, Checkpoint("boot", {"c1": unprepared}), inventory=renumbered)
    assert found == RollBackFirst(claim("c1").ref, unprepared)


def test_its_own_entry_that_was_begun_is_rolled_back_first():
    one = claim("c1", ONE)
    checkpoint = Checkpoint("boot", {"c1": started(one)})
    assert mig_plan(one, checkpoint) == RollBackFirst(one.ref, checkpoint.entries["c1"])


def test_allocated_anew_under_the_same_uid_the_former_partition_goes_first():
    before, after = claim("c1", ONE), claim("c1", THREE)
    checkpoint = mig_prepared(before)
    assert mig_plan(after, checkpoint) == RollBackFirst(after.ref, checkpoint.entries["c1"])


def test_what_cannot_be_rolled_back_is_refused_with_the_reason():
    checkpoint = Checkpoint("boot", {"c1": started(claim("c1", "gpu-0", "gpu-vfio-0"))})
    assert "its GPUs (gpu-vfio-0) may be bound to vfio-pci" in reason(mig_plan(claim("new", ONE), checkpoint))


def test_a_begun_claim_that_changed_nothing_is_not_in_the_way():
    checkpoint = Checkpoint("boot", {"c1": started(claim("c1", "gpu-0"))})
    assert isinstance(mig_plan(claim("new", ONE), checkpoint), NeedsSteps)


# --- partitions nobody here made ---


def test_what_overlaps_a_partition_of_somebody_else_is_refused_with_what_to_do():
    node = h200s(h200_scan(0, instance(14, 0, 2)))
    assert mig_plan(claim("new", ONE), inventory=node) == Refuse(
        f"unable to prepare claim new: requested device {ONE} overlaps a partition that this driver did not make: "
        f"GPU instance 1 (profile 14, memory slices 0 to 1) of gpu-0 ({UUID}); "
        "destroy it (nvidia-smi mig -dci, -dgi) or leave the device to who made it",
        rescan=True,
    )
    assert "memory slice 3)" in reason(
        mig_plan(claim("new", FOUR), inventory=h200s(h200_scan(0, instance(19, 3, 1, compute=None))))
    )
    assert reason(mig_plan(claim("new", "gpu-0"), inventory=node)).startswith(
        "unable to prepare claim new: requested device gpu-0 overlaps a partition"
    )
    assert isinstance(mig_plan(claim("new", THREE), inventory=node), NeedsSteps)


# --- asked again ---


def standing(*instances) -> Inventory:
    return h200s(h200_scan(0, *instances))


def test_asked_again_it_answers_the_same_while_the_partition_stands():
    one = claim("c1", ONE)
    checkpoint = mig_prepared(one)
    node = standing(instance(19, 0, 1))
    done = AlreadyPrepared(claims.answers(checkpoint.entries["c1"]))
    assert mig_plan(one, checkpoint, inventory=node) == done
    assert claims.answer_from_checkpoint(GpuDriver(DYNAMIC), one.ref, node, checkpoint, has_file=True) == done


def test_a_lost_file_of_a_partition_is_written_again():
    one = claim("c1", ONE)
    checkpoint = mig_prepared(one)
    found = mig_plan(one, checkpoint, inventory=standing(instance(19, 0, 1)), has_file=False)
    assert isinstance(found, Repair)
    (held,) = found.sealed.cdi_devices.values()
    device = held.device
    assert (device.name, device.uuid, device.gi_id) == (ONE, "MIG-19-0", 1)


@pytest.mark.parametrize("minor", [0, 5])
def test_a_file_that_is_written_again_names_its_devices_as_kubelet_was_told(minor):
    one = claim("c1", ONE)
    checkpoint = mig_prepared(one)
    # The GPU has another minor number since a driver reload.
    node = h200s(h200_scan(minor, instance(19, 0, 1), uuid=UUID))
    found = mig_plan(one, checkpoint, inventory=node, has_file=False)
    assert isinstance(found, Repair)
    ((name, held),) = found.sealed.cdi_devices.items()
    assert found.sealed.answers[0].cdi_ids == (f"k8s.gpu.nvidia.com/claim={name}",)
    assert held.device.parent.minor == minor


def test_a_partition_that_somebody_destroyed_is_looked_for_once_more_and_refused():
    one = claim("c1", ONE)
    found = mig_plan(one, mig_prepared(one), inventory=h200s())
    assert found == Refuse(
        f"unable to prepare claim c1: device {ONE} was prepared as MIG-19-0 and is gone: somebody destroyed the "
        "partition: delete the pods that use this claim, then it can be prepared anew",
        rescan=True,
    )


def test_while_its_gpu_cannot_be_read_it_is_answered_from_the_checkpoint():
    one = claim("c1", ONE)
    checkpoint = mig_prepared(one)
    done = AlreadyPrepared(claims.answers(checkpoint.entries["c1"]))
    assert mig_plan(one, checkpoint, inventory=Inventory(unread="no driver is loaded")) == done
    lost = LeftOut(0, 0, UUID, "nvmlDeviceGetName", 15, "GPU is lost")
    gone = h200s(h200_scan(1), left_out=(lost,))
    assert mig_plan(one, checkpoint, inventory=gone) == done


def test_a_partition_made_beforehand_that_changed_its_uuid_is_refused():
    node = h200s(h200_scan(0, instance(19, 0, 1)), dynamic=False)
    one = claim("c1", ONE)
    checkpoint = world.prepared(one, inventory=node)
    (seen,) = h200_scan(0, instance(19, 0, 1)).mig.instances
    anew = replace(seen, compute=(replace(seen.compute[0], uuid="MIG-new"),))
    assert "was prepared as MIG-19-0 and is MIG-new now" in reason(
        plan(one, checkpoint, inventory=h200s(h200_scan(0, anew), dynamic=False))
    )
    assert "was prepared as MIG-19-0 and is gone" in reason(
        plan(one, checkpoint, inventory=h200s(h200_scan(0, mig_mode=(1, 1)), dynamic=False))
    )


# --- configs ---


def mig_config(parameters=None, **more):
    return gpu_config({"kind": "MigDeviceConfig", **(parameters or {})}, **more)


@pytest.mark.parametrize(("dynamic", "word"), [(True, "migdyn"), (False, "mig")])
def test_a_config_of_another_kind_of_device_is_refused_with_the_go_driver_s_words(dynamic, word):
    node = h200s(h200_scan(0, instance(19, 0, 1)), dynamic=dynamic)
    one = claim("c1", ONE, config=[gpu_config(requests=["r0"])])
    assert plan(one, inventory=node, gates=DYNAMIC) == Refuse(
        f'prepare devices failed: cannot apply GpuConfig to device "{ONE}" of type "{word}" (request: r0)',
        permanent=True,
    )


def test_configs_fall_to_the_devices_they_fit():
    node = h200s(h200_scan(0), h200_scan(1))
    both = [gpu_config(), mig_config()]
    found = mig_plan(claim("c1", ONE, "gpu-1", config=both), inventory=node)
    assert [[type(group.config).__name__, *(d.name for _, d in group.members)] for group in found.groups] == [
        ["MigDeviceConfig", ONE],
        ["GpuConfig", "gpu-1"],
    ]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            {"sharing": {"strategy": "MPS"}},
            'error validating GPU config: "MPS" is selected as the GPU sharing strategy, but the "MPSSupport" feature '
            "gate is not enabled",
        ),
        (
            {"sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {}}},
            "error getting opaque device configs: error decoding config parameters: strict decoding error: "
            'unknown field "sharing.timeSlicingConfig"',
        ),
    ],
)
def test_a_mig_config_that_cannot_be_taken_is_refused_before_anything_is_made(parameters, text):
    found = mig_plan(claim("c1", ONE, config=[mig_config(parameters)]))
    assert found == Refuse(f"prepare devices failed: {text}", permanent=True)
